//! What is said to screen readers.

use super::*;
use crate::tui::voice::Voice;

fn spoken(size: (u16, u16)) -> Model {
    let mut model = Model::new("/img".into(), RICH, size);
    model.voice = Some(Voice::default());
    for msg in [survey(), stacks(), map("3")] {
        update(&mut model, msg);
    }
    model
}

fn said(model: &Model) -> &str {
    model.voice.as_ref().map_or("", |voice| voice.said.as_str())
}

#[test]
fn what_is_in_the_way_is_said_first_with_its_number_and_once() {
    let mut model = spoken((80, 24));
    let mut preview = Preview::new("Dump redis-server 2207");
    preview.line(Mark::Plain, "into redis-server-2207/13");
    preview.line(Mark::Bad, "it has an io_uring");
    preview.line(Mark::Hint, "have it closed");
    preview.line(Mark::Bad, "it maps a device");
    preview.line(Mark::Warn, "its log grows");
    update(&mut model, Msg::Planned(JOB, Ok(preview)));
    assert_eq!(
        said(&model),
        "Dump redis-server 2207. 2 problems. Problem: it has an io_uring. Hint: have it closed. \
         Problem: it maps a device. 1 warning. Warning: its log grows. Button Cancel, 1 of 1. \
         Line 1 of 5: into redis-server-2207/13."
    );
    key(&mut model, KeyCode::Down);
    assert_eq!(
        said(&model),
        "Button Cancel, 1 of 1. Line 2 of 5: Problem: it has an io_uring."
    );
    key(&mut model, KeyCode::End);
    assert!(said(&model).contains("Line 5 of 5"), "{}", said(&model));
    key(&mut model, KeyCode::Esc);
    let mut failure = screens::failure("It cannot be dumped", "icecore doctor");
    failure
        .obstacles
        .push(("a pipe leads out".into(), "close it".into()));
    update(&mut model, Msg::Planned(JOB, Err(failure)));
    let text = said(&model);
    assert!(
        text.starts_with("That did not work. 2 problems. Problem: It cannot"),
        "{text}"
    );
    assert!(
        text.contains("Problem: a pipe leads out. Hint: close it."),
        "{text}"
    );
    assert!(!text.contains("Line 1"), "once is enough: {text}");
    key(&mut model, KeyCode::Down);
    assert!(said(&model).starts_with("Line 2 of 4"), "{}", said(&model));
}

#[test]
fn what_is_said_is_never_cut_and_the_cursor_is_where_it_begins() {
    for size in [(100, 24), (80, 24), (40, 10)] {
        let mut model = spoken(size);
        model.focus = Focus::Stacks;
        key(&mut model, KeyCode::Down);
        let mut terminal = screen(&model);
        let shown = text(&model);
        let rows: Vec<&str> = shown.lines().collect();
        assert!(said(&model).len() > 80, "{}", said(&model));
        let words: Vec<&str> = said(&model).split(' ').collect();
        let at = terminal.get_cursor_position().unwrap();
        let spoken: Vec<&str> = rows[usize::from(at.y)..]
            .iter()
            .flat_map(|row| row.split(' '))
            .collect();
        assert_eq!(spoken, words, "{shown}");
        // Lines above stay where they are when what is said gets shorter.
        let first = rows[1].to_owned();
        key(&mut model, KeyCode::Up);
        assert_eq!(
            text(&model)
                .lines()
                .nth(1)
                .unwrap()
                .trim_start_matches(['>', ' ']),
            first.trim_start_matches(['>', ' '])
        );
    }
}
