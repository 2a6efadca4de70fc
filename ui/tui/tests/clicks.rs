//! The mouse on what is written: buttons, tabs, entries, keys.

use super::*;
use crate::tui::action::Act;

/// Where `wanted` is on the screen.
fn find(model: &Model, wanted: &str) -> (u16, u16) {
    let shown = text(model);
    let mut rows = shown.lines().enumerate();
    let found = rows.find_map(|(y, row)| Some((row[..row.find(wanted)?].chars().count(), y)));
    let (x, y) = found.unwrap_or_else(|| panic!("{wanted} in {shown}"));
    (u16::try_from(x).unwrap(), u16::try_from(y).unwrap())
}

fn event(model: &mut Model, kind: MouseEventKind, (column, row): (u16, u16)) -> Vec<Effect> {
    let event = MouseEvent {
        kind,
        column,
        row,
        modifiers: KeyModifiers::NONE,
    };
    update(model, Msg::Mouse(event))
}

fn click(model: &mut Model, at: (u16, u16)) -> Vec<Effect> {
    event(model, MouseEventKind::Down(MouseButton::Left), at)
}

fn click_on(model: &mut Model, wanted: &str) -> Vec<Effect> {
    let (x, y) = find(model, wanted);
    click(model, (x + 1, y))
}

fn wish(name: &str) -> Wish {
    Wish::Edit(Edit::Drop(PathBuf::from("/img/r").join(name)))
}

fn preview(model: &mut Model) {
    let mut preview = Preview::new("Restore 2");
    for n in 0..40 {
        preview.line(Mark::Plain, format!("line {n}"));
    }
    preview.option("with files", false, wish("files"));
    preview.offer("Keep and restore", wish("2"), false);
    preview.offer("Kill and restore", wish("3"), false);
    update(model, Msg::Planned(JOB, Ok(preview)));
}

#[test]
fn a_click_on_a_button_does_what_it_says_and_one_beside_the_dialog_nothing() {
    for size in [(120, 35), (80, 24), (80, 12)] {
        let mut model = model(RICH, size);
        preview(&mut model);
        let before = text(&model);
        for beside in [(0, 0), (1, 5), (size.0 - 1, size.1 - 1)] {
            assert!(click(&mut model, beside).is_empty());
            assert_eq!(text(&model), before);
        }
        // Nor does one that is dragged there, or one on a line.
        let at = find(&model, "Kill and restore");
        event(&mut model, MouseEventKind::Drag(MouseButton::Left), at);
        click_on(&mut model, "line 1");
        assert_eq!(text(&model), before);
        let effects = click_on(&mut model, "Kill and restore");
        assert_eq!(effects, [Effect::Apply(1, wish("3"))]);
        assert!(model.popup.is_none());
        preview(&mut model);
        assert!(!text(&model).is_empty());
        assert!(click_on(&mut model, "Cancel").is_empty());
        assert!(model.popup.is_none());
        preview(&mut model);
        key(&mut model, KeyCode::End);
        let effects = click_on(&mut model, "] with files");
        assert!(
            matches!(effects.as_slice(), [Effect::Plan(_, other)] if *other == wish("files")),
            "{effects:?}"
        );
        click_on(&mut model, "Esc cancel");
        assert!(model.popup.is_none());
    }
}

#[test]
fn a_dialog_that_was_not_drawn_yet_is_not_clicked_on() {
    let mut model = model(RICH, (80, 24));
    preview(&mut model);
    let at = find(&model, "Kill and restore");
    let mut other = Preview::new("Another one");
    other.offer("Do something else", wish("1"), false);
    update(&mut model, Msg::Planned(JOB, Ok(other)));
    assert!(click(&mut model, at).is_empty());
    assert!(model.popup.is_some());
}

#[test]
fn tabs_entries_and_the_keys_at_the_bottom_are_clicked_on() {
    let mut model = model(RICH, (80, 24));
    model.popup = Some(Popup::Reader(Box::new(reader(3, 50))));
    click_on(&mut model, "tab 2");
    assert!(text(&model).contains("[tab 2]") && text(&model).contains("line 0 of 2"));
    click_on(&mut model, "Esc close");
    assert!(model.popup.is_none());
    // An action of the palette.
    key(&mut model, KeyCode::Char(':'));
    click_on(&mut model, "dedup ");
    assert_eq!(model.focus, Focus::Dedup);
    key(&mut model, KeyCode::Esc);
    // The footer.
    click_on(&mut model, "? help");
    assert!(text(&model).contains("Keys"));
    key(&mut model, KeyCode::Esc);
    let effects = click_on(&mut model, "d dump");
    assert!(
        matches!(effects.as_slice(), [Effect::Plan(..)]),
        "{effects:?}"
    );
    model.board.jobs.clear();
    key(&mut model, KeyCode::Char('/'));
    click_on(&mut model, "Esc show all");
    assert!(!model.filtering);
    click_on(&mut model, "q quit");
    assert!(model.quit);
}

#[test]
fn jobs_and_lines_of_the_log_are_selected_and_the_wheel_rolls_the_log() {
    let mut model = model(RICH, (80, 24));
    for n in 0..60 {
        model.note(Mark::Plain, format!("line {n}."));
    }
    let key_of_jobs = model.keys.of(Act::Jobs).len();
    assert_eq!(key_of_jobs, 1);
    key(&mut model, KeyCode::Char('J'));
    click_on(&mut model, "line 55.");
    assert!(
        model.in_log && text(&model).contains(">  "),
        "{}",
        text(&model)
    );
    key(&mut model, KeyCode::Enter);
    assert!(text(&model).contains("Log, "), "{}", text(&model));
    key(&mut model, KeyCode::Esc);
    let at = find(&model, "line 55.");
    let first = |model: &Model| {
        let shown = text(model);
        let at = shown.find("line ").unwrap();
        shown[at + 5..]
            .split('.')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let top = first(&model);
    event(&mut model, MouseEventKind::ScrollUp, at);
    assert_eq!(first(&model), top - 3);
    let _drawn = text(&model);
    event(&mut model, MouseEventKind::ScrollDown, at);
    assert_eq!(first(&model), top);
}

#[test]
fn a_click_selects_what_is_under_it_and_the_wheel_moves_without_it() {
    let mut model = model(RICH, (80, 24));
    click(&mut model, (5, 3));
    assert_eq!(model.process().unwrap().pid, Pid::from_raw(812));
    click(&mut model, (50, 8));
    assert_eq!(
        (model.focus, model.layer().unwrap().name.as_str()),
        (Focus::Stacks, "1")
    );
    event(&mut model, MouseEventKind::ScrollUp, (50, 8));
    assert_eq!(model.layer().unwrap().name, "3");
    event(&mut model, MouseEventKind::ScrollDown, (5, 5));
    assert_eq!(model.process().unwrap().pid, Pid::from_raw(1041));
    assert_eq!(model.focus, Focus::Stacks, "the wheel takes no keyboard");
    update(&mut model, map("3"));
    click(&mut model, (3, 14));
    assert_eq!((model.focus, model.pixel), (Focus::Map, 4 * 46 + 2));
    // No click starts anything.
    key(&mut model, KeyCode::Char('L'));
    assert!(click(&mut model, (5, 3)).is_empty());
    assert_eq!(model.focus, Focus::Map);
}
