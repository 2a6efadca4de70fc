//! Where the screen goes: one pane over all of it, and what the lists show in the room that they have.

use super::*;
use crate::tui::action::ACTIONS;
use crate::tui::help::Help;
use crate::tui::keymap::Keymap;
use crate::tui::probe::{Dumpable, Probe};
use crate::tui::processes::Order;
use crate::tui::view::SMALLEST;
use unicode_width::UnicodeWidthStr as _;

/// What the rows of the list say before the command, without frames.
fn rows(model: &Model) -> Vec<String> {
    let inside = |line: &str| {
        Some(
            line.strip_prefix('\u{2502}')?
                .split('\u{2502}')
                .next()?
                .to_owned(),
        )
    };
    text(model).lines().filter_map(inside).collect()
}

/// Probes with all verdicts.
fn probed(model: &mut Model) {
    let probe = |descriptors, dump| Probe {
        descriptors: Some(descriptors),
        dump: Some(dump),
    };
    let probes = [
        (
            812,
            probe(3, Dumpable::Option("--file-locks keeps its locks".into())),
        ),
        (1040, probe(90, Dumpable::Yes)),
        (2207, probe(24, Dumpable::Yes)),
        (3310, probe(7, Dumpable::No("it has an io_uring".into()))),
    ];
    update(model, Msg::Probed(probes.into()));
}

#[test]
fn the_enlarged_pane_has_the_screen_until_the_same_key_or_escape_and_tab_hands_it_on() {
    for size in [(120, 35), (80, 24)] {
        let mut model = model(RICH, size);
        let alone = |model: &Model| {
            let shown = model.areas().views;
            shown.len() == 1 && shown[0].0 == model.focus && shown[0].1.width == size.0
        };
        key(&mut model, KeyCode::Char('z'));
        assert!(alone(&model));
        assert!(text(&model).contains("z back"), "{}", text(&model));
        for _ in 0..3 {
            key(&mut model, KeyCode::Tab);
            assert!(alone(&model), "{:?}", model.focus);
        }
        key(&mut model, KeyCode::Char('z'));
        assert_eq!(model.areas().views.len(), 3);
        // A filter goes first, then the size.
        for code in ['z', '/', 'r'].map(KeyCode::Char) {
            key(&mut model, code);
        }
        key(&mut model, KeyCode::Enter);
        key(&mut model, KeyCode::Esc);
        assert!(model.enlarged && model.filter.value().is_empty());
        key(&mut model, KeyCode::Esc);
        assert!(!model.enlarged);
    }
}

#[test]
fn enlarged_panes_show_all_their_columns_on_a_small_screen() {
    let mut model = model(RICH, (80, 24));
    key(&mut model, KeyCode::Char('z'));
    let shown = text(&model);
    for column in ["RSS", "THR", "FD", "DIRTY", "LAY", "AGE", "DUMP", "COMMAND"] {
        assert!(shown.contains(column), "{column}: {shown}");
    }
    key(&mut model, KeyCode::Tab);
    let shown = text(&model);
    for column in ["KIND", "DISK", "OWNED", "SUPERS", "FREEZE", "\u{2190} 2207"] {
        assert!(shown.contains(column), "{column}: {shown}");
    }
}

#[test]
fn nothing_is_enlarged_that_has_the_screen_already_and_the_key_says_so() {
    let mut model = model(RICH, (40, 20));
    key(&mut model, KeyCode::Char('z'));
    assert!(!model.enlarged);
    assert!(model.log.back().unwrap().2.contains("whole screen already"));
}

#[test]
fn a_list_of_half_a_screen_tells_rates_age_tracking_and_verdict_without_colour() {
    let mut model = model(PLAIN, (120, 35));
    probed(&mut model);
    let shown = rows(&model);
    let row = |pid: &str| shown.iter().find(|row| row.contains(pid)).unwrap().clone();
    assert_eq!(
        shown[0].trim_end(),
        "   PID   RSS DIRTY NEW/S ALL/S  AGE TD  COMMAND"
    );
    assert!(row(" 812 ").contains("   - ") && row(" 812 ").contains(" o   cron"));
    assert!(
        row("2207").contains("  16m \u{25c6}\u{2713} "),
        "{}",
        row("2207")
    );
    assert!(row("3310").contains("  \u{2717} "), "{}", row("3310"));
}

#[test]
fn the_smallest_list_keeps_pid_dirty_rate_verdict_and_command() {
    for (theme, yes, no) in [
        (PLAIN, "\u{25c6}\u{2713}", " \u{2717}"),
        (ASCII, "@+", " -"),
    ] {
        for size in [(80, 24), SMALLEST] {
            let mut model = model(theme, size);
            model.focus = Focus::Processes;
            probed(&mut model);
            let shown = text(&model);
            assert!(shown.contains("   PID DIRTY NEW/S TD  COMMAND"), "{shown}");
            assert!(shown.contains(&format!("{yes} ")), "{shown}");
            assert!(shown.contains("redis-s"), "{shown}");
            key(&mut model, KeyCode::End);
            let shown = text(&model);
            assert!(shown.contains(&format!("{no} ")), "{shown}");
        }
    }
}

#[test]
fn processes_are_sorted_by_rate_descriptors_and_last_layer_too() {
    let mut model = model(RICH, (120, 35));
    let first = |model: &Model| model.processes[0].pid.as_raw();
    model.order = Order::Name;
    key(&mut model, KeyCode::Char('o'));
    assert!(text(&model).contains("Processes 7 by dirty rate"));
    assert_eq!(first(&model), 2207);
    key(&mut model, KeyCode::Char('o'));
    // Of all processes the descriptors are counted, of those that are seen only the rest is asked.
    let effects = update(&mut model, survey());
    let [Effect::Probe(asked)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(asked.count.len(), 7);
    // A tree with all that is below.
    probed(&mut model);
    assert_eq!(first(&model), 1031);
    key(&mut model, KeyCode::Char('o'));
    assert!(text(&model).contains("by last layer"));
    assert_eq!(first(&model), 2207);
}

#[test]
fn the_export_of_the_list_has_rates_age_of_the_last_layer_and_verdict() {
    let mut model = model(RICH, (120, 35));
    probed(&mut model);
    let files = crate::tui::export::export(&model);
    let table = files.iter().find(|file| file.extension == "json").unwrap();
    let table: serde_json::Value = serde_json::from_str(&table.text).unwrap();
    let rows = table["processes"].as_array().unwrap();
    let redis = rows.iter().find(|row| row["pid"] == 2207).unwrap();
    assert_eq!(redis["new_pages_per_second"], 2579);
    assert_eq!(redis["all_pages_per_second"], 3837);
    assert_eq!(
        (
            redis["layers"].as_u64(),
            redis["last_layer_age_seconds"].as_u64()
        ),
        (Some(4), Some(1000))
    );
    assert_eq!(redis["dump"], "yes");
}

#[test]
fn comparing_a_first_layer_with_nothing_is_not_offered_and_the_key_says_why() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Stacks;
    assert!(text(&model).contains("c compare"));
    key(&mut model, KeyCode::End);
    assert_eq!(model.layer().unwrap().name, "1");
    assert!(!text(&model).contains("c compare"));
    assert!(
        key(&mut model, KeyCode::Char('c'))
            .iter()
            .all(|effect| !matches!(effect, Effect::Inquire(_)))
    );
    let said = &model.log.back().unwrap().2;
    assert!(said.contains("no other one is marked"), "{said}");
    // With another one marked it makes sense.
    model.marked = Some("/img/r/3".into());
    assert!(text(&model).contains("c compare"));
}

#[test]
fn on_a_small_screen_every_box_of_the_watch_view_is_reached_with_its_contents() {
    for size in [SMALLEST, (80, 15), (45, 30)] {
        let mut model = model(RICH, size);
        key(&mut model, KeyCode::Char('W'));
        for told in [
            ["1/4 New dirty pages", "9837 pages dirty"],
            ["2/4 Dirtiest mappings", "[heap]"],
            ["3/4 Working set and rule", "budget"],
            ["4/4 A dump made now", "tracked"],
            ["1/4 New dirty pages", "9837 pages dirty"],
        ] {
            let shown = text(&model);
            assert!(
                told.iter().all(|part| shown.contains(part)),
                "{told:?}: {shown}"
            );
            assert!(shown.contains("Tab box"), "{shown}");
            key(&mut model, KeyCode::Tab);
        }
        key(&mut model, KeyCode::BackTab);
        assert!(text(&model).contains("1/4"));
        key(&mut model, KeyCode::Esc);
        assert_eq!(model.focus, Focus::Processes);
    }
}

#[test]
fn a_box_of_the_watch_view_is_enlarged_and_escape_leads_back_step_by_step() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Char('W'));
    for code in [KeyCode::BackTab, KeyCode::Char('z')] {
        key(&mut model, code);
    }
    let shown = text(&model);
    assert!(
        shown.contains("4/4 A dump made now") && !shown.contains("Dirtiest"),
        "{shown}"
    );
    assert!(!model.enlarged, "the panes have a size of their own");
    key(&mut model, KeyCode::Esc);
    assert!(text(&model).contains("Dirtiest"));
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.focus, Focus::Processes);
}

#[test]
fn every_key_is_in_the_help_of_every_view_at_any_width() {
    for focus in view::VIEWS.iter().map(|view| view.focus) {
        for size in [(40, 10), (80, 24), (200, 60)] {
            let help = Help::of_view(&Keymap::default(), focus, size);
            let small = size.0 < 60;
            let lines = help.lines();
            for line in &lines {
                assert!(line.width() <= usize::from(size.0) - 2, "{line}");
            }
            let text = lines.join("\n");
            for action in ACTIONS {
                let said = if small { action.brief } else { action.help };
                let word = said.split(' ').next().unwrap();
                assert!(text.contains(word), "{word}");
                assert!(
                    !small || said.is_empty() || lines.iter().any(|line| line.ends_with(said)),
                    "{said}"
                );
            }
        }
    }
}

#[test]
fn help_begins_with_the_keys_of_the_view_and_the_smallest_has_them_in_two_pages() {
    let mut model = model(RICH, SMALLEST);
    for (focus, first) in [(Focus::Map, "On the map"), (Focus::Stacks, "In the stacks")] {
        model.focus = focus;
        key(&mut model, KeyCode::Char('?'));
        let Some(Popup::Help(help)) = &model.popup else {
            panic!()
        };
        let lines = help.lines();
        assert!(lines[0].trim().starts_with(first), "{lines:?}");
        let everywhere = lines
            .iter()
            .position(|line| line.contains("Everywhere:"))
            .unwrap();
        assert!(everywhere < 20, "{lines:?}");
        key(&mut model, KeyCode::Char('?'));
        assert!(model.popup.is_none());
    }
}

#[test]
fn help_is_filtered_while_one_types() {
    let mut model = model(RICH, (80, 24));
    for c in "?/zoom o".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    let shown = text(&model);
    assert!(
        shown.contains("On the map:") && shown.contains("zoom out"),
        "{shown}"
    );
    assert!(!shown.contains("Everywhere:"), "{shown}");
    for _ in 0..2 {
        key(&mut model, KeyCode::Esc);
    }
    assert!(model.popup.is_none());
}

#[test]
fn popups_answer_with_keys_of_their_own_and_are_there_again_afterwards() {
    let mut model = model(RICH, (80, 24));
    model.popup = Some(Popup::Reader(Box::new(reader(2, 2))));
    key(&mut model, KeyCode::Char('?'));
    let shown = text(&model);
    assert!(
        shown.contains("next tab") && !shown.contains("Everywhere"),
        "{shown}"
    );
    key(&mut model, KeyCode::Esc);
    assert!(matches!(model.popup, Some(Popup::Reader(_))));
    // Where letters are typed it is one of them; F1 is none.
    model.popup = None;
    for c in ":?".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    assert!(matches!(&model.popup, Some(Popup::Palette(palette)) if palette.input.value() == "?"));
    key(&mut model, KeyCode::F(1));
    assert!(text(&model).contains("Here:"));
    key(&mut model, KeyCode::Esc);
    assert!(matches!(model.popup, Some(Popup::Palette(_))));
}
