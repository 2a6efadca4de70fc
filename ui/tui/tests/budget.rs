//! The freeze budget: what is held back by it, and what is said of it.

use icecore::dump::{Freeze, Mode, Present, predict};

use super::*;

#[test]
fn a_dump_that_the_budget_holds_back_is_said_once_and_is_no_failure() {
    let mut model = model(RICH, (120, 35));
    for text in ["Awhen dirty > 100 pages", "B1"] {
        for c in text.chars() {
            key(&mut model, KeyCode::Char(c));
        }
        key(&mut model, KeyCode::Enter);
    }
    let said = |model: &Model| {
        let held = |text: &str| text.contains("held back");
        model.log.iter().filter(|(_, _, text)| held(text)).count()
    };
    let held = || Failure {
        text: "held back: would freeze for ~13.0 ms, budget 1.0 ms".into(),
        obstacles: vec![],
        target: None,
        hint: None,
        cancelled: false,
        held: true,
    };
    let mut tried = 0;
    for at in 10..100 {
        model.clock = Duration::from_secs(at);
        for effect in update(&mut model, count(at, 9000)) {
            if let Effect::Apply(id, _) = effect {
                tried += 1;
                update(&mut model, Msg::Done(id, Err(held())));
            }
        }
    }
    assert!((3..8).contains(&tried), "it backs off: {tried}");
    assert_eq!(said(&model), 1);
    assert!(model.board.ended.is_empty() && model.board.jobs.is_empty());
    assert!(model.toasts.is_empty() && model.popup.is_none());
    key(&mut model, KeyCode::Char('W'));
    assert!(
        text(&model).contains("held back: would freeze"),
        "{}",
        text(&model)
    );
    // A new budget is a new matter.
    for c in ['B', '2'] {
        key(&mut model, KeyCode::Char(c));
    }
    key(&mut model, KeyCode::Enter);
    assert!(!model.follows[&2207].held);
}

#[test]
fn a_dump_by_hand_that_breaks_the_budget_of_the_tree_says_so_first() {
    let mut model = model(RICH, (120, 35));
    let preview = |ms| {
        let mut prediction = predict(Mode::Full, &Present::default(), &[]).unwrap();
        prediction.freeze = Some(Freeze {
            expected: Duration::from_millis(ms),
            low: Duration::from_millis(ms),
            high: Duration::from_millis(ms),
            learned_from: 3,
            borrowed: false,
        });
        let mut preview = Preview::new("Dump");
        preview.freezes.push((Pid::from_raw(2207), prediction));
        Msg::Planned(JOB, Ok(preview))
    };
    let warned = |model: &mut Model, ms| {
        update(model, preview(ms));
        let shown = text(model);
        key(model, KeyCode::Esc);
        shown.contains("its budget is 10.0 ms")
    };
    assert!(!warned(&mut model, 13), "there is none");
    for c in "B10".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    key(&mut model, KeyCode::Enter);
    assert!(warned(&mut model, 13));
    assert!(!warned(&mut model, 9));
}
