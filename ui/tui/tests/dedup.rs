//! The view of what a stack stores for nothing.

use std::collections::BTreeMap;

use icecore::chain::Ranges;
use icecore::dedup::{Cut, Plan, Victim};
use icecore::{Kind, Obstacle, PageRange};

use super::*;
use crate::tui::surplus::{Found, Freed, Layers, News, Stored};

/// A plan by which each layer of `dirs` gives the first half of its pages.
fn plan(strategy: &'static str, dirs: &[&str], lossless: bool) -> Plan {
    let cut = |dir: &&str| Cut {
        dir: dir.into(),
        pagemap: PagemapId::Task(2207),
        pages_id: 1,
        ranges: Ranges::from(PageRange::of_pages(0, 180)),
        offsets: Ranges::from(PageRange::of_pages(0, 180)),
        mappings: Vec::new(),
        pages: 180,
        bytes: 180 << 12,
    };
    let cuts: Vec<Cut> = dirs.iter().map(cut).collect();
    let victim = |dir: &&str| Victim {
        dir: dir.into(),
        name: dir.rsplit('/').next().unwrap().into(),
        state: State::Complete,
    };
    Plan {
        dir: "/img/r/3".into(),
        strategy,
        lossless,
        shares: Vec::new(),
        victims: dirs.iter().filter(|_| !lossless).map(victim).collect(),
        pages: cuts.iter().map(|cut| cut.pages).sum(),
        bytes: cuts.iter().map(|cut| cut.bytes).sum(),
        cuts,
        obstacles: Vec::new(),
        warnings: Vec::new(),
    }
}

fn found(plan: Plan) -> News {
    let n = icecore::dedup::STRATEGIES
        .iter()
        .position(|s| s.name() == plan.strategy)
        .unwrap();
    let parts = |cut: &Cut| (cut.dir.clone(), [vec![4; 40], vec![1; 20]].concat());
    let pages: BTreeMap<PathBuf, Vec<u64>> = plan.cuts.iter().map(parts).collect();
    let range = |n: u64| Freed {
        layer: "2".into(),
        whose: "2207".into(),
        mapping: "[heap]".into(),
        range: PageRange::of_pages(0x55d2_c000_0000 + (n << 20), 40 - n),
        bytes: (40 - n) << 12,
    };
    let ranges = if plan.cuts.is_empty() { 0 } else { 30 };
    let found = Found {
        lost: plan.lost_layers().map(|v| v.name.clone()).collect(),
        plan: Arc::new(plan),
        ranges: (0..ranges).map(range).collect(),
        more: (0, 0),
        pages,
    };
    News::Plan(n, Ok(Arc::new(found)))
}

/// Opens the view of the selected layer, with all that there is to know of it.
pub(super) fn known(model: &mut Model) {
    key(model, KeyCode::Char('D'));
    let dir = model.surplus.as_ref().unwrap().dir.clone();
    let stored = |(n, from): (usize, usize)| Stored {
        dir: format!("/img/r/{}", 3 - n).into(),
        name: (3 - n).to_string(),
        pages: (0..80).map(|at| if at < from { 0 } else { 4 }).collect(),
    };
    let layers = Layers {
        layers: [30, 10, 0].into_iter().enumerate().map(stored).collect(),
        pages: 80 * 4,
    };
    let mut content = plan("content", &["/img/r/1"], true);
    content.obstacles.push(Obstacle::new(
        Kind::Unsupported,
        "Files in /img/r/1 cannot share blocks: the file system has no reflinks",
        "move the layers to xfs or btrfs",
    ));
    let superseded = plan("superseded", &["/img/r/2", "/img/r/1"], false);
    let news = [
        News::Layers(Ok(Arc::new(layers))),
        found(plan("unchanged", &["/img/r/3", "/img/r/2"], true)),
        found(plan("zero", &[], true)),
        found(content),
        found(superseded),
    ];
    for news in news {
        update(model, Msg::Surplus(dir.clone(), news));
    }
}

/// The strategies of the plan that Enter asks for.
fn asked(model: &mut Model) -> Vec<&'static str> {
    let effects = key(model, KeyCode::Enter);
    let [Effect::Plan(_, Wish::Dedup { plans, .. })] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    plans.iter().map(|plan| plan.strategy).collect()
}

#[test]
fn what_costs_no_layer_anything_is_chosen_until_the_user_says_otherwise() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Enter);
    known(&mut model);
    assert_eq!(asked(&mut model), ["unchanged"]);
    for _ in 0..3 {
        key(&mut model, KeyCode::Down);
    }
    key(&mut model, KeyCode::Char(' '));
    assert_eq!(asked(&mut model), ["unchanged", "superseded"]);
    key(&mut model, KeyCode::Char(' '));
    assert_eq!(asked(&mut model), ["unchanged"]);
    // With none chosen, it is the one that is looked at.
    for _ in 0..3 {
        key(&mut model, KeyCode::Up);
    }
    key(&mut model, KeyCode::Char(' '));
    for _ in 0..3 {
        key(&mut model, KeyCode::Down);
    }
    assert_eq!(asked(&mut model), ["superseded"]);
}

#[test]
fn a_plan_that_gives_up_what_a_live_process_stands_on_says_so() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Enter);
    known(&mut model);
    assert!(text(&model).contains("NOT restorable any more: 2, 1 "));
    assert!(!text(&model).contains("STANDS ON"));
    let Msg::Processes(survey) = survey() else {
        unreachable!()
    };
    let rolled_back = Survey {
        tracked: [(2207, Some("c2".to_owned()))].into(),
        ..survey
    };
    let effects = update(&mut model, Msg::Processes(rolled_back));
    assert!(
        effects.contains(&Effect::Scan),
        "what is owned is counted again"
    );
    let shown = text(&model);
    assert!(
        shown.contains("2207 STANDS ON 2; NOT restorable any more: 2, 1 "),
        "{shown}"
    );
}

#[test]
fn what_is_not_possible_is_not_chosen_and_says_why() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Enter);
    known(&mut model);
    for (downs, why) in [
        (1, "zero: it finds nothing to free here"),
        (1, "content: it is not possible here"),
        (2, "unneeded: its plan is still being made"),
    ] {
        for _ in 0..downs {
            key(&mut model, KeyCode::Down);
        }
        assert!(key(&mut model, KeyCode::Char(' ')).is_empty());
        assert!(text(&model).contains(why), "{why}");
    }
    assert_eq!(asked(&mut model), ["unchanged"]);
}

#[test]
fn plans_are_made_while_somebody_looks_and_anew_when_the_layers_change() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Enter);
    known(&mut model);
    let dir = model.surplus.as_ref().unwrap().dir.clone();
    let asks = Effect::Surplus(Some(dir.clone()));
    let report = Report {
        text: "dedup 3: 1.81 MiB freed (465 pages)".into(),
        warnings: vec![],
        result: Made::Room,
    };
    let effects = update(&mut model, Msg::Done(JOB, Ok(report)));
    assert!(effects.contains(&asks), "{effects:?}");
    assert!(text(&model).contains("1.81 MiB freed"), "a toast says it");
    assert!(text(&model).contains("is being found out"));
    // The layer below is another one now.
    let effects = key(&mut model, KeyCode::Char('['));
    assert!(matches!(effects.as_slice(), [Effect::Surplus(Some(below)), ..] if *below != dir));
    let effects = key(&mut model, KeyCode::Esc);
    assert!(effects.contains(&Effect::Surplus(None)), "{effects:?}");
    assert!(model.surplus.is_none());
    // What comes late is nobody's.
    update(
        &mut model,
        Msg::Surplus(dir, found(plan("zero", &[], true))),
    );
    assert!(model.surplus.is_none());
}
