//! Counting a tree, and following its rule.

use icecore::Pid;
use icecore::dump::{Auto, Moment, Past, Prediction, Present, predictions};

use super::jobs::apply;
use crate::format::duration;
use crate::tui::board::End;
use crate::tui::follow::Order;
use crate::tui::kept;
use crate::tui::message::{Count, Effect, Wish};
use crate::tui::model::Model;
use crate::tui::popup::{Mark, Preview};

/// Takes a count in, and makes the dump that a rule wants.
pub(super) fn counted(model: &mut Model, pid: Pid, count: Count, effects: &mut Vec<Effect>) {
    let moment = Moment {
        at: model.clock,
        dirty: count.dirty,
        resident: count.resident,
        cpu: count.cpu,
    };
    model.facts.counted |= model.watched == Some(pid);
    let expected = expected(model, pid, &count);
    let live = model.live.entry(pid.as_raw()).or_default();
    live.expected = expected;
    live.take(count);
    let Some(tree) = model.running(pid) else {
        return;
    };
    let (comm, start_time) = (tree.comm.clone(), tree.start_time);
    let Some(follow) = model.follows.get_mut(&pid.as_raw()) else {
        return;
    };
    // One after the other, and none any more for who leaves.
    if follow.job.is_some() || model.leaving {
        return;
    }
    let budget = follow.budget;
    let Some(clause) = follow.auto.as_mut().and_then(|auto| auto.due(&moment)) else {
        return;
    };
    follow.said = format!("dumps now: {clause}");
    let newest = model.layers_of(pid, &comm).first().map(|l| l.dir.clone());
    let wish = Wish::Dump {
        root: pid,
        comm,
        start_time: Some(start_time),
        parent: newest,
        kill: false,
        allowing: false,
        rule: Some(budget),
    };
    let id = apply(model, wish, effects);
    if let Some(job) = model.board.job(id) {
        job.by_rule = Some(pid);
    }
    if let Some(follow) = model.follows.get_mut(&pid.as_raw()) {
        follow.job = Some(id);
    }
}

/// What a dump made now would be, in every way that there is.
fn expected(model: &Model, pid: Pid, count: &Count) -> Vec<Prediction> {
    let comm = model.running(pid).map(|tree| tree.comm.clone());
    let own = model.layers_of(pid, comm.as_deref().unwrap_or_default());
    let mut past: Vec<Past> = own.iter().filter_map(|layer| layer.figures.past).collect();
    past.reverse();
    let present = Present {
        resident: count.resident,
        // Armed for no layer, the tracker proves nothing about the one below.
        dirty: count.since.as_ref().map(|_| count.dirty),
        not_tracked: count.not_tracked,
        shared: count.shared,
        has_parent: !own.is_empty(),
    };
    let mut all = predictions(&present, &past);
    if all.iter().any(|prediction| prediction.freeze.is_none()) {
        let mut others: Vec<_> = model.layers().collect();
        others.sort_by_key(|layer| layer.created);
        let others: Vec<Past> = others.iter().filter_map(|l| l.figures.past).collect();
        for prediction in &mut all {
            prediction.learn_from(&others);
        }
    }
    all
}

/// A dump that a rule wanted has ended.
pub(super) fn rule_done(model: &mut Model, root: Pid, end: End, text: &str) {
    let now = model.clock;
    let Some(follow) = model.follows.get_mut(&root.as_raw()) else {
        return;
    };
    follow.job = None;
    let Some(auto) = &mut follow.auto else { return };
    follow.said = match end {
        End::Done => {
            auto.made(now);
            follow.held = false;
            text.to_owned()
        }
        End::Cancelled | End::Failed => {
            let pause = auto.failed(now);
            format!("{text}; again in {} s at the earliest", pause.as_secs())
        }
    };
}

/// A dump that a rule wanted would have frozen the tree for longer than allowed. That is said once, and
/// the view of the tree shows it as long as it is so.
pub(super) fn held_back(model: &mut Model, root: Pid, text: &str) {
    let now = model.clock;
    let Some(follow) = model.follows.get_mut(&root.as_raw()) else {
        return;
    };
    follow.job = None;
    let Some(auto) = &mut follow.auto else { return };
    let pause = auto.failed(now).as_secs();
    follow.said = format!("{text}; again in {pause} s at the earliest");
    if !std::mem::replace(&mut follow.held, true) {
        model.note(Mark::Plain, format!("the rule of process {root}: {text}"));
    }
}

/// A preview with a warning for each tree that it would freeze for longer than its budget.
pub(super) fn measured(model: &Model, mut preview: Preview) -> Preview {
    for (root, prediction) in &preview.freezes {
        let follow = model.follows.get(&root.as_raw());
        let budget = follow.and_then(|follow| follow.budget);
        let (Some(budget), Some(freeze)) = (budget, prediction.freeze) else {
            continue;
        };
        if prediction.exceeds(budget) {
            let text = format!(
                "process {root} would stand still for ~{}: its budget is {}, which holds dumps by rule back",
                duration(freeze.expected),
                duration(budget)
            );
            preview.lines.insert(0, (Mark::Warn, text));
        }
    }
    preview
}

/// Takes an order in; a rule is followed from now on, for which the tree has to be tracked.
pub(super) fn order(model: &mut Model, root: Pid, order: Order, effects: &mut Vec<Effect>) {
    let now = model.clock;
    let start_time = model.running(root).map_or(0, |tree| tree.start_time);
    if order == Order::Rule(None) {
        kept::withdraw(model, root);
    }
    let follow = model.follows.entry(root.as_raw()).or_default();
    follow.start_time = start_time;
    follow.held = false;
    let text = match order {
        Order::Rule(None) => {
            follow.auto = None;
            follow.said.clear();
            format!("no rule for process {root} any more")
        }
        Order::Rule(Some(rule)) => {
            let text = format!("dumps process {root} {rule}, while this is open");
            follow.auto = Some(Auto::new(rule, now));
            follow.said.clear();
            model.watched = Some(root);
            effects.push(Effect::Attach(root));
            text
        }
        Order::Budget(budget) => {
            follow.budget = budget;
            match budget {
                Some(budget) => {
                    let budget = duration(budget);
                    format!("no dump by rule may freeze process {root} for longer than {budget}")
                }
                None => format!("dumps by rule may freeze process {root} for any time"),
            }
        }
    };
    model.note(Mark::Plain, text);
}

/// Begins to track the selected tree, or ends it.
pub(super) fn track(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some((pid, _)) = model.target() else {
        return;
    };
    if model.tracked.contains_key(&pid.as_raw()) {
        model.watched = None;
        model.live.remove(&pid.as_raw());
        model.follows.remove(&pid.as_raw());
        model.note(
            Mark::Plain,
            format!("process {pid} is not tracked any more"),
        );
        effects.push(Effect::Detach(pid));
    } else {
        model.watched = Some(pid);
        effects.push(Effect::Attach(pid));
    }
}

/// Ends the rules of trees that have ended.
pub(super) fn forget(model: &mut Model) {
    // One that was restored just now is listed a little later.
    let select = model.select.map(|pid| pid.as_raw());
    let gone: Vec<i32> = model
        .follows
        .iter()
        .filter(|(pid, follow)| {
            if select == Some(**pid) {
                return false;
            }
            let now = model.running(Pid::from_raw(**pid));
            now.is_none_or(|tree| tree.start_time != follow.start_time)
        })
        .map(|(pid, _)| *pid)
        .collect();
    for pid in gone {
        if let Some(follow) = model.follows.remove(&pid)
            && let Some(auto) = follow.auto
        {
            let text = format!(
                "process {pid} has ended, and with it its rule: {}",
                auto.rule()
            );
            model.note(Mark::Plain, text);
        }
    }
}
