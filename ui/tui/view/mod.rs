//! Drawing. Views only read the model; what is expensive was prepared before.

mod chrome;
mod live;
mod map;
mod popup;
mod processes;
mod reader;
mod stacks;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::action::Act;
use super::message::Failure;
use super::model::{Focus, Model};
use super::text::wrap;
use super::theme::Theme;

pub(crate) use map::grid;
pub(crate) use reader::room as reader_room;

/// The smallest terminal that shows something.
pub(crate) const SMALLEST: (u16, u16) = (40, 10);

/// Where everything is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Areas {
    /// Title bar.
    pub(crate) header: Rect,
    /// The tour.
    pub(crate) banner: Rect,
    /// Running processes.
    pub(crate) processes: Rect,
    /// Layers.
    pub(crate) stacks: Rect,
    /// Ownership map.
    pub(crate) map: Rect,
    /// Dirty pages.
    pub(crate) live: Rect,
    /// What happened.
    pub(crate) log: Rect,
    /// Keys.
    pub(crate) footer: Rect,
}

/// Divides the screen. A narrow one shows the pane with the keyboard only.
pub(crate) fn areas(size: (u16, u16), guided: bool, focus: Focus) -> Areas {
    let (width, height) = size;
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return Areas::default();
    }
    let banner = if guided { 2 } else { 0 };
    let log = match height {
        0..16 => 0,
        16..30 => 1,
        _ => 4,
    };
    let body = height - 2 - banner - log;
    let top = 1 + banner;
    let whole = Rect::new(0, top, width, body);
    let mut areas = Areas {
        header: Rect::new(0, 0, width, 1),
        banner: Rect::new(0, 1, width, banner),
        log: Rect::new(0, top + body, width, log),
        footer: Rect::new(0, height - 1, width, 1),
        ..Areas::default()
    };
    if width < 70 || body < 14 {
        match focus {
            Focus::Processes => areas.processes = whole,
            Focus::Stacks => areas.stacks = whole,
            Focus::Map => areas.map = whole,
        }
        return areas;
    }
    let upper = body / 2;
    let lower = body - upper;
    let half = width / 2;
    let right = (width * 2 / 5).clamp(32, 48);
    areas.processes = Rect::new(0, top, half, upper);
    areas.stacks = Rect::new(half, top, width - half, upper);
    areas.map = Rect::new(0, top + upper, width - right, lower);
    areas.live = Rect::new(width - right, top + upper, right, lower);
    areas
}

/// Draws everything.
pub(crate) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let (width, height) = (frame.area().width, frame.area().height);
    if width < SMALLEST.0 || height < SMALLEST.1 {
        let text = format!(
            "Terminal is {width}x{height}.\nicecore needs {}x{}.\n{} quits",
            SMALLEST.0,
            SMALLEST.1,
            model.keys.label(Act::Quit)
        );
        frame.render_widget(Paragraph::new(text), frame.area());
    } else {
        let areas = areas((width, height), model.guide.is_some(), model.focus);
        chrome::header(model, frame, areas.header);
        chrome::banner(model, frame, areas.banner);
        processes::draw(model, frame, areas.processes);
        stacks::draw(model, frame, areas.stacks);
        map::draw(model, frame, areas.map);
        live::draw(model, frame, areas.live);
        chrome::log(model, frame, areas.log);
        chrome::footer(model, frame, areas.footer);
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

/// Draws the frame of a pane; returns its inside.
fn pane(
    frame: &mut Frame<'_>,
    area: Rect,
    theme: Theme,
    focused: bool,
    title: &str,
    note: &str,
) -> Rect {
    let mut block = Block::bordered()
        .border_style(theme.frame(focused))
        .title_top(Line::from(Span::styled(
            format!(" {title} "),
            theme.title(focused),
        )));
    if !note.is_empty() {
        let note = format!(" {note} ");
        block = block.title_bottom(Line::from(Span::styled(note, theme.dim())).right_aligned());
    }
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

/// Draws lines, one a row.
fn lines(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    if !area.is_empty() {
        frame.render_widget(Paragraph::new(lines), area);
    }
}
