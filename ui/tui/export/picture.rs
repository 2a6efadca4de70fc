//! The map and the chart of writes as SVG.
//!
//! A picture goes to papers and printers: what a colour tells is written, too, as a letter in the cells and as
//! a title that a browser shows. Source: SVG 1.1 (shapes, text, `title`).

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::format::{count, plain};
use crate::tui::color;
use crate::tui::live::Live;
use crate::tui::map::Owner;
use crate::tui::model::Model;
use crate::tui::text::{age, size};
use crate::tui::theme::{Colors, Theme};

/// Units of a picture: a pixel of the map, the height of a line, the margin.
const PIXEL: usize = 12;
const LINE: usize = 20;
const MARGIN: usize = 16;
/// Columns of a letter of the text, as nearly as a font that nobody knows lets one say.
const LETTER: usize = 9;

/// Room of the chart, and of the numbers on its left.
const WIDTH: usize = 800;
const HEIGHT: usize = 240;
const NUMBERS: usize = 150;
/// Parts of the axis of times.
const TIMES: u32 = 4;

/// A picture with a title, in a system of coordinates that begins below it.
pub(super) fn svg(width: usize, height: usize, title: &str, inside: &str) -> String {
    let width = width.max(title.chars().count() * LETTER);
    let (columns, rows) = (width + 2 * MARGIN, height + 2 * MARGIN + LINE);
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {columns} {rows}\" \
         font-family=\"monospace\" font-size=\"14\" shape-rendering=\"crispEdges\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n\
         <g transform=\"translate({MARGIN} {})\">\n{inside}</g>\n</svg>\n",
        MARGIN + LINE / 2,
        MARGIN + LINE
    )
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// The part of the map that is shown, with its legend.
pub(super) fn map(model: &Model) -> Option<String> {
    let map = model.map.as_ref()?;
    let shown = &model.pixels;
    let columns = usize::from(model.grid.0).max(1);
    // Whatever the terminal has: a picture has all colours.
    let theme = Theme {
        colors: Colors::True,
        ..model.theme
    };
    let colors = |owner: Owner| {
        let (r, g, b) = theme
            .owner_color(owner, map.last())
            .map_or((128, 128, 128), color::rgb);
        // The letter on it, dark or light.
        let bright = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) > 128_000;
        let ink = if bright { "black" } else { "white" };
        (format!("#{r:02x}{g:02x}{b:02x}"), ink)
    };
    let mut inside = String::new();
    let rows: Vec<&[Owner]> = shown.pixels.chunks(columns).collect();
    for (y, row) in rows.iter().enumerate() {
        let mut x = 0;
        for same in row.chunk_by(|a, b| a == b) {
            if let Some(owner) = same.first() {
                let ((fill, ink), letter) = (colors(*owner), map.letter(*owner));
                // Writing to a String cannot fail.
                let _infallible = writeln!(
                    inside,
                    "<g><title>{letter} {}</title>\
                     <rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{PIXEL}\" fill=\"{fill}\"/>\
                     <text x=\"{}\" y=\"{}\" font-size=\"10\" fill=\"{ink}\">{letter}</text></g>",
                    escaped(map.name(*owner)),
                    x * PIXEL,
                    y * PIXEL,
                    same.len() * PIXEL,
                    x * PIXEL + 3,
                    y * PIXEL + 9,
                );
            }
            x += same.len();
        }
    }
    let legend = rows.len() * PIXEL + LINE / 2;
    for (n, (owner, pages)) in shown.shares.iter().enumerate() {
        let y = legend + n * LINE;
        let percent = *pages as f64 * 100.0 / shown.pages.max(1) as f64;
        let (letter, name) = (map.letter(*owner), escaped(map.name(*owner)));
        let _infallible = writeln!(
            inside,
            "<rect y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\" stroke=\"black\"/>\
             <text x=\"20\" y=\"{}\">{letter} {name}: {}, {percent:.1}%</text>",
            colors(*owner).0,
            y + 11,
            count(*pages, "page"),
        );
    }
    let part = map.part(model.zoom, shown.first);
    let title = format!(
        "{} {}{}: {}, {}; a square is {}",
        map.coloring.title(),
        map.levels.first().map_or("", String::as_str),
        part.map_or_else(String::new, |part| format!(", {part}")),
        count(shown.pages, "page"),
        size(shown.pages * 4096),
        count(shown.pages_per_pixel, "page")
    );
    let height = legend + shown.shares.len() * LINE;
    Some(svg(columns * PIXEL, height, &title, &inside))
}

/// Where times and rates are in the chart.
struct Scale {
    from: Duration,
    to: Duration,
    peak: f64,
}

impl Scale {
    fn x(&self, at: Duration) -> f64 {
        let span = (self.to - self.from).as_secs_f64().max(f64::MIN_POSITIVE);
        let x = at.saturating_sub(self.from).as_secs_f64() / span;
        NUMBERS as f64 + x.min(1.0) * WIDTH as f64
    }

    fn y(&self, rate: f64) -> f64 {
        HEIGHT as f64 * (1.0 - rate / self.peak)
    }

    /// Lines across with their rates, lines up with their times.
    fn axes(&self, now: SystemTime) -> String {
        let mut axes = String::new();
        let right = NUMBERS + WIDTH;
        for part in [1.0, 0.5, 0.0] {
            let (rate, y) = (self.peak * part, self.y(self.peak * part));
            let bytes = size((rate * 4096.0).round() as u64);
            let _infallible = writeln!(
                axes,
                "<line x1=\"{NUMBERS}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#bbbbbb\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.0} ({bytes}/s)</text>",
                NUMBERS - 8,
                y + 5.0,
            );
        }
        let span = self.to - self.from;
        for part in 0..=TIMES {
            let at = self.from + span * part / TIMES;
            let (x, ago) = (self.x(at), self.to - at);
            let text = match ago.as_secs() {
                0 => "now".to_owned(),
                seconds => format!("{} ago", age(seconds)),
            };
            let _infallible = writeln!(
                axes,
                "<line x1=\"{x:.1}\" y1=\"{HEIGHT}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"black\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                HEIGHT + 5,
                HEIGHT + LINE,
                clock(now, ago),
                HEIGHT + 2 * LINE,
            );
        }
        let middle = NUMBERS + WIDTH / 2;
        let _infallible = writeln!(
            axes,
            "<line x1=\"{NUMBERS}\" y1=\"{HEIGHT}\" x2=\"{right}\" y2=\"{HEIGHT}\" stroke=\"black\"/>\
             <line x1=\"{NUMBERS}\" y1=\"0\" x2=\"{NUMBERS}\" y2=\"{HEIGHT}\" stroke=\"black\"/>\
             <text x=\"0\" y=\"-12\">pages a second</text>\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">time (UTC)</text>",
            HEIGHT + 3 * LINE,
        );
        axes
    }
}

/// The time of day so long before `now`.
fn clock(now: SystemTime, ago: Duration) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.unwrap_or_default().saturating_sub(ago).as_secs() % 86400;
    let (hours, minutes) = (second / 3600, second / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", second % 60)
}

/// The rates of the selected tree over time.
pub(super) fn chart(model: &Model) -> Option<String> {
    let (pid, name) = model.target()?;
    let live = model.live.get(&pid.as_raw())?;
    let last = live.last.as_ref()?;
    let scale = Scale {
        from: live.points.front()?.0,
        to: last.at,
        peak: live.points.iter().map(|(_, y)| *y).fold(1.0, f64::max),
    };
    let mut inside = scale.axes(model.now);
    for (from, to) in live.gaps.iter().filter(|(_, to)| *to > scale.from) {
        let (left, right) = (scale.x(*from), scale.x(*to));
        let _infallible = writeln!(
            inside,
            "<rect x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#eeeeee\">\
             <title>nothing was counted</title></rect>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555555\">not counted</text>",
            right - left,
            (left + right) / 2.0,
            HEIGHT / 2,
        );
    }
    for line in lines(live) {
        let points: Vec<String> = line
            .iter()
            .map(|(at, rate)| format!("{:.1},{:.1}", scale.x(*at), scale.y(*rate)))
            .collect();
        // A line of one point would not be seen.
        let _infallible = match points.as_slice() {
            [_] => line.iter().try_for_each(|(at, rate)| {
                writeln!(
                    inside,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"#2060c0\"/>",
                    scale.x(*at),
                    scale.y(*rate)
                )
            }),
            all => writeln!(
                inside,
                "<polyline points=\"{}\" fill=\"none\" shape-rendering=\"auto\" stroke=\"#2060c0\" stroke-width=\"2\"/>",
                all.join(" ")
            ),
        };
    }
    // Names that would lie upon each other are at different heights.
    let marks = live.armed.iter().filter(|(at, _)| *at >= scale.from);
    for (n, (at, id)) in marks.enumerate() {
        let layer = model.layers().find(|l| l.id.is_some() && l.id == *id);
        let said = layer.map_or_else(
            || "tracked anew".to_owned(),
            |layer| format!("layer {}", layer.name),
        );
        let x = scale.x(*at);
        // Near the right end there is no room after it.
        let (side, anchor) = if x > (NUMBERS + WIDTH * 4 / 5) as f64 {
            (-4.0, "end")
        } else {
            (4.0, "start")
        };
        let _infallible = writeln!(
            inside,
            "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{HEIGHT}\" stroke=\"#c04000\" \
             stroke-dasharray=\"4 3\"/><text x=\"{:.1}\" y=\"{}\" fill=\"#c04000\" \
             text-anchor=\"{anchor}\">{}</text>",
            x + side,
            14 + n % 4 * LINE,
            escaped(&said),
        );
    }
    let title = format!(
        "New dirty pages a second of {} {pid}: {:.0} at most",
        plain(&name),
        scale.peak
    );
    let (width, height) = (NUMBERS + WIDTH + 4 * LETTER, HEIGHT + 4 * LINE);
    // Below the title there is the unit of the rates.
    let inside = format!("<g transform=\"translate(0 {LINE})\">\n{inside}</g>\n");
    Some(svg(width, height, &title, &inside))
}

/// The rates in pieces between which nothing was counted.
fn lines(live: &Live) -> Vec<Vec<(Duration, f64)>> {
    let mut lines: Vec<Vec<(Duration, f64)>> = Vec::new();
    for point in &live.points {
        let gap = |before: &(Duration, f64)| {
            let mut gaps = live.gaps.iter();
            gaps.any(|(from, to)| *from >= before.0 && *to <= point.0)
        };
        match lines
            .last_mut()
            .filter(|line| !line.last().is_some_and(gap))
        {
            Some(line) => line.push(*point),
            None => lines.push(vec![*point]),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_parts_of_a_picture() {
        assert!(svg(1, 1, "<script>&", "").contains("&lt;script&gt;&amp;</title>"));
    }

    #[test]
    fn a_time_before_now_is_told_as_one_of_the_day() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86400 + 3723);
        assert_eq!(clock(now, Duration::from_secs(0)), "01:02:03");
        assert_eq!(clock(now, Duration::from_secs(3724)), "23:59:59");
    }
}
