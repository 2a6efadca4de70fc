//! Drawing. Views only read the model; what is expensive was prepared before.

mod answer;
mod chrome;
mod dedup;
mod footer;
mod help;
mod jobs;
mod live;
mod map;
mod palette;
mod popup;
mod processes;
mod reader;
mod stacks;
mod watch;
mod words;

use crossterm::event::KeyCode;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use tui_input::Input;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::message::Failure;
use super::model::{Focus, Model};
use super::spots::Spot;
use super::text::{cut, hints, wrap};
use super::theme::Theme;
use crate::format;

pub(crate) use answer::row_at;
pub(crate) use help::room as help_room;
pub(crate) use map::grid;
pub(crate) use popup::{explain, extent};
pub(crate) use reader::room as reader_room;
pub(crate) use watch::is_small as is_watch_small;

/// The smallest terminal that shows something.
pub(crate) const SMALLEST: (u16, u16) = (40, 10);

/// Where a view is on a screen that has room for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The upper half, left.
    UpperLeft,
    /// The upper half, right.
    UpperRight,
    /// The lower half, left of the counter.
    Lower,
    /// Over all others, with a key of its own.
    Whole,
}

/// Something that the keyboard can be in.
pub(crate) struct View {
    /// Which one it is.
    pub(crate) focus: Focus,
    /// Where it is.
    pub(crate) place: Place,
    /// Draws it.
    draw: fn(&Model, &mut Frame<'_>, Rect),
}

/// All views, in the order in which the keyboard goes through them. Another one is a file here, a
/// [`Focus`] and a row; those over the whole screen have a key of their own instead.
pub(crate) static VIEWS: &[View] = &[
    View {
        focus: Focus::Processes,
        place: Place::UpperLeft,
        draw: processes::draw,
    },
    View {
        focus: Focus::Stacks,
        place: Place::UpperRight,
        draw: stacks::draw,
    },
    View {
        focus: Focus::Map,
        place: Place::Lower,
        draw: map::draw,
    },
    View {
        focus: Focus::Jobs,
        place: Place::Whole,
        draw: jobs::draw,
    },
    View {
        focus: Focus::Watch,
        place: Place::Whole,
        draw: watch::draw,
    },
    View {
        focus: Focus::Dedup,
        place: Place::Whole,
        draw: dedup::draw,
    },
];

/// The place of a view.
pub(crate) fn place_of(focus: Focus) -> Option<Place> {
    let view = VIEWS.iter().find(|view| view.focus == focus);
    view.map(|view| view.place)
}

/// The views that share the screen.
fn shared() -> impl Iterator<Item = &'static View> {
    VIEWS.iter().filter(|view| view.place != Place::Whole)
}

/// The view `steps` after `focus`, around.
pub(crate) fn beside(focus: Focus, steps: isize) -> Focus {
    let count = isize::try_from(shared().count()).unwrap_or(1);
    let at = shared().position(|view| view.focus == focus);
    let at = isize::try_from(at.unwrap_or(0)).unwrap_or(0);
    let to = usize::try_from((at + steps).rem_euclid(count)).unwrap_or(0);
    shared().nth(to).map_or(focus, |view| view.focus)
}

/// Where everything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Areas {
    /// Title bar.
    pub(crate) header: Rect,
    /// The tour.
    pub(crate) banner: Rect,
    /// The views that are shown.
    pub(crate) views: Vec<(Focus, Rect)>,
    /// Dirty pages.
    pub(crate) live: Rect,
    /// What happened.
    pub(crate) log: Rect,
    /// Keys.
    pub(crate) footer: Rect,
}

impl Areas {
    /// Where a view is; empty when it is not shown.
    pub(crate) fn of(&self, focus: Focus) -> Rect {
        let found = self.views.iter().find(|(shown, _)| *shown == focus);
        found.map_or(Rect::default(), |(_, area)| *area)
    }
}

/// Columns beside the text of the tour.
pub(crate) const BESIDE_BANNER: usize = 3;
/// Rows that a view has whatever the tour says: frame, head and some of a list.
const LEAST: u16 = 5;

/// Divides the screen, with so many rows for the tour. A narrow one shows the view with the keyboard only,
/// and so does one where that is `enlarged`.
pub(crate) fn areas(size: (u16, u16), told: usize, focus: Focus, enlarged: bool) -> Areas {
    let (width, height) = size;
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return Areas::default();
    }
    // What a key says it cannot do is read in the log: a line of that stays where there is room.
    let log = match height {
        0..16 => 0,
        16..30 => 1,
        _ if enlarged => 1,
        _ => 4,
    };
    let banner = u16::try_from(told).unwrap_or(u16::MAX);
    let banner = banner.min(height - 2 - log - LEAST);
    let body = height - 2 - banner - log;
    let top = 1 + banner;
    let mut areas = Areas {
        header: Rect::new(0, 0, width, 1),
        banner: Rect::new(0, 1, width, banner),
        log: Rect::new(0, top + body, width, log),
        footer: Rect::new(0, height - 1, width, 1),
        ..Areas::default()
    };
    if place_of(focus) == Some(Place::Whole) {
        // What happened is in the jobs' view.
        areas.log.height = 0;
        areas.views = vec![(focus, Rect::new(0, top, width, body + log))];
        return areas;
    }
    if enlarged || is_small(size, told > 0) {
        areas.views = vec![(focus, Rect::new(0, top, width, body))];
        return areas;
    }
    let upper = body / 2;
    let lower = body - upper;
    let half = width / 2;
    let right = (width * 2 / 5).clamp(32, 48);
    let place = |view: &View| match view.place {
        Place::UpperLeft => Rect::new(0, top, half, upper),
        Place::UpperRight => Rect::new(half, top, width - half, upper),
        Place::Lower => Rect::new(0, top + upper, width - right, lower),
        Place::Whole => Rect::default(),
    };
    areas.views = shared().map(|v| (v.focus, place(v))).collect();
    areas.live = Rect::new(width - right, top + upper, right, lower);
    areas
}

/// Whether there is room for one view only.
pub(crate) fn is_small((width, height): (u16, u16), guided: bool) -> bool {
    let around = 2 + if guided { 2 } else { 0 } + u16::from(height >= 16);
    width < 70 || height < 14 + around
}

/// Draws everything.
pub(crate) fn draw(model: &Model, frame: &mut Frame<'_>) {
    model.spots.clear();
    let (width, height) = (frame.area().width, frame.area().height);
    if width < SMALLEST.0 || height < SMALLEST.1 {
        // The most important first: of a very small one that is all that is seen. Ctrl-C quits
        // whatever is open.
        let text = format!(
            "{}x{} needed\n(this is {width}x{height})\nCtrl-C quits",
            SMALLEST.0, SMALLEST.1
        );
        frame.render_widget(Paragraph::new(text), frame.area());
    } else if let Some(voice) = &model.voice {
        words::draw(model, voice, frame);
    } else {
        let areas = model.areas();
        chrome::header(model, frame, areas.header);
        chrome::banner(model, frame, areas.banner);
        for view in VIEWS {
            let area = areas.of(view.focus);
            if !area.is_empty() {
                (view.draw)(model, frame, area);
            }
        }
        live::draw(model, frame, areas.live);
        chrome::log(model, frame, areas.log);
        footer::draw(model, frame, areas.footer);
        jobs::toasts(model, frame);
        popup::draw(model, frame);
    }
    model.theme.finish(frame.buffer_mut());
}

/// Says in a pane why there is nothing in it, and what to do about that.
fn failure(model: &Model, failure: &Failure, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width).saturating_sub(4);
    let text = [
        (model.theme.bad(), Some(("✗", &failure.text))),
        (
            model.theme.dim(),
            failure.hint.as_ref().map(|hint| ("→", hint)),
        ),
    ];
    let mut shown = Vec::new();
    for (style, part) in text {
        let Some((mut sign, part)) = part else {
            continue;
        };
        for part in wrap(part, width) {
            shown.push(Line::from(vec![
                Span::styled(format!(" {sign} "), style),
                Span::raw(part),
            ]));
            sign = " ";
        }
    }
    lines(frame, area, shown);
}

/// What a pane says about its filter.
fn filter_note(filter: &Input, typing: bool) -> String {
    let (before, after) = filter.value().split_at(
        (filter.value().char_indices().nth(filter.cursor()))
            .map_or(filter.value().len(), |(at, _)| at),
    );
    match (typing, filter.value()) {
        (true, _) => format!(
            "filter: {}_{}  Enter keep, Esc all",
            format::plain(before),
            format::plain(after)
        ),
        (false, "") => String::new(),
        (false, text) => format!("filter: {}  Esc all", format::plain(text)),
    }
}

/// Draws the frame of a pane; returns its inside.
fn pane(
    frame: &mut Frame<'_>,
    area: Rect,
    theme: Theme,
    focused: bool,
    title: &str,
    note: &str,
) -> Rect {
    let columns = usize::from(area.width).saturating_sub(4);
    let mut block = Block::bordered()
        .border_style(theme.frame(focused))
        .title_top(Line::from(Span::styled(
            format!(" {} ", cut(title, columns)),
            theme.title(focused),
        )));
    let note = hints(note, columns);
    if !note.is_empty() {
        let note = format!(" {note} ");
        block = block.title_bottom(Line::from(Span::styled(note, theme.dim())).right_aligned());
    }
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

/// Notes the keys that the lower frame of a dialog names.
fn named(model: &Model, area: Rect, note: &str) {
    let note = hints(note, usize::from(area.width).saturating_sub(4));
    // A blank and the corner come after it.
    let room = u16::try_from(note.width() + 2).unwrap_or(area.width);
    let mut x = area.right().saturating_sub(room);
    for part in note.split("  ") {
        let width = u16::try_from(part.width()).unwrap_or(0);
        let code = match part.split(' ').next() {
            Some("Esc") => Some(KeyCode::Esc),
            Some("Enter") => Some(KeyCode::Enter),
            Some("Tab") => Some(KeyCode::Tab),
            _ => None,
        };
        if let Some(code) = code {
            let place = Rect::new(x, area.bottom().saturating_sub(1), width, 1);
            model.spots.note(place, Spot::Key(code));
        }
        x = x.saturating_add(width + 2);
    }
}

/// Writes at the upper right of a frame where one is in what it shows.
fn corner(model: &Model, frame: &mut Frame<'_>, area: Rect, place: &str) {
    let width = u16::try_from(place.len()).unwrap_or(0);
    let corner = Rect {
        x: area.x + area.width.saturating_sub(width + 2),
        y: area.y,
        width,
        height: area.height.min(1),
    };
    let text = Line::styled(place.to_owned(), model.theme.dim());
    lines(frame, corner, vec![text]);
}

/// A row of an area.
fn row(area: Rect, n: u16) -> Rect {
    let row = Rect {
        y: area.y.saturating_add(n),
        height: 1,
        ..area
    };
    row.intersection(area)
}

/// Draws lines, one a row.
fn lines(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    if !area.is_empty() {
        frame.render_widget(Paragraph::new(lines), area);
    }
}

/// A line that is typed into, with its cursor; of a long text the part around that.
fn field(model: &Model, input: &Input, columns: usize) -> Line<'static> {
    let room = columns.saturating_sub(2);
    let (mut before, mut after) = (String::new(), String::new());
    for (n, letter) in input.value().chars().enumerate() {
        if n < input.cursor() {
            &mut before
        } else {
            &mut after
        }
        .push(letter);
    }
    let scroll = input.visual_scroll(room);
    let mut hidden = 0;
    let start = before.char_indices().find_map(|(at, letter)| {
        let start = hidden >= scroll;
        hidden += letter.width().unwrap_or(0);
        start.then_some(at)
    });
    let shown = before.get(start.unwrap_or(if scroll > 0 { before.len() } else { 0 })..);
    let mut after = after.chars();
    let under = after.next().unwrap_or(' ');
    Line::from(vec![
        Span::raw(format!(" {}", format::plain(shown.unwrap_or_default()))),
        Span::styled(
            format::plain(&under.to_string()),
            model.theme.selected(true),
        ),
        Span::raw(format::plain(after.as_str())),
    ])
}
