//! Leaving: what is asked before, and what becomes of what is going on.

use super::*;

fn rule(model: &mut Model) {
    for c in "Aevery 1 h".chars() {
        key(model, KeyCode::Char(c));
    }
    key(model, KeyCode::Enter);
}

fn done(model: &mut Model, id: u64) {
    let report = Report {
        text: "done".into(),
        warnings: vec![],
        result: Made::Stack,
    };
    update(model, Msg::Done(id, Ok(report)));
}

#[test]
fn nothing_is_asked_where_nothing_ends() {
    let mut model = model(RICH, (80, 24));
    key(&mut model, KeyCode::Char('q'));
    assert!(model.quit);
}

#[test]
fn a_rule_that_would_end_is_named_and_cancel_is_focused() {
    let mut model = model(RICH, (80, 24));
    rule(&mut model);
    key(&mut model, KeyCode::Char('q'));
    assert!(!model.quit);
    let shown = text(&model);
    assert!(
        shown.contains("process 2207 (redis-server) ends: every 1 h"),
        "{shown}"
    );
    assert!(shown.contains("[>Cancel ]"), "{shown}");
    key(&mut model, KeyCode::Enter);
    assert!(!model.quit && model.follows.len() == 1);
    for code in [KeyCode::Char('q'), KeyCode::Tab, KeyCode::Enter] {
        key(&mut model, code);
    }
    assert!(model.quit);
}

#[test]
fn running_jobs_are_waited_for_or_cancelled_or_one_stays() {
    let mut model = model(RICH, (80, 24));
    let choose = |model: &mut Model, button| {
        key(model, KeyCode::Char('q'));
        let shown = text(model);
        assert!(shown.contains("[>Stay ]"), "{shown}");
        (0..button).for_each(|_| drop(key(model, KeyCode::Tab)));
        key(model, KeyCode::Enter)
    };
    model.focus = Focus::Stacks;
    // The second waits for the first.
    key(&mut model, KeyCode::Char('P'));
    key(&mut model, KeyCode::Char('P'));
    choose(&mut model, 0);
    assert!(!model.quit && !model.leaving && model.board.jobs.len() == 2);
    choose(&mut model, 1);
    assert!(!model.quit, "it waits");
    done(&mut model, 1);
    assert!(!model.quit, "the second has its turn");
    // One may think otherwise meanwhile.
    choose(&mut model, 0);
    done(&mut model, 2);
    assert!(!model.quit);
    key(&mut model, KeyCode::Char('P'));
    key(&mut model, KeyCode::Char('P'));
    assert_eq!(
        choose(&mut model, 2),
        [Effect::CancelJob(3)],
        "the other had not begun"
    );
    assert!(!model.quit && model.board.jobs.len() == 1);
    let mut failure = screens::failure("Cancelled", "");
    failure.cancelled = true;
    update(&mut model, Msg::Done(3, Err(failure)));
    assert!(model.quit);
}

#[test]
fn who_leaves_gets_no_more_dumps_by_rule_and_reads_what_failed() {
    let mut model = model(RICH, (80, 24));
    for c in "Awhen dirty > 100 pages".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    key(&mut model, KeyCode::Enter);
    model.focus = Focus::Stacks;
    key(&mut model, KeyCode::Char('P'));
    for code in [KeyCode::Char('q'), KeyCode::Tab, KeyCode::Enter] {
        key(&mut model, code);
    }
    model.clock = Duration::from_secs(50);
    assert!(update(&mut model, count(50, 9000)).is_empty());
    update(
        &mut model,
        Msg::Done(1, Err(screens::failure("no space", "free some"))),
    );
    assert!(!model.quit && text(&model).contains("no space"));
}
