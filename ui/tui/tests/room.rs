//! Where the screen goes: one pane over all of it, and what the lists show in the room that they have.

use super::*;

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
