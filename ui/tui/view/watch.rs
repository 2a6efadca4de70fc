//! What the selected tree writes, and what a dump of it made now would be.

use std::time::Duration;

use icecore::dump::{Mode, Prediction};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use super::super::action::Act;
use super::super::live::Live;
use super::super::message::Count;
use super::super::model::{Focus, Model};
use super::super::panel::Panel;
use super::super::stacks::LayerRow;
use super::super::text::{age, cut, fit, size, tally, wrap};
use super::{lines, pane};
use crate::format;

/// On a screen as wide as this, the panes below the chart are beside each other.
const WIDE: u16 = 150;
/// The windows that the working set is told for.
const WINDOWS: [u64; 3] = [1, 10, 60];

/// Whether there is room for one box only.
pub(crate) fn is_small(area: Rect) -> bool {
    area.height < 16 || area.width < 60
}

/// The frame of a box; returns its inside. One that is alone says which of them it is.
fn boxed(
    model: &Model,
    frame: &mut Frame<'_>,
    area: Rect,
    panel: Panel,
    title: &str,
    note: &str,
) -> Rect {
    let whole = model.panels.alone || is_small(model.areas().of(Focus::Watch));
    let title = match whole && model.has_panels() {
        true => format!("{}/{} {title}", panel.place() + 1, Panel::ALL.len()),
        false => title.to_owned(),
    };
    let focused = model.has_panels() && model.panels.at == panel;
    pane(frame, area, model.theme, focused, &title, note)
}

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some((pid, comm)) = model.target() else {
        let inside = pane(frame, area, model.theme, true, "Watch", "");
        return lines(frame, inside, vec![Line::from(" No process is selected.")]);
    };
    let name = format!("{} {pid}", format::plain(&comm));
    let live = model.live.get(&pid.as_raw());
    let Some((live, count)) = live.and_then(|live| Some((live, live.last.as_ref()?))) else {
        return untracked(model, live, &name, frame, area);
    };
    let height = area.height;
    if model.voice.is_some() {
        let own = model.layers_of(pid, &comm);
        return below_each_other(model, live, count, (pid, &name, &own), frame, area);
    }
    if model.panels.alone || is_small(area) {
        let own = model.layers_of(pid, &comm);
        return match model.panels.at {
            Panel::Chart => chart(model, live, count, &name, frame, area),
            Panel::Mappings => mappings(model, count, frame, area),
            Panel::Rule => rules(model, live, pid.as_raw(), frame, area, area.width >= 70),
            Panel::Dump => dump_now(model, live, count, &own, frame, area),
        };
    }
    let upper = if height >= 40 {
        height / 2
    } else {
        height * 2 / 5
    };
    let chart_area = Rect {
        height: upper.max(6).min(height),
        ..area
    };
    let below = Rect {
        y: area.y + chart_area.height,
        height: height - chart_area.height,
        ..area
    };
    chart(model, live, count, &name, frame, chart_area);
    let part = |from: u16, to: u16, of: u16| {
        let x = below.x + below.width * from / of;
        let end = below.x + below.width * to / of;
        Rect {
            x,
            width: end - x,
            ..below
        }
    };
    let own = model.layers_of(pid, &comm);
    if area.width >= WIDE {
        mappings(model, count, frame, part(0, 2, 6));
        rules(model, live, pid.as_raw(), frame, part(2, 4, 6), true);
        dump_now(model, live, count, &own, frame, part(4, 6, 6));
        return;
    }
    let [left, right] = [part(0, 9, 20), part(9, 20, 20)];
    let lower = left.height.min(6);
    let above = Rect {
        height: left.height - lower,
        ..left
    };
    mappings(model, count, frame, above);
    rules(
        model,
        live,
        pid.as_raw(),
        frame,
        Rect {
            y: above.bottom(),
            height: lower,
            ..left
        },
        false,
    );
    dump_now(model, live, count, &own, frame, right);
}

/// The same for a screen reader: nothing beside anything else, and no chart.
fn below_each_other(
    model: &Model,
    live: &Live,
    count: &Count,
    (pid, name, own): (icecore::Pid, &str, &[&LayerRow]),
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let part = (area.height.saturating_sub(3)) / 3;
    let rows = |y: u16, height: u16| Rect {
        y: area.y + y,
        height,
        ..area
    };
    // No room is left for the chart in it.
    chart(model, live, count, name, frame, rows(0, area.height.min(3)));
    mappings(model, count, frame, rows(3, part));
    rules(
        model,
        live,
        pid.as_raw(),
        frame,
        rows(3 + part, part),
        false,
    );
    dump_now(model, live, count, own, frame, rows(3 + 2 * part, part));
}

fn untracked(model: &Model, live: Option<&Live>, name: &str, frame: &mut Frame<'_>, area: Rect) {
    let inside = pane(frame, area, model.theme, true, &format!("Watch {name}"), "");
    if let Some(failure) = live.and_then(|live| live.failure.as_ref()) {
        return super::failure(model, failure, frame, inside);
    }
    let key = model.keys.label(Act::Watch);
    let text = if model.watched.is_some() && model.watched == model.target().map(|(pid, _)| pid) {
        "attaching…".to_owned()
    } else {
        format!(
            "Nothing tracks this tree. {key} begins: it is stopped for a moment to attach the tracker, \
             then its written pages are counted while it runs. {} sets a rule by which it is dumped.",
            model.keys.label(Act::Rule)
        )
    };
    let text = wrap(&text, usize::from(inside.width).saturating_sub(2));
    let text = text.into_iter().map(|line| Line::from(format!(" {line}")));
    lines(frame, inside, text.collect());
}

/// Since when written pages are counted.
fn since(model: &Model, count: &Count) -> String {
    let Some(id) = count.since.as_deref() else {
        return "since it is tracked".into();
    };
    let layer = model.layers().find(|l| l.id.as_deref() == Some(id));
    layer.map_or_else(
        || "since its last layer".into(),
        |layer| format!("since layer {}", layer.name),
    )
}

fn chart(model: &Model, live: &Live, count: &Count, name: &str, frame: &mut Frame<'_>, area: Rect) {
    let theme = model.theme;
    let title = format!("New dirty pages a second: {name}");
    let room = usize::from(area.width).saturating_sub(6);
    let keys = format!(
        "{}, {} ends tracking",
        count.tracker,
        model.keys.label(Act::Watch)
    );
    let (title, keys) = (cut(&title, room), cut(&keys, room));
    let inside = boxed(model, frame, area, Panel::Chart, &title, &keys);
    let width = usize::from(inside.width);
    let percent = count.dirty as f64 * 100.0 / count.resident.max(1) as f64;
    let head = format!(" {} pages dirty", count.dirty);
    let rest = format!(
        "  {} new/s, {}  {}, {percent:.1}% of {} {}; {} new/s at most",
        live.rate().map_or_else(|| "?".into(), tally),
        live.besides(),
        size(count.dirty * 4096),
        size(count.resident * 4096),
        since(model, count),
        tally(live.peak()),
    );
    let rest = cut(&rest, width.saturating_sub(head.len()));
    let first = Rect {
        height: inside.height.min(1),
        ..inside
    };
    let summary = Line::from(vec![Span::styled(head, theme.strong()), Span::raw(rest)]);
    lines(frame, first, vec![summary]);
    let rest = Rect {
        y: inside.y + first.height,
        height: inside.height - first.height,
        ..inside
    };
    let ago = |at: Duration| -count.at.saturating_sub(at).as_secs_f64();
    let rates: Vec<(f64, f64)> = live
        .points
        .iter()
        .map(|(at, rate)| (ago(*at), *rate))
        .collect();
    let span = rates.first().map_or(0.0, |(x, _)| -x).max(10.0);
    let peak = rates.iter().map(|(_, y)| *y).fold(1.0, f64::max);
    let mut points = filled(&rates, span, usize::from(rest.width) * 2);
    points.retain(|(x, _)| {
        let mut gaps = live.gaps.iter();
        !gaps.any(|(from, to)| (ago(*from)..=ago(*to)).contains(x))
    });
    // Layers made meanwhile: a line from the bottom to the top.
    let armed: Vec<[(f64, f64); 2]> = live
        .armed
        .iter()
        .map(|(at, _)| ago(*at))
        .filter(|x| -x <= span)
        .map(|x| [(x, 0.0), (x, peak)])
        .collect();
    let marker = if theme.ascii {
        Marker::Dot
    } else {
        Marker::Braille
    };
    let mut sets: Vec<Dataset<'_>> = armed
        .iter()
        .map(|line| {
            Dataset::default()
                .marker(Marker::Dot)
                .graph_type(GraphType::Line)
                .style(theme.warn())
                .data(line)
        })
        .collect();
    sets.push(
        Dataset::default()
            .marker(marker)
            .graph_type(GraphType::Bar)
            .style(theme.good())
            .data(&points),
    );
    let seconds = |part: f64| {
        let seconds = (span * part).round() as u64;
        if seconds == 0 {
            "now".into()
        } else {
            format!("{} ago", age(seconds))
        }
    };
    let rate = |part: f64| tally((peak * part).round() as u64);
    let chart = Chart::new(sets)
        .x_axis(
            Axis::default()
                .bounds([-span, 0.0])
                .labels([seconds(1.0), seconds(0.5), seconds(0.0)])
                .style(theme.dim()),
        )
        .y_axis(
            Axis::default()
                .bounds([0.0, peak])
                .labels([rate(0.0), rate(0.5), rate(1.0)])
                .style(theme.dim()),
        )
        .legend_position(None);
    frame.render_widget(chart, rest);
}

/// A rate holds for all the time since the one before: a point for each of `columns`.
fn filled(rates: &[(f64, f64)], span: f64, columns: usize) -> Vec<(f64, f64)> {
    let from = rates.first().map_or(0.0, |(x, _)| *x);
    let mut next = 0;
    (0..=columns)
        .map(|column| span * (column as f64 / columns.max(1) as f64 - 1.0))
        .filter(|x| *x >= from)
        .filter_map(|x| {
            while rates.get(next).is_some_and(|(at, _)| *at < x) {
                next += 1;
            }
            rates.get(next).map(|(_, rate)| (x, *rate))
        })
        .collect()
}

fn mappings(model: &Model, count: &Count, frame: &mut Frame<'_>, area: Rect) {
    let inside = boxed(model, frame, area, Panel::Mappings, "Dirtiest mappings", "");
    let width = usize::from(inside.width);
    let narrow = width < 45;
    let bar = (width / 4).min(24);
    let names = width.saturating_sub(bar + if narrow { 8 } else { 17 });
    let most = count
        .top
        .iter()
        .map(|part| part.dirty)
        .max()
        .unwrap_or(1)
        .max(1);
    let line = |part: &super::super::message::Part| {
        let full = usize::try_from(part.dirty * bar as u64 / most)
            .unwrap_or(0)
            .min(bar);
        let style = if part.tracked {
            model.theme.good()
        } else {
            model.theme.warn()
        };
        Line::from(vec![
            Span::raw(fit(&format!(" {}", part.name), names.saturating_sub(1)) + " "),
            Span::styled("█".repeat(full), style),
            Span::styled("░".repeat(bar - full), model.theme.dim()),
            Span::raw(format!(
                "{}{:>5}",
                if part.tracked { " " } else { "!" },
                tally(part.dirty)
            )),
            Span::raw(if narrow {
                String::new()
            } else {
                format!(" of {:>5}", tally(part.resident))
            }),
        ])
    };
    let mut text: Vec<Line<'_>> = Vec::new();
    let room = usize::from(inside.height);
    let unknown = count.top.iter().any(|part| !part.tracked);
    text.extend(
        count
            .top
            .iter()
            .take(room.saturating_sub(usize::from(unknown)))
            .map(line),
    );
    if unknown {
        let said = format!(" ! not tracked: all {} pages are stored", count.not_tracked);
        text.push(Line::styled(cut(&said, width), model.theme.warn()));
    }
    if text.is_empty() {
        text.push(Line::from(" nothing was written yet"));
    }
    lines(frame, inside, text);
}

/// `31.0 ms`, in few columns.
fn short(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

/// `26-30ms`.
fn between(low: Duration, high: Duration) -> String {
    let (low, high) = (short(low), short(high));
    let unit = |text: &str| {
        text.trim_start_matches(|c: char| !c.is_alphabetic())
            .to_owned()
    };
    let number = low.trim_end_matches(char::is_alphabetic);
    if unit(&low) == unit(&high) {
        format!("{number}-{high}")
    } else {
        format!("{low}-{high}")
    }
}

fn dump_now(
    model: &Model,
    live: &Live,
    count: &Count,
    own: &[&LayerRow],
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let theme = model.theme;
    let note = format!("{} dumps", model.keys.label(Act::Dump));
    let inside = boxed(model, frame, area, Panel::Dump, "A dump made now", &note);
    let width = usize::from(inside.width);
    let mut text = vec![Line::styled(
        cut("   MODE     PAGES  SIZE FREEZE", width),
        theme.dim(),
    )];
    for (n, prediction) in live.expected.iter().enumerate() {
        let line = cut(&row(prediction), width.saturating_sub(2));
        let style = if n == 0 { theme.strong() } else { theme.dim() };
        let sign = if n == 0 { " ▸ " } else { "   " };
        text.push(Line::from(vec![Span::raw(sign), Span::styled(line, style)]));
    }
    let learned = live.expected.first().and_then(|p| p.freeze);
    let learned = match learned {
        None => "how long it freezes is known after the first dump".to_owned(),
        Some(f) if f.borrowed => "learned from dumps of another kind: it may be far off".to_owned(),
        Some(f) => format!(
            "learned from {}",
            format::count(f.learned_from as u64, "dump")
        ),
    };
    text.push(Line::styled(
        cut(&format!("   {learned}"), width),
        theme.dim(),
    ));
    let mut besides = Vec::new();
    if count.not_tracked > 0 {
        besides.push(format!("{} pages not tracked", tally(count.not_tracked)));
    }
    if count.shared > 0 {
        besides.push(format!("{} shared ones compared", tally(count.shared)));
    }
    if !besides.is_empty() {
        let besides = format!("   besides: {}", besides.join(", "));
        text.push(Line::styled(cut(&besides, width), theme.dim()));
    }
    let room = usize::from(inside.height).saturating_sub(text.len() + 1);
    let known: Vec<&&LayerRow> = own.iter().filter(|l| l.figures.past.is_some()).collect();
    if room > 0 && !known.is_empty() {
        let head = "   LAYER  PAGES expected FREEZE expected";
        text.push(Line::styled(cut(head, width), theme.dim()));
    }
    for layer in known.into_iter().take(room) {
        let Some(past) = layer.figures.past else {
            continue;
        };
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let line = format!(
            "   {} {:>5} {:>8} {:>6} {:>8}",
            fit(&layer.name, 6),
            tally(past.stored),
            or(layer.figures.pages.map(tally)),
            short(past.freeze),
            or(layer.figures.freeze.map(short)),
        );
        text.push(Line::from(cut(&line, width)));
    }
    lines(frame, inside, text);
}

fn row(p: &Prediction) -> String {
    let freeze = match p.freeze {
        None => "?".into(),
        Some(f) if f.low == f.high || f.borrowed => short(f.expected),
        Some(f) => format!("{} ({})", short(f.expected), between(f.low, f.high)),
    };
    let mode = match p.mode {
        Mode::Tracked => "tracked",
        Mode::Compared => "compared",
        Mode::Full => "full",
    };
    let at_most = if p.at_most { "<" } else { " " };
    format!(
        "{mode:<8}{at_most}{:>5} {:>5} {freeze}",
        tally(p.pages),
        size(p.bytes())
    )
}

fn rules(model: &Model, live: &Live, pid: i32, frame: &mut Frame<'_>, area: Rect, roomy: bool) {
    let theme = model.theme;
    let inside = boxed(model, frame, area, Panel::Rule, "Working set and rule", "");
    let width = usize::from(inside.width);
    let sets: Vec<String> = WINDOWS
        .iter()
        .filter_map(|seconds| live.pace.working_set(Duration::from_secs(*seconds)))
        .map(|set| {
            let least = if set.at_least { "≥" } else { "" };
            let seconds = set.window.as_secs();
            // Nothing new tells nothing of what is written again.
            if set.at_least && set.pages == 0 {
                return format!("unknown in {seconds}s");
            }
            let bytes = if roomy {
                format!(" ({})", size(set.pages * 4096))
            } else {
                String::new()
            };
            format!("{least}{} in {seconds}s{bytes}", tally(set.pages))
        })
        .collect();
    let sets = if sets.is_empty() {
        "not known yet".into()
    } else {
        sets.join(", ")
    };
    let follow = model.follows.get(&pid);
    let rule = follow
        .and_then(|f| f.auto.as_ref())
        .map(|auto| auto.rule().to_string());
    let budget = follow.and_then(|f| f.budget).map(short);
    let said = follow.map_or("", |f| f.said.as_str());
    let entry = |label: &str, text: &str| {
        let label = Span::styled(format!(" {} ", fit(label, 8)), theme.dim());
        Line::from(vec![label, Span::raw(cut(text, width.saturating_sub(10)))])
    };
    let (rule_key, budget_key) = (model.keys.label(Act::Rule), model.keys.label(Act::Budget));
    let rule = rule.unwrap_or_else(|| format!("none ({rule_key} sets one)"));
    let budget = budget.unwrap_or_else(|| format!("none ({budget_key} sets one)"));
    let mut text = vec![
        entry("pages", &sets),
        entry("rule", &rule),
        entry("budget", &budget),
    ];
    let room = usize::from(inside.height).saturating_sub(text.len());
    let said = wrap(said, width.saturating_sub(2));
    text.extend(
        said.iter()
            .take(room)
            .map(|line| Line::from(format!(" {line}"))),
    );
    lines(frame, inside, text);
}
