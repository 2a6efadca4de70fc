//! The log and the jobs of earlier runs, and reading the log.

use super::*;
use crate::tui::board::End;
use crate::tui::history::History;
use crate::tui::kept::Place;

fn place(dir: &std::path::Path) -> Place {
    Place::of(Some(dir.as_os_str().to_owned()), None).unwrap()
}

/// Another run.
fn again(place: &Place) -> Model {
    let mut model = Model::new("/img".into(), RICH, (120, 35));
    update(&mut model, survey());
    let (past, said) = place.read_history();
    assert_eq!(said, None);
    past.apply(&mut model);
    model
}

fn failed(model: &mut Model, text: &str) {
    let (id, _) = model
        .board
        .start(&Wish::Edit(Edit::Flatten("/img/r/3".into())), model.clock);
    update(
        model,
        Msg::Done(id, Err(screens::failure(text, "free some"))),
    );
    model.popup = None;
}

#[test]
fn jobs_and_log_are_there_in_the_next_run_as_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    assert_eq!(
        place.read_history(),
        (History::default(), None),
        "the first time"
    );
    let mut first = again(&place);
    failed(&mut first, "No space \u{1b}[2J left");
    place.write_history(&first).unwrap();
    let mut next = again(&place);
    assert!(next.log.is_empty(), "it is not of this run");
    key(&mut next, KeyCode::Char('J'));
    let shown = text(&next);
    assert!(shown.contains("earlier run: No space ?[2J left"), "{shown}");
    assert!(shown.contains("0s ago   No space"), "{shown}");
    let terminal = screen(&next);
    let buffer = terminal.backend().buffer();
    let dim = buffer
        .content
        .iter()
        .filter(|cell| cell.modifier.contains(Modifier::DIM));
    let dim: String = dim.map(ratatui::buffer::Cell::symbol).collect();
    assert!(dim.contains("0s ago"), "{dim}");
    // Both runs are known to the one after.
    failed(&mut next, "No inode left");
    place.write_history(&next).unwrap();
    let third = again(&place);
    let ends: Vec<End> = third.board.ended.iter().map(|job| job.end).collect();
    assert_eq!(ends, [End::Failed; 2]);
    assert!(
        third.board.ended[0].text.contains("inode"),
        "the latest first"
    );
    // Another images root has a history of its own, and does not lose this one.
    let mut other = Model::new("/elsewhere".into(), RICH, (120, 35));
    place.read_history().0.apply(&mut other);
    assert!(other.board.ended.is_empty() && other.earlier.is_empty());
    place.write_history(&other).unwrap();
    assert_eq!(again(&place).board.ended.len(), 2);
}

#[test]
fn so_much_is_kept_and_no_more_and_a_damaged_file_is_one_line_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    for _ in 0..3 {
        let mut model = again(&place);
        (0..90).for_each(|n| failed(&mut model, &format!("number {n}")));
        place.write_history(&model).unwrap();
    }
    let model = again(&place);
    assert_eq!((model.board.ended.len(), model.earlier.len()), (50, 200));
    assert!(model.board.ended[0].text.contains("number 89"));
    let file = dir.path().join("icecore/history.json");
    std::fs::write(&file, "{\"version\": 1").unwrap();
    let (past, said) = place.read_history();
    assert_eq!(past, History::default());
    assert!(said.is_some_and(|said| said.contains("history.json")));
}

#[test]
fn the_log_is_read_line_by_line_and_a_new_line_moves_no_one_who_reads() {
    let mut model = model(RICH, (80, 24));
    let long = "r/3: 313 pages (274 expected), ".repeat(6) + "the end";
    model.note(Mark::Good, &long);
    for n in 0..100 {
        model.note(Mark::Plain, format!("line {n}."));
    }
    key(&mut model, KeyCode::Char('J'));
    assert!(!text(&model).contains("line 50."));
    key(&mut model, KeyCode::Tab);
    for _ in 0..49 {
        key(&mut model, KeyCode::Up);
    }
    let here = |model: &Model| {
        let shown = text(model);
        let line = shown.lines().find(|line| line.starts_with("\u{2502}>"));
        line.unwrap_or_default().to_owned()
    };
    assert!(here(&model).contains("line 50."), "{}", text(&model));
    model.note(Mark::Bad, "something new");
    assert!(here(&model).contains("line 50."), "{}", text(&model));
    key(&mut model, KeyCode::Home);
    assert!(text(&model).contains("1-"), "{}", text(&model));
    key(&mut model, KeyCode::Enter);
    assert!(text(&model).contains("the end"), "{}", text(&model));
    key(&mut model, KeyCode::Esc);
    key(&mut model, KeyCode::PageDown);
    key(&mut model, KeyCode::End);
    assert!(here(&model).contains("something new"));
    // Back in the jobs, and out.
    key(&mut model, KeyCode::Tab);
    assert!(!model.in_log && model.focus == Focus::Jobs);
    // On a small screen too.
    model.size = (40, 10);
    key(&mut model, KeyCode::Tab);
    assert!(here(&model).contains("something new"), "{}", text(&model));
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.focus, Focus::Processes);
}
