//! Every table that is shown can be written, and says what it shows. The layers are CRIU's.

use icecore::Cancel;
use serde_json::Value;

use super::super::export::Export;
use super::super::inquiry::{Inquiry, Sought};
use super::super::look::look;
use super::*;

fn golden(layer: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(layer)
}

/// What `E` writes of a popup.
fn written(popup: Popup) -> Vec<Export> {
    let mut model = model(RICH, (120, 35));
    model.popup = Some(popup);
    let effects = key(&mut model, KeyCode::Char('E'));
    assert!(model.popup.is_some(), "it stays");
    let Some(Effect::Save(files)) = effects.into_iter().next() else {
        panic!("nothing is written")
    };
    files
}

/// The rows of the one table that a popup shows.
fn rows(popup: Popup) -> Vec<Value> {
    let files = written(popup);
    let [csv, json] = files.as_slice() else {
        panic!("{files:?}")
    };
    assert_eq!((csv.extension, json.extension), ("csv", "json"));
    let all: Value = serde_json::from_str(&json.text).unwrap();
    let rows = all.as_object().unwrap().values().find_map(Value::as_array);
    let rows = rows.unwrap().clone();
    assert_eq!(csv.text.lines().count(), rows.len() + 1);
    rows
}

fn answered(inquiry: &Inquiry) -> Popup {
    Popup::Answer(Box::new(inquiry.answer(&Cancel::default()).unwrap()))
}

#[test]
fn each_tab_of_a_layer_is_written_as_a_table_or_a_text() {
    let dir = golden("criu-4.1-stack/3");
    let first = look(&Look::Layer {
        dir: dir.clone(),
        tab: 0,
    });
    for tab in 0..first.unwrap().tabs.len() {
        let read = look(&Look::Layer {
            dir: dir.clone(),
            tab,
        });
        let read = read.unwrap();
        let name = read.tabs[tab].name.clone();
        let files = written(Popup::Reader(Box::new(read)));
        // Images are records in records; CRIU makes no digests.
        let is_text = ["images", "digests"].contains(&&*name);
        let kinds: Vec<&str> = files.iter().map(|file| file.extension).collect();
        let expected: &[&str] = if is_text { &["txt"] } else { &["csv", "json"] };
        assert_eq!(kinds, expected, "{name}");
        assert_eq!(files[0].stem, format!("icecore-{name}"));
    }
}

#[test]
fn the_table_of_layers_has_all_that_their_rows_know() {
    let mut model = model(RICH, (120, 35));
    for row in &mut model.stacks {
        if let StackRow::Layer(layer) = row
            && layer.name == "1"
        {
            layer.label = Some("before the change".into());
            layer.figures.pages = Some(77);
            layer.figures.freeze = Some(Duration::from_micros(2500));
        }
    }
    model.focus = Focus::Stacks;
    let effects = key(&mut model, KeyCode::Char('E'));
    let Some(Effect::Save(files)) = effects.into_iter().next() else {
        panic!("nothing is written")
    };
    let all: Value = serde_json::from_str(&files[1].text).unwrap();
    let layer = |name: &str| {
        let mut rows = all["layers"].as_array().unwrap().iter();
        rows.find(|row| row["name"] == name).unwrap().clone()
    };
    let expected = [
        ("kind", Value::from("full")),
        ("freeze_ms", 21.4.into()),
        ("label", "before the change".into()),
        ("pinned", true.into()),
        ("parent", Value::Null),
        ("predicted_pages", 77.into()),
        ("predicted_freeze_ms", 2.5.into()),
        ("live_process", Value::Null),
        ("root_process", 2207.into()),
        ("root_name", "redis-server".into()),
        ("squashed", false.into()),
    ];
    for (what, value) in expected {
        assert_eq!(layer("1")[what], value, "{what}");
    }
    assert_eq!(layer("3")["live_process"], 2207);
    assert_eq!(layer("3")["parent"], "/img/r/2");
    assert_eq!(layer("2")["kind"], "inc");
    assert_eq!(layer("2")["why"], "pages were freed by dedup of layer 3");
}

/// The picture that `E` writes of a pane.
fn picture(model: &mut Model, focus: Focus) -> String {
    model.focus = focus;
    let effects = key(model, KeyCode::Char('E'));
    let Some(Effect::Save(files)) = effects.into_iter().next() else {
        panic!("nothing is written")
    };
    assert_eq!(files[0].extension, "svg");
    files[0].text.clone()
}

/// The values of an attribute.
fn values(text: &str, name: &str) -> std::collections::BTreeSet<String> {
    let begins = format!(" {name}=\"");
    let parts = text.split(&begins).skip(1);
    let value = |part: &str| part.split('"').next().unwrap().to_owned();
    parts.map(value).collect()
}

#[test]
fn the_picture_of_the_map_has_the_colour_and_the_letter_of_every_owner() {
    let rgb = Theme {
        palette: theme::Palette {
            base_layer: theme::Tint::of(Color::Rgb(1, 2, 3)),
            missing: theme::Tint::of(Color::LightRed),
            ..theme::LIGHT
        },
        ..RICH
    };
    let light = Theme {
        palette: theme::LIGHT,
        ..RICH
    };
    for (theme, expected) in [
        (RICH, ["#ffaf00", "#00afff", "#5f5faf", "#ff0000"]),
        (PLAIN, ["#ffaf00", "#00afff", "#5f5faf", "#ff0000"]),
        (light, ["#d75f00", "#005fd7", "#afafd7", "#d70000"]),
        (rgb, ["#d75f00", "#005fd7", "#010203", "#ff0000"]),
    ] {
        let svg = picture(&mut model(theme, (120, 35)), Focus::Map);
        let fills = values(&svg, "fill");
        for (color, letter) in expected.iter().zip(["a", "b", "c", "!"]) {
            assert!(fills.contains(*color), "{color} is not in {fills:?}");
            assert!(svg.contains(&format!(">{letter}</text></g>")), "{letter}");
            // In the map and in its legend.
            assert!(svg.matches(color).count() > 1, "{color}");
        }
        assert!(svg.contains("<title>b 2</title>"));
        assert!(!svg.contains("gray"));
    }
}

#[test]
fn the_picture_of_a_zoomed_map_tells_what_it_shows() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Map;
    for _ in 0..3 {
        key(&mut model, KeyCode::Char('+'));
    }
    let svg = picture(&mut model, Focus::Map);
    assert!(svg.contains("of 3, page by page: "), "{svg}");
    assert!(svg.contains("a square is 1 page<"), "{svg}");
    assert!(!svg.contains("MISSING"), "it is not there");
}

#[test]
fn the_picture_of_the_writes_has_units_times_layers_and_gaps() {
    let mut model = model(RICH, (120, 35));
    let later = |at, dirty, since: &str| {
        let Msg::Counted(pid, Ok(count)) = count(at, dirty) else {
            unreachable!()
        };
        let since = Some(since.to_owned());
        Msg::Counted(pid, Ok(Count { since, ..count }))
    };
    for (at, dirty, since) in [
        (6, 500, "c4"),
        (7, 700, "c4"),
        (60, 9000, "c4"),
        (61, 9100, "c4"),
        (62, 9400, "c4"),
        (63, 10, "gone"),
    ] {
        update(&mut model, later(at, dirty, since));
    }
    let svg = picture(&mut model, Focus::Watch);
    for text in [
        "pages a second",
        "3837 (15M/s)",
        ">0 (0B/s)<",
        "time (UTC)",
        ">now<",
        ">13:46:40<",
        "m ago<",
        ">layer 4<",
        ">tracked anew<",
        "nothing was counted",
    ] {
        assert!(svg.contains(text), "{text} is not in {svg}");
    }
    // The line ends where nothing was counted, and begins anew.
    assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
}

#[test]
fn mappings_of_a_layer_are_written_with_their_addresses_and_pages() {
    let read = look(&Look::Layer {
        dir: golden("criu-4.1-stack/3"),
        tab: 2,
    });
    let rows = rows(Popup::Reader(Box::new(read.unwrap())));
    let stack = rows.iter().find(|row| row["name"] == "[stack]").unwrap();
    let hex = |name: &str| u64::from_str_radix(stack[name].as_str().unwrap(), 16).unwrap();
    assert!(hex("start") < hex("end"));
    assert_eq!(stack["permissions"], "rw-p");
    let pages = |what: &str| stack[what].as_u64().unwrap();
    assert!(pages("pages_stored_here") + pages("pages_stored_below") > 0);
}

#[test]
fn a_comparison_is_written_by_mapping_and_by_page_and_a_search_by_place() {
    let (from, to) = (golden("criu-4.1-stack/1"), golden("criu-4.1-stack/3"));
    let layers = Inquiry::Layers {
        from,
        to: to.clone(),
    };
    let popup = answered(&layers);
    let Popup::Answer(answer) = &popup else {
        unreachable!()
    };
    let super::super::inquiry::Body::Rows(listed) = &answer.body else {
        panic!("{answer:?}")
    };
    let lead = listed.iter().find_map(|row| row.lead.clone()).unwrap();
    let mappings = rows(popup);
    let changed: u64 = mappings
        .iter()
        .map(|row| row["changed_pages"].as_u64().unwrap())
        .sum();
    assert!(changed > 0, "{mappings:?}");
    let super::super::inquiry::Lead::Inquiry(pages) = lead else {
        panic!("{lead:?}")
    };
    let pages = rows(answered(&pages));
    let first = &mappings[0];
    let differing: u64 = ["changed_pages", "new_pages", "gone_pages"]
        .map(|what| first[what].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(pages.len() as u64, differing);
    let found = rows(answered(&Inquiry::Search {
        dir: to,
        text: "rounds".into(),
        sought: Sought::Text,
    }));
    assert!(
        found
            .iter()
            .all(|row| row["bytes"].as_str().unwrap().contains("rounds"))
    );
    let around =
        found[0]["after"].as_str().unwrap().to_owned() + found[0]["before"].as_str().unwrap();
    assert!(!around.is_empty() && !around.chars().any(char::is_control));
}
