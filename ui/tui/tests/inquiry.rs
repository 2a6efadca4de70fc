//! What differs between two layers, down to the bytes, and the way back.

use std::path::Path;

use icecore::chain::Ranges;
use icecore::inspect::Pages;
use icecore::{Cancel, PageRange};

use super::*;
use crate::tui::inquiry::{Answer, Body, Differing, Inquiry, Lead, Row, Sought};

fn differing() -> Arc<Differing> {
    let page = |n: u64| Ranges::from(PageRange::of_pages(0x55d2_c000_0000 + n * 4096, 1));
    Arc::new(Differing {
        from: "/img/r/2".into(),
        to: "/img/r/3".into(),
        id: PagemapId::Task(2207),
        pages: Pages {
            mapping: PageRange::of_pages(0x55d2_c000_0000, 900),
            name: "[heap]".into(),
            changed: page(0).union(&page(7)),
            bytes: 5,
            appeared: page(9),
            gone: Ranges::new(),
        },
    })
}

fn answer(inquiry: &Inquiry, rows: Vec<Row>) -> Msg {
    let answer = Answer {
        head: "   MAPPING".into(),
        body: Body::Rows(rows),
        ..Answer::waits(inquiry.clone())
    };
    Msg::Answered(inquiry.clone(), Ok(Box::new(answer)))
}

/// What the engine answers of a stack of CRIU's.
fn real(model: &mut Model, inquiry: Inquiry) {
    let found = inquiry.answer(&Cancel::default()).unwrap();
    model.popup = Some(Popup::Answer(Box::new(Answer::waits(inquiry.clone()))));
    update(model, Msg::Answered(inquiry, Ok(Box::new(found))));
}

fn golden(layer: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    all.join("criu-4.1-stack").join(layer)
}

/// Two layers, by mapping.
pub(super) fn compared(model: &mut Model) {
    let (from, to) = (golden("1"), golden("3"));
    real(model, Inquiry::Layers { from, to });
}

/// Where a text is.
pub(super) fn found(model: &mut Model) {
    let search = Inquiry::Search {
        dir: golden("3"),
        text: "/usr/bin/".into(),
        sought: Sought::Text,
    };
    real(model, search);
}

/// A page of two layers, in which some bytes differ.
pub(super) fn bytes(model: &mut Model) {
    let of = differing();
    let inquiry = Inquiry::Bytes {
        of: Arc::clone(&of),
        addr: 0x55d2_c000_0000,
    };
    key(model, KeyCode::Char('c'));
    model.popup = Some(Popup::Answer(Box::new(Answer::waits(inquiry.clone()))));
    let from: Vec<u8> = (0..4096u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut to = from.clone();
    for n in [3, 4, 40, 41, 42] {
        to[n] ^= 0xff;
    }
    let sides = [("2".to_owned(), Ok(from)), ("3".to_owned(), Ok(to))];
    let next = Inquiry::Bytes {
        of,
        addr: 0x55d2_c000_7000,
    };
    let answer = Answer {
        body: Body::Bytes(sides),
        beside: [None, Some(next)],
        ..Answer::waits(inquiry.clone())
    };
    update(model, Msg::Answered(inquiry, Ok(Box::new(answer))));
}

#[test]
fn enter_leads_from_layers_to_mappings_to_pages_to_bytes_and_esc_back() {
    let mut model = model(RICH, (120, 35));
    let effects = key(&mut model, KeyCode::Char('c'));
    let [Effect::Inquire(Some(layers))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert!(text(&model).contains("it is being found out"));
    let of = differing();
    let pages = Inquiry::Pages(Arc::clone(&of));
    let addr = 0x55d2_c000_0000;
    let bytes = Inquiry::Bytes { of, addr };
    let row = |lead: &Inquiry| Row {
        text: "  a line".into(),
        cells: None,
        mark: Mark::Plain,
        lead: Some(Lead::Inquiry(lead.clone())),
    };
    update(&mut model, answer(layers, vec![row(&pages)]));
    let effects = key(&mut model, KeyCode::Enter);
    assert_eq!(effects, [Effect::Inquire(Some(pages.clone()))]);
    assert!(text(&model).contains("[heap] of process 2207: from layer 2 to layer 3"));
    update(&mut model, answer(&pages, vec![row(&bytes)]));
    let effects = key(&mut model, KeyCode::Enter);
    assert_eq!(effects, [Effect::Inquire(Some(bytes.clone()))]);
    // An answer to something else comes too late.
    update(&mut model, answer(&pages, vec![row(&bytes)]));
    assert!(text(&model).contains("Page 55d2c0000000"));
    for back in ["[heap] of process", "From layer 2 to layer 3", "Processes"] {
        key(&mut model, KeyCode::Esc);
        assert!(text(&model).contains(back), "{back}");
    }
    assert!(model.popup.is_none() && model.trail.is_empty());
}

#[test]
fn a_click_selects_the_line_that_is_under_it() {
    let mut model = model(RICH, (120, 35));
    key(&mut model, KeyCode::Char('c'));
    let Some(Popup::Answer(waits)) = &model.popup else {
        panic!()
    };
    let inquiry = waits.inquiry.clone();
    let row = |n: usize| Row {
        text: format!("  line {n}."),
        cells: None,
        mark: Mark::Plain,
        lead: None,
    };
    update(&mut model, answer(&inquiry, (0..100).map(row).collect()));
    for _ in 0..50 {
        key(&mut model, KeyCode::Down);
    }
    let shown = text(&model);
    let at = shown.lines().position(|line| line.contains("line 42."));
    let click = MouseEvent {
        kind: MouseEventKind::Down(MouseButton::Left),
        column: 20,
        row: at.unwrap() as u16,
        modifiers: KeyModifiers::NONE,
    };
    update(&mut model, Msg::Mouse(click));
    assert!(text(&model).contains("line 43 of 100"));
}

#[test]
fn what_was_found_is_read_and_one_comes_back_to_the_list() {
    let mut model = model(RICH, (120, 35));
    for c in ['s', 'x'] {
        key(&mut model, KeyCode::Char(c));
    }
    let effects = key(&mut model, KeyCode::Enter);
    let [Effect::Inquire(Some(search))] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let page = Look::Page {
        dir: "/img/r/3".into(),
        id: PagemapId::Task(2207),
        addr: 4096,
        marked: 5000..5005,
    };
    let row = Row {
        text: "  3 2 a place".into(),
        cells: None,
        mark: Mark::Plain,
        lead: Some(Lead::Look(page.clone())),
    };
    update(&mut model, answer(search, vec![row]));
    assert_eq!(
        key(&mut model, KeyCode::Enter),
        [Effect::Look(page.clone())]
    );
    update(&mut model, Msg::Looked(page, Ok(Box::new(reader(1, 1)))));
    assert!(matches!(model.popup, Some(Popup::Reader(_))));
    key(&mut model, KeyCode::Esc);
    assert!(text(&model).contains("3 2 a place"));
}

#[test]
fn a_hit_is_in_view_and_marked_when_its_page_is_opened() {
    let layer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1-stack/3");
    let search = Inquiry::Search {
        dir: layer,
        text: "rounds".into(),
        sought: Sought::Text,
    };
    let found = search.answer(&Cancel::default()).unwrap();
    let Body::Rows(rows) = &found.body else {
        panic!("{found:?}")
    };
    // One whose line is far down in its page.
    let leads = rows.iter().filter_map(|row| Some((row, row.lead.clone()?)));
    let far = leads.filter_map(|(row, lead)| match lead {
        Lead::Look(look) => Some((row, look)),
        Lead::Inquiry(_) => None,
    });
    let offset = |look: &Look| match look {
        Look::Page { addr, marked, .. } => marked.start - addr,
        other => panic!("{other:?}"),
    };
    let (row, look) = far.max_by_key(|(_, look)| offset(look)).unwrap();
    assert!(offset(&look) > 0x400, "{look:?}");
    let around = row.text.split_once('[').unwrap().1;
    assert!(row.text.contains("[rounds]"), "{}", row.text);
    assert!(around.len() > "rounds]".len() + 4, "{}", row.text);
    for (theme, size) in [(RICH, (120, 35)), (PLAIN, (80, 24)), (ASCII, (40, 10))] {
        let mut model = model(theme, size);
        model.looking = Some(look.clone());
        let read = Box::new(crate::tui::look::look(&look).unwrap());
        update(&mut model, Msg::Looked(look.clone(), Ok(read)));
        let shown = text(&model);
        assert!(shown.contains("rounds"), "{size:?}\n{shown}");
        let line = shown.lines().find(|line| line.chars().nth(1) == Some('*'));
        let line = line.unwrap_or_else(|| panic!("{size:?}\n{shown}"));
        if size.0 >= 80 {
            assert!(line.matches('*').count() > 1, "{line}");
            assert!(shown.contains("*72"), "its r has a star\n{shown}");
        }
        // It is marked in other layers, too.
        let effects = key(&mut model, KeyCode::Char('['));
        let [Effect::Look(below)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!(offset(below), offset(&look));
    }
}

#[test]
fn bytes_that_differ_have_a_star_without_colour_at_any_width() {
    for (width, stars) in [(40, 2), (80, 10), (120, 10), (200, 10)] {
        let mut model = model(ASCII, (width, 35));
        bytes(&mut model);
        let shown = text(&model);
        let marked = shown.matches("*").count();
        assert!(marked >= stars, "{width}: {marked}\n{shown}");
        let effects = key(&mut model, KeyCode::Char('n'));
        assert!(matches!(
            effects.as_slice(),
            [Effect::Inquire(Some(Inquiry::Bytes {
                addr: 0x55d2_c000_7000,
                ..
            }))]
        ));
        assert!(model.trail.is_empty(), "it is shown instead");
    }
}
