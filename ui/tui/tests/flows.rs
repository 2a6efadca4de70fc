//! What keys and the mouse lead to.

use std::path::Path;

use super::*;
use crate::tui::action;
use crate::tui::help::Help;
use crate::tui::inquiry::{Inquiry, Sought};

#[test]
fn a_restore_that_kills_has_cancel_focused() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Enter);
    assert_eq!(model.focus, Focus::Stacks);
    let effects = key(&mut model, KeyCode::Char('r'));
    let [Effect::Plan(_, wish)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let ends = Displaced {
        root: Pid::from_raw(2207),
        start_time: 77,
        keep: true,
    };
    assert!(matches!(wish, Wish::Restore { displaced, .. } if *displaced == Some(ends)));
    let mut preview = Preview::new("Restore");
    preview.offer("Kill and restore", wish.clone(), false);
    update(&mut model, Msg::Planned(JOB, Ok(preview)));
    assert!(key(&mut model, KeyCode::Enter).is_empty());
    assert!(model.popup.is_none());
}

#[test]
fn undo_goes_back_to_the_layer_that_was_kept_and_only_then() {
    let mut model = model(RICH, (120, 35));
    assert!(
        key(&mut model, KeyCode::Char('u')).is_empty(),
        "nothing to undo"
    );
    let back = |kept| {
        Msg::Done(
            JOB,
            Ok(Report {
                text: "runs again".into(),
                warnings: vec![],
                result: Made::Tree {
                    root: Pid::from_raw(2207),
                    start_time: Some(77),
                    kept,
                },
            }),
        )
    };
    update(&mut model, back(Some("/img/r/4".into())));
    let effects = key(&mut model, KeyCode::Char('u'));
    let [Effect::Plan(_, Wish::Restore { dir, displaced, .. })] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(dir, &PathBuf::from("/img/r/4"));
    assert!(displaced.as_ref().is_some_and(|tree| tree.keep));
    update(&mut model, back(None));
    assert!(
        key(&mut model, KeyCode::Char('u')).is_empty(),
        "nothing was kept"
    );
}

#[test]
fn layers_are_filtered_and_what_is_just_made_shows_nevertheless() {
    let mut model = model(RICH, (120, 35));
    let write = |model: &mut Model, text: &str| {
        for c in text.chars() {
            key(model, KeyCode::Char(c));
        }
    };
    let shown = |model: &Model| -> Vec<String> {
        let layers = model.stacks.iter().filter_map(StackRow::layer);
        layers.map(|layer| layer.name.clone()).collect()
    };
    model.focus = Focus::Stacks;
    write(&mut model, "/rds");
    assert_eq!(shown(&model).len(), 4, "the name of the stack has it");
    write(&mut model, " zz");
    assert!(shown(&model).is_empty());
    assert!(text(&model).contains("No layer has this text"));
    assert_eq!(model.layers().count(), 4, "the others are still known");
    key(&mut model, KeyCode::Enter);
    model.select_layer = Some("/img/r/4".into());
    update(&mut model, stacks());
    assert_eq!(model.layer().map(|l| l.name.as_str()), Some("4"));
    assert_eq!(shown(&model).len(), 4);
}

#[test]
fn colours_of_the_map_change_when_they_are_computed_and_the_cursor_stays_on_its_page() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Map;
    (0..5).for_each(|_| drop(key(&mut model, KeyCode::Down)));
    let page = model.page();
    let effects = key(&mut model, KeyCode::Char('C'));
    let [Effect::LoadMap(dir, Coloring::Changed)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert!(
        text(&model).contains("Who owns each page of 3"),
        "until then"
    );
    update(&mut model, map("3"));
    assert!(text(&model).contains("Who owns each page of 3"), "too late");
    let owners = model.map.clone().unwrap();
    let classes = vec![Some(1); usize::try_from(owners.total).unwrap()];
    let changed = owners.colored(Coloring::Changed, &classes);
    update(&mut model, Msg::Map(dir.clone(), Ok(Arc::new(changed))));
    let screen = text(&model);
    assert!(screen.contains("What changed in 3"), "{screen}");
    assert!(screen.contains("s rewritten, same"), "{screen}");
    assert_eq!(model.page(), page);
    for (keys, size) in [("+++", 1), ("-", 5), ("---", 5)] {
        for c in keys.chars() {
            key(&mut model, KeyCode::Char(c));
        }
        let pixel = model.pixels.pages_per_pixel;
        assert!(
            (page..page + pixel).contains(&model.page())
                || (model.page()..model.page() + pixel).contains(&page)
        );
        assert!(pixel <= size, "{pixel} {size}");
    }
}

#[test]
fn a_zoomed_map_names_what_it_shows_and_counts_no_more_than_that() {
    let mut model = model(RICH, (120, 35));
    let mut map = (**model.map.as_ref().unwrap()).clone();
    let last = map.runs[map.runs.len() - 2];
    let range = icecore::PageRange::of_pages(last.addr, last.pages);
    map.mappings
        .push((0, range, "/usr/lib/libjemalloc.so.2".into()));
    update(&mut model, Msg::Map("/img/r/3".into(), Ok(Arc::new(map))));
    assert!(text(&model).contains("7372 pages, 29M"));
    model.focus = Focus::Map;
    model.fold_at(last.first + 1);
    key(&mut model, KeyCode::Char('+'));
    let screen = text(&model);
    assert!(
        screen.contains("Who owns each page of 3, process 2207 "),
        "{screen}"
    );
    assert!(screen.contains("7372 pages, 29M"), "{screen}");
    key(&mut model, KeyCode::Char('+'));
    let screen = text(&model);
    let title = "Who owns each page of 3, libjemalloc.so.2 of process 2207 ";
    assert!(screen.contains(title), "{screen}");
    assert!(screen.contains("60 pages, 240K; 1 cell = 4.0K"), "{screen}");
    assert!(screen.contains("■c 1 60 100% "), "{screen}");
    assert!(!screen.contains("■a"), "it has no page of that: {screen}");
}

#[test]
fn ctrl_z_stops_once_and_only_when_no_target_is_held() {
    let mut model = model(RICH, (80, 24));
    let stop = |model: &mut Model| {
        let key = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
        update(model, Msg::Key(key))
    };
    assert_eq!(stop(&mut model), [Effect::Settle]);
    assert_eq!(stop(&mut model), [], "it waits already");
    assert_eq!(update(&mut model, Msg::Settled), [Effect::Stop]);
    assert_eq!(stop(&mut model), [Effect::Settle]);
}

#[test]
fn through_the_layers_one_comes_back_by_the_way_one_came() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Stacks;
    let name = |model: &Model| model.layer().unwrap().name.clone();
    model.stack_cursor.at = model.layer_row(Path::new("/img/r/4")).unwrap();
    let mut seen = String::new();
    for c in "[[]]".chars() {
        key(&mut model, KeyCode::Char(c));
        seen.push_str(&name(&model));
    }
    assert_eq!(seen, "2124", "a live process stands on 3");
    // Who comes to 2 in another way goes to the live process.
    model.stack_cursor.at = model.layer_row(Path::new("/img/r/2")).unwrap();
    key(&mut model, KeyCode::Char(']'));
    assert_eq!(name(&model), "3");
    // The same in what is read of layers.
    let wanted = |name: &str| Look::Layer {
        dir: Path::new("/img/r").join(name),
        tab: 0,
    };
    let look = |model: &mut Model, name: &str| {
        let mut read = reader(1, 1);
        read.layer = Some(Path::new("/img/r").join(name));
        update(model, Msg::Looked(wanted(name), Ok(Box::new(read))));
    };
    model.stack_cursor.at = model.layer_row(Path::new("/img/r/4")).unwrap();
    key(&mut model, KeyCode::Char('i'));
    look(&mut model, "4");
    assert_eq!(
        key(&mut model, KeyCode::Char('[')),
        [Effect::Look(wanted("2"))]
    );
    look(&mut model, "2");
    assert_eq!(
        key(&mut model, KeyCode::Char(']')),
        [Effect::Look(wanted("4"))]
    );
}

#[test]
fn what_was_read_too_late_is_not_shown() {
    let mut model = model(RICH, (80, 24));
    key(&mut model, KeyCode::Char('i'));
    let other = Look::Layer {
        dir: "/img/r/1".into(),
        tab: 0,
    };
    update(&mut model, Msg::Looked(other, Ok(Box::new(reader(1, 1)))));
    assert!(model.popup.is_none());
}

#[test]
fn a_layer_is_compared_with_the_marked_one_or_the_one_below() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Stacks;
    let diff = |from: &str, to: &str| {
        Effect::Inquire(Some(Inquiry::Layers {
            from: from.into(),
            to: to.into(),
        }))
    };
    let effects = key(&mut model, KeyCode::Char('c'));
    assert_eq!(effects, [diff("/img/r/2", "/img/r/3")]);
    assert_eq!(key(&mut model, KeyCode::Esc), [Effect::Inquire(None)]);
    key(&mut model, KeyCode::Char('m'));
    key(&mut model, KeyCode::Char('['));
    key(&mut model, KeyCode::Char('['));
    let effects = key(&mut model, KeyCode::Char('c'));
    assert_eq!(effects, [diff("/img/r/3", "/img/r/1")]);
}

#[test]
fn layers_go_get_together_and_get_names_by_one_key_each() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Stacks;
    let dir = |name: &str| PathBuf::from("/img/r").join(name);
    let planned = |model: &mut Model, c| match key(model, KeyCode::Char(c)).as_slice() {
        [Effect::Plan(_, Wish::Edit(edit))] => edit.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(planned(&mut model, 'X'), Edit::Drop(dir("3")));
    model.board.jobs.clear();
    assert_eq!(planned(&mut model, 'F'), Edit::Flatten(dir("3")));
    model.board.jobs.clear();
    assert!(
        key(&mut model, KeyCode::Char('S')).is_empty(),
        "nothing is marked"
    );
    for c in ['[', '[', 'm', ']'] {
        key(&mut model, KeyCode::Char(c));
    }
    let squash = Edit::Squash {
        from: dir("1"),
        to: dir("2"),
    };
    assert_eq!(planned(&mut model, 'S'), squash);
    model.board.jobs.clear();
    for c in ['L', 'o', 'k'] {
        key(&mut model, KeyCode::Char(c));
    }
    let effects = key(&mut model, KeyCode::Enter);
    let label = Wish::Edit(Edit::Label {
        dir: dir("2"),
        text: "ok".into(),
    });
    assert_eq!(effects, [Effect::Apply(4, label)]);
    model.board.jobs.clear();
    key(&mut model, KeyCode::Char('['));
    let effects = key(&mut model, KeyCode::Char('P'));
    let unpin = Wish::Edit(Edit::Pin {
        dir: dir("1"),
        pinned: false,
    });
    assert_eq!(effects, [Effect::Apply(5, unpin)]);
}

#[test]
fn a_text_is_asked_for_and_searched() {
    let mut model = model(RICH, (80, 24));
    for c in ['s', 'a', 'q', 'x'] {
        key(&mut model, KeyCode::Char(c));
    }
    key(&mut model, KeyCode::Backspace);
    let effects = key(&mut model, KeyCode::Enter);
    let wanted = Inquiry::Search {
        dir: "/img/r/3".into(),
        text: "aq".into(),
        sought: Sought::Text,
    };
    assert_eq!(effects, [Effect::Inquire(Some(wanted))]);
}

#[test]
fn what_is_typed_means_itself_bytes_or_a_regular_expression_and_nonsense_is_explained() {
    let mut model = model(RICH, (80, 24));
    for c in ['s', '0', 'x', '('] {
        key(&mut model, KeyCode::Char(c));
    }
    assert!(text(&model).contains("Search text in layer 3"));
    key(&mut model, KeyCode::Tab);
    assert!(text(&model).contains("Search hexadecimal bytes in layer 3"));
    assert!(text(&model).contains("no list of hexadecimal bytes"));
    assert!(key(&mut model, KeyCode::Enter).is_empty(), "it stays");
    key(&mut model, KeyCode::Tab);
    assert!(text(&model).contains("is no regular expression"));
    assert!(key(&mut model, KeyCode::Enter).is_empty(), "it stays");
    key(&mut model, KeyCode::Tab);
    let effects = key(&mut model, KeyCode::Enter);
    let wanted = Inquiry::Search {
        dir: "/img/r/3".into(),
        text: "0x(".into(),
        sought: Sought::Text,
    };
    assert_eq!(
        effects,
        [Effect::Inquire(Some(wanted))],
        "any text is found"
    );
}

#[test]
fn going_through_the_layers_the_cursor_stays_on_its_page() {
    let mut model = model(RICH, (120, 35));
    for _ in 0..2 {
        key(&mut model, KeyCode::Tab);
    }
    for _ in 0..3 {
        key(&mut model, KeyCode::Down);
    }
    let under = |model: &mut Model| {
        let effects = key(model, KeyCode::Enter);
        match effects.as_slice() {
            [Effect::Look(Look::Page { id, addr, .. })] => (*id, *addr),
            other => panic!("{other:?}"),
        }
    };
    let before = under(&mut model);
    let effects = key(&mut model, KeyCode::Char('['));
    assert_eq!(
        effects,
        [Effect::LoadMap("/img/r/2".into(), Coloring::Owner)]
    );
    // The older layer lacks the first 3000 pages of the newer one.
    let mut older = Map {
        ids: vec![PagemapId::Task(2207)],
        spaces: vec!["process 2207".into()],
        ..Map::default()
    };
    older.push(before.1 - 50 * 4096, 100, Owner::Layer(0));
    update(&mut model, Msg::Map("/img/r/2".into(), Ok(Arc::new(older))));
    assert_eq!(under(&mut model), before);
}

#[test]
fn after_a_restore_keys_mean_the_restored_process_before_it_is_listed() {
    let mut model = model(RICH, (80, 24));
    update(
        &mut model,
        Msg::Processes(Survey {
            trees: vec![tree(812, "cron", vec![])],
            tracked: std::collections::BTreeMap::default(),
            now: now(),
            status: None,
        }),
    );
    let report = Report {
        text: String::new(),
        warnings: vec![],
        result: Made::Tree {
            root: Pid::from_raw(2207),
            start_time: Some(77),
            kept: None,
        },
    };
    let effects = update(&mut model, Msg::Done(JOB, Ok(report)));
    assert_eq!(effects, [Effect::Scan, Effect::Survey]);
    let effects = key(&mut model, KeyCode::Char('d'));
    let [Effect::Plan(_, Wish::Dump { root, .. })] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(root.as_raw(), 2207);
    update(&mut model, survey());
    assert_eq!(model.process().unwrap().pid.as_raw(), 2207);
}

#[test]
fn keys_help_and_footer_follow_the_key_map() {
    let mut model = model(RICH, (120, 35));
    let row = |act| action::ACTIONS.iter().position(|a| a.act == act).unwrap();
    model
        .keys
        .set(row(action::Act::Quit), vec!["ctrl-q".parse().unwrap()]);
    model
        .keys
        .set(row(action::Act::Up), vec!["q".parse().unwrap()]);
    key(&mut model, KeyCode::Char('q'));
    assert!(!model.quit);
    assert!(text(&model).contains("Ctrl-q quit"), "{}", text(&model));
    let help = Help::of_view(&model.keys, model.focus, (100, 30));
    let help = help.lines().join("\n");
    assert!(
        help.contains("Ctrl-q") && !help.contains("arrows hjkl"),
        "{help}"
    );
    let pressed = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::CONTROL);
    update(&mut model, Msg::Key(pressed));
    assert!(model.quit);
}

#[test]
fn processes_are_sorted_by_what_one_likes_and_the_cursor_stays_on_its_own() {
    let mut model = model(RICH, (120, 35));
    let pids = |model: &Model| -> Vec<i32> {
        model.processes.iter().map(|row| row.pid.as_raw()).collect()
    };
    let usual = pids(&model);
    key(&mut model, KeyCode::Char('o'));
    assert!(text(&model).contains("Processes 7 by memory"));
    // The tree with most memory first, its children below it.
    assert_eq!(pids(&model), [2207, 2208, 3310, 1031, 1041, 1040, 812]);
    assert_eq!(model.process().unwrap().pid, Pid::from_raw(2207));
    for _ in 0..6 {
        key(&mut model, KeyCode::Char('o'));
    }
    assert_eq!(pids(&model), usual);
}

#[test]
fn what_is_selected_is_copied() {
    let mut model = model(RICH, (120, 35));
    let copied = |model: &mut Model| match key(model, KeyCode::Char('y')).as_slice() {
        [Effect::Copy(text)] => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(copied(&mut model), "2207");
    model.focus = Focus::Stacks;
    assert_eq!(copied(&mut model), "/img/r/3");
    model.focus = Focus::Map;
    model.pixel = 0;
    assert_eq!(copied(&mut model), "55d2c0000000");
    model.popup = Some(Popup::Reader(Box::new(reader(2, 2))));
    assert_eq!(copied(&mut model), " head\n line 0 of 0\n line 1 of 0\n");
    assert!(model.popup.is_some());
}

#[test]
fn jobs_on_one_stack_wait_and_what_waits_or_plans_is_cancelled_at_once() {
    let mut model = model(RICH, (120, 35));
    let done = |id| {
        let report = Report {
            text: "done".into(),
            warnings: vec![],
            result: Made::Stack,
        };
        Msg::Done(id, Ok(report))
    };
    let applied = |effects: &[Effect]| -> Vec<u64> {
        let id = |effect: &Effect| match effect {
            Effect::Apply(id, _) => Some(*id),
            _ => None,
        };
        effects.iter().filter_map(id).collect()
    };
    // Pinning needs no preview.
    assert_eq!(applied(&key(&mut model, KeyCode::Char('P'))), [1]);
    assert!(key(&mut model, KeyCode::Char('P')).is_empty(), "it waits");
    assert!(key(&mut model, KeyCode::Char('P')).is_empty());
    key(&mut model, KeyCode::Char('J'));
    for _ in 0..2 {
        key(&mut model, KeyCode::Down);
    }
    assert!(key(&mut model, KeyCode::Char('x')).is_empty());
    assert_eq!(model.board.jobs.len(), 2, "the third is gone");
    key(&mut model, KeyCode::Up);
    key(&mut model, KeyCode::Up);
    assert_eq!(
        key(&mut model, KeyCode::Char('x')),
        [Effect::CancelJob(1)],
        "who works is asked"
    );
    assert_eq!(applied(&update(&mut model, done(1))), [2]);
    update(&mut model, done(2));
    assert_eq!(model.board.ended.len(), 3);
    // What was cancelled while it was planned comes too late.
    key(&mut model, KeyCode::Esc);
    key(&mut model, KeyCode::Char('d'));
    key(&mut model, KeyCode::Char('x'));
    update(&mut model, Msg::Planned(4, Ok(Preview::new("Dump"))));
    assert!(model.popup.is_none());
    // Toasts go away.
    assert!(!model.toasts.is_empty());
    model.clock += Duration::from_secs(60);
    update(&mut model, survey());
    assert!(model.toasts.is_empty());
}

#[test]
fn the_log_is_filtered_apart_from_the_processes() {
    let mut model = model(RICH, (120, 35));
    model.note(Mark::Good, "a layer is pinned");
    model.note(Mark::Bad, "no space");
    for c in ['J', '/', 'p', 'i', 'n'] {
        key(&mut model, KeyCode::Char(c));
    }
    let shown = text(&model);
    assert!(shown.contains("is pinned") && !shown.contains("no space"));
    assert!(model.filter.value().is_empty());
    for _ in 0..2 {
        key(&mut model, KeyCode::Esc);
    }
    assert_eq!(model.focus, Focus::Processes);
}

#[test]
fn a_rule_dumps_without_asking_never_twice_at_once_and_backs_off() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Char('W'));
    assert_eq!(model.focus, Focus::Watch);
    key(&mut model, KeyCode::Char('A'));
    for c in "when dirty > 10000 pages".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    let effects = key(&mut model, KeyCode::Enter);
    assert_eq!(effects, [Effect::Attach(Pid::from_raw(2207))]);
    key(&mut model, KeyCode::Char('B'));
    for c in "25 ms".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    assert!(key(&mut model, KeyCode::Enter).is_empty());
    let applied = |effects: &[Effect]| -> Vec<Option<Option<Duration>>> {
        let rule = |effect: &Effect| match effect {
            Effect::Apply(_, Wish::Dump { rule, .. }) => Some(*rule),
            _ => None,
        };
        effects.iter().filter_map(rule).collect()
    };
    let counted = |model: &mut Model, at, dirty| {
        model.clock = Duration::from_secs(at);
        applied(&update(model, count(at, dirty)))
    };
    assert!(counted(&mut model, 10, 9_999).is_empty());
    let budget = Some(Some(Duration::from_millis(25)));
    assert_eq!(counted(&mut model, 11, 10_001), [budget]);
    assert!(counted(&mut model, 12, 11_000).is_empty(), "it is at it");
    let failure = Failure {
        text: "A dump would freeze it for too long".into(),
        obstacles: vec![],
        target: None,
        hint: None,
        cancelled: false,
        held: false,
    };
    update(&mut model, Msg::Done(1, Err(failure)));
    assert!(model.popup.is_none(), "nobody asked for it just now");
    assert!(text(&model).contains("too long"));
    assert!(
        counted(&mut model, 13, 12_000).is_empty(),
        "it waits a little"
    );
    assert_eq!(counted(&mut model, 15, 12_000), [budget]);
    // No rule, no dump.
    key(&mut model, KeyCode::Char('A'));
    for _ in 0..40 {
        key(&mut model, KeyCode::Backspace);
    }
    key(&mut model, KeyCode::Enter);
    let report = Report {
        text: "made".into(),
        warnings: vec![],
        result: Made::Layer("/img/r/4".into()),
    };
    update(&mut model, Msg::Done(2, Ok(report)));
    assert!(counted(&mut model, 99, 20_000).is_empty());
}

#[test]
fn one_key_ends_tracking_in_the_watch_view_and_begins_it() {
    let mut model = model(RICH, (120, 35));
    let pid = Pid::from_raw(2207);
    key(&mut model, KeyCode::Char('W'));
    assert_eq!(key(&mut model, KeyCode::Char('w')), [Effect::Detach(pid)]);
    model.tracked.clear();
    assert!(text(&model).contains("Nothing tracks this tree"));
    assert_eq!(key(&mut model, KeyCode::Char('w')), [Effect::Attach(pid)]);
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.focus, Focus::Processes);
}

#[test]
fn only_rows_that_are_seen_are_looked_at_closer() {
    let mut model = model(RICH, (80, 24));
    let effects = update(&mut model, survey());
    let [Effect::Probe(asked)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(asked.seen.len(), model.processes.len());
    assert_eq!(asked.seen[0], (Pid::from_raw(812), 77));
    assert!(asked.count.is_empty());
    // Nothing while the list is not there.
    key(&mut model, KeyCode::Char('J'));
    assert!(update(&mut model, survey()).is_empty());
    key(&mut model, KeyCode::Esc);
    let why = crate::tui::probe::Dumpable::No("it has an io_uring".into());
    let probe = crate::tui::probe::Probe {
        descriptors: Some(3),
        dump: Some(why),
    };
    update(&mut model, Msg::Probed([(2207, probe)].into()));
    assert!(text(&model).contains("no dump: it has an io"));
    for c in "/redis".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    key(&mut model, KeyCode::Enter);
    let text = text(&model);
    assert!(text.contains("no dump: it has an io"), "{text}");
    assert!(text.contains("filter: redis"), "{text}");
}

#[test]
fn a_rule_ends_with_its_process_and_is_nobody_elses() {
    let mut model = model(RICH, (120, 35));
    let follow = |model: &mut Model| {
        for c in "Aevery 1 h".chars() {
            key(model, KeyCode::Char(c));
        }
        key(model, KeyCode::Enter);
        assert!(model.follows.contains_key(&2207));
    };
    follow(&mut model);
    update(&mut model, survey());
    assert_eq!(model.follows.len(), 1);
    let Msg::Processes(mut other) = survey() else {
        panic!()
    };
    // Its pid is another process's now.
    other.trees[2].start_time += 1;
    update(&mut model, Msg::Processes(other.clone()));
    assert!(model.follows.is_empty());
    follow(&mut model);
    other.trees.remove(2);
    update(&mut model, Msg::Processes(other));
    assert!(model.follows.is_empty());
    let (_, _, said) = model.log.back().unwrap();
    assert!(said.contains("with it its rule: every 1 h"), "{said}");
}

#[test]
fn what_is_shown_becomes_files() {
    let mut model = model(RICH, (120, 35));
    let mut files = |focus| {
        model.focus = focus;
        match key(&mut model, KeyCode::Char('E')).as_slice() {
            [Effect::Save(files)] => files.clone(),
            other => panic!("{other:?}"),
        }
    };
    let layers = files(Focus::Stacks);
    assert_eq!(layers[0].text.lines().count(), 5, "{}", layers[0].text);
    let processes: serde_json::Value =
        serde_json::from_str(&files(Focus::Processes)[1].text).unwrap();
    assert_eq!(processes["processes"][3]["pid"], 1041);
    let map = &files(Focus::Map)[0];
    assert_eq!(map.extension, "svg");
    assert!(map.text.contains("! MISSING: 12 pages"), "{}", map.text);
    assert!(files(Focus::Watch)[0].text.contains("polyline"));
    assert!(files(Focus::Watch)[0].text.contains("redis-server 2207"));
}

#[test]
fn what_has_just_ended_covers_no_head_of_a_column() {
    let mut model = model(RICH, (80, 24));
    let heads = |model: &Model| text(model).lines().nth(2).unwrap().to_owned();
    let before = heads(&model);
    for text in ["layer 4 is made", "layer 5 is made", "layer 6 is made"] {
        model.toast(Mark::Good, text);
    }
    assert_eq!(heads(&model), before);
    let shown = text(&model);
    assert!(shown.contains("layer 6 is made (+2)"), "{shown}");
}
