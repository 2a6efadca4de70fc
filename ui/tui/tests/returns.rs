//! What a run takes over from the one before: undo, the selected process, rules that are offered.

use super::*;
use crate::tui::kept::Place;

/// Another run, after `before` has ended; its processes are listed.
fn again(before: &Model, survey: Msg) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::of(Some(dir.path().as_os_str().to_owned()), None).unwrap();
    place.write(before).unwrap();
    let mut model = Model::new("/img".into(), RICH, (120, 35));
    let (kept, said) = place.read();
    assert_eq!(said, None);
    model.resume(kept, said);
    update(&mut model, survey);
    update(&mut model, stacks());
    model
}

/// The same processes; `pid` is another one by now.
fn replaced(pid: i32) -> Msg {
    let Msg::Processes(mut other) = survey() else {
        panic!()
    };
    for tree in &mut other.trees {
        tree.start_time += u64::from(tree.pid.as_raw() == pid);
    }
    Msg::Processes(other)
}

fn roll_back(model: &mut Model, pid: i32, kept: Option<&str>) {
    let report = Report {
        text: "runs again".into(),
        warnings: vec![],
        result: Made::Tree {
            root: Pid::from_raw(pid),
            start_time: Some(77),
            kept: kept.map(PathBuf::from),
        },
    };
    update(model, Msg::Done(JOB, Ok(report)));
    update(model, survey());
}

/// The layer that `u` would restore.
fn undone(model: &mut Model) -> Option<PathBuf> {
    let effects = key(model, KeyCode::Char('u'));
    model.board.jobs.clear();
    match effects.as_slice() {
        [Effect::Plan(_, Wish::Restore { dir, .. })] => Some(dir.clone()),
        _ => None,
    }
}

#[test]
fn undo_is_there_after_a_restart_as_long_as_the_tree_and_the_layer_are() {
    let mut before = model(RICH, (120, 35));
    roll_back(&mut before, 2207, Some("/img/r/4"));
    let mut after = again(&before, survey());
    assert_eq!(undone(&mut after), Some("/img/r/4".into()));
    let mut after = again(&before, replaced(2207));
    assert_eq!(undone(&mut after), None, "another program has the pid");
    let mut after = again(&before, survey());
    update(
        &mut after,
        Msg::Stacks(Ok(vec![layer("3", "\u{25cf}", State::Complete)])),
    );
    assert_eq!(undone(&mut after), None, "the layer is gone");
}

#[test]
fn each_tree_has_an_undo_of_its_own_and_a_restore_of_another_tree_does_not_take_it() {
    let mut model = model(RICH, (120, 35));
    roll_back(&mut model, 2207, Some("/img/r/4"));
    roll_back(&mut model, 1031, Some("/img/r/3"));
    model.focus = Focus::Processes;
    assert_eq!(undone(&mut model), Some("/img/r/3".into()));
    let at = |model: &Model, pid| model.processes.iter().position(|r| r.pid.as_raw() == pid);
    // A child belongs to the tree.
    model.process_cursor.at = at(&model, 2208).unwrap();
    let Msg::Processes(mut tree) = survey() else {
        panic!()
    };
    tree.trees[2].children[0].ppid = Pid::from_raw(2207);
    update(&mut model, Msg::Processes(tree));
    assert_eq!(undone(&mut model), Some("/img/r/4".into()));
    // A layer is of a tree, too.
    model.process_cursor.at = at(&model, 812).unwrap();
    model.focus = Focus::Stacks;
    assert_eq!(undone(&mut model), Some("/img/r/4".into()));
    roll_back(&mut model, 1031, None);
    model.focus = Focus::Processes;
    assert_eq!(
        undone(&mut model),
        Some("/img/r/4".into()),
        "only that of 1031 is gone"
    );
}

#[test]
fn the_cursor_is_on_the_same_process_after_a_restart_and_never_on_another_one_of_its_pid() {
    let before = model(RICH, (120, 35));
    assert_eq!(before.process().unwrap().pid.as_raw(), 2207);
    let after = again(&before, survey());
    assert_eq!(after.process().unwrap().pid.as_raw(), 2207);
    let after = again(&before, replaced(2207));
    assert_eq!(after.process().unwrap().pid.as_raw(), 812);
}

#[test]
fn a_rule_is_offered_for_the_tree_that_it_was_made_for_and_no_other() {
    let mut before = model(RICH, (120, 35));
    for c in "Aevery 1 h".chars() {
        key(&mut before, KeyCode::Char(c));
    }
    key(&mut before, KeyCode::Enter);
    for c in "B50".chars() {
        key(&mut before, KeyCode::Char(c));
    }
    key(&mut before, KeyCode::Enter);
    let offered = |model: &mut Model, pid, c| {
        model.select = Some(Pid::from_raw(pid));
        key(model, KeyCode::Char(c));
        match model.popup.take() {
            Some(Popup::Order { text, .. }) => text.value().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let mut after = again(&before, survey());
    assert!(after.follows.is_empty(), "offered, not followed");
    assert_eq!(offered(&mut after, 812, 'A'), "");
    assert_eq!(offered(&mut after, 2207, 'A'), "every 1 h");
    assert_eq!(offered(&mut after, 2207, 'B'), "50");
    // It is still offered in the run after that.
    let mut after = again(&after, survey());
    assert_eq!(offered(&mut after, 2207, 'A'), "every 1 h");
    let mut other = again(&before, replaced(2207));
    assert_eq!(offered(&mut other, 2207, 'A'), "");
    // Who does not want it is not offered it.
    key(&mut after, KeyCode::Char('A'));
    for _ in 0..12 {
        key(&mut after, KeyCode::Backspace);
    }
    key(&mut after, KeyCode::Enter);
    assert_eq!(offered(&mut after, 2207, 'A'), "");
    let mut after = again(&after, survey());
    assert_eq!(offered(&mut after, 2207, 'A'), "");
}
