//! Which keys do what: first those of what is on the screen, then those that work everywhere, then the
//! others under the name of their view; all come from the action table. Popups have keys of their own.

use crossterm::event::{Event, KeyCode, KeyEvent};
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler as _;

use super::action::{ACTIONS, Act, Action};
use super::keymap::{Keymap, label};
use super::model::Focus;
use super::popup::Popup;
use super::text::{fit, wrap};

/// Columns of the keys.
const KEYS: usize = 13;
/// The same where there is little room.
const FEW: usize = 7;
/// A screen that is smaller has room for a few words a key only.
const SMALL: (u16, u16) = (60, 16);

/// Views by the names of their sections, in the order of these.
const VIEWS: &[(Focus, &str)] = &[
    (Focus::Processes, "In the list of processes"),
    (Focus::Stacks, "In the stacks, of the selected layer"),
    (Focus::Map, "On the map"),
    (Focus::Watch, "In the watch view"),
    (Focus::Dedup, "In the view of dedup"),
    (Focus::Jobs, "In the jobs"),
];

/// Lines that belong together.
#[derive(Clone, Debug)]
struct Entry {
    heading: bool,
    lines: Vec<String>,
}

/// The keys, as they are read.
#[derive(Clone, Debug)]
pub(crate) struct Help {
    entries: Vec<Entry>,
    /// Text that shown lines have.
    pub(crate) input: Input,
    /// Keys go into that.
    pub(crate) typing: bool,
    /// The first line shown.
    pub(crate) scroll: usize,
    /// What it was opened over.
    pub(crate) under: Option<Box<Popup>>,
}

/// Lines on a screen of a size.
struct Page {
    columns: usize,
    small: bool,
    entries: Vec<Entry>,
}

impl Page {
    fn of(size: (u16, u16)) -> Self {
        Self {
            columns: usize::from(size.0).saturating_sub(4),
            small: size.0 < SMALL.0 || size.1 < SMALL.1,
            entries: Vec::new(),
        }
    }

    fn heading(&mut self, text: &str) {
        let mut lines = vec![format!(" {text}:")];
        if !self.entries.is_empty() && !self.small {
            lines.insert(0, String::new());
        }
        let heading = true;
        self.entries.push(Entry { heading, lines });
    }

    fn entry(&mut self, keys: &str, text: &str) {
        let wide = if self.small { FEW } else { KEYS };
        let parts = wrap(text, self.columns.saturating_sub(wide + 1));
        let line = |(n, part): (usize, &String)| {
            let keys = if n == 0 { keys } else { "" };
            format!(" {}{part}", fit(keys, wide))
        };
        let lines = parts.iter().enumerate().map(line).collect();
        let heading = false;
        self.entries.push(Entry { heading, lines });
    }

    fn text(&mut self, text: &str) {
        let lines = wrap(text, self.columns.saturating_sub(1));
        let lines = lines.iter().map(|line| format!(" {line}")).collect();
        let heading = false;
        self.entries.push(Entry { heading, lines });
    }

    fn action(&mut self, keymap: &Keymap, row: usize, action: &Action) {
        let chords = keymap.of_row(row);
        let Some(first) = chords.first() else { return };
        let usual = Keymap::default();
        let moves = [Act::Up, Act::Down, Act::Left, Act::Right];
        let as_usual = moves.iter().all(|act| keymap.of(*act) == usual.of(*act));
        let text = if self.small {
            action.brief
        } else {
            action.help
        };
        if text.is_empty() {
            return;
        }
        let keys = match (action.act == Act::Up && as_usual, self.small) {
            (true, true) => "arrows".into(),
            (true, false) => "arrows hjkl".into(),
            (false, true) => label(*first),
            (false, false) => chords
                .iter()
                .map(|key| label(*key))
                .collect::<Vec<_>>()
                .join(" "),
        };
        self.entry(&keys, text);
    }
}

impl Help {
    fn over(page: Page, under: Option<Popup>) -> Self {
        Self {
            entries: page.entries,
            input: Input::default(),
            typing: false,
            scroll: 0,
            under: under.map(Box::new),
        }
    }

    /// The keys of a view, those that work everywhere, and those of other views.
    pub(crate) fn of_view(keymap: &Keymap, focus: Focus, size: (u16, u16)) -> Self {
        let mut page = Page::of(size);
        let rows = || ACTIONS.iter().enumerate();
        let here = |action: &Action| action.at.contains(&focus);
        let name = |of: Focus| {
            VIEWS
                .iter()
                .find(|(view, _)| *view == of)
                .map_or("Here", |v| v.1)
        };
        page.heading(name(focus));
        for (row, action) in rows().filter(|(_, action)| here(action)) {
            page.action(keymap, row, action);
        }
        if focus == Focus::Processes && !page.small {
            page.entry(
                "columns",
                "NEW/S: pages a second that were not dirty before; ALL/S: all that are written in a second, as far as \
                 that was seen since tracking began; T: \u{25c6} is tracked; D: a dump would work (\u{2713}, in ASCII +), \
                 with an option (o), not (\u{2717}, -)",
            );
        }
        page.heading("Everywhere");
        for (row, action) in rows().filter(|(_, action)| action.at.is_empty()) {
            page.action(keymap, row, action);
        }
        if !page.small {
            page.entry(
                "Ctrl-Z",
                "back to the shell until it says fg; waits for dumps and restores that run",
            );
            page.entry(
                "mouse",
                "a click selects, or does what the button, tab or key says that is under it; the wheel moves; text is \
                 selected with Shift held",
            );
        }
        for (view, name) in VIEWS.iter().filter(|(view, _)| *view != focus) {
            let there = |action: &Action| !here(action) && action.at.first() == Some(view);
            let mut others = rows().filter(|(_, action)| there(action)).peekable();
            if others.peek().is_some() {
                page.heading(name);
            }
            for (row, action) in others {
                page.action(keymap, row, action);
            }
        }
        if !page.small {
            page.text("");
            page.text(
                "Map: every stored page in address order; colour and letter name the layer whose \
                 bytes a restore of the selected layer would take (a is the layer itself). \u{25c6} \
                 marks the layer where a live process stands.",
            );
        }
        Self::over(page, None)
    }

    /// The keys of a popup, and then the popup again.
    pub(crate) fn of_popup(popup: Popup, size: (u16, u16)) -> Self {
        let mut page = Page::of(size);
        page.heading("Here");
        for (keys, text) in popup.keys() {
            page.entry(keys, text);
        }
        Self::over(page, Some(popup))
    }

    /// The lines that have what was typed, with the headings above them.
    pub(crate) fn lines(&self) -> Vec<&str> {
        let sought = self.input.value().to_lowercase();
        let has = |entry: &Entry| entry.lines.join(" ").to_lowercase().contains(&sought);
        let mut lines = Vec::new();
        let mut heading: Option<&Entry> = None;
        for entry in &self.entries {
            if entry.heading {
                heading = Some(entry);
            } else if has(entry) {
                let above = heading.take().into_iter();
                lines.extend(above.flat_map(|heading| heading.lines.iter().map(String::as_str)));
                lines.extend(entry.lines.iter().map(String::as_str));
            }
        }
        lines
    }

    /// Takes a key; `room` is the number of lines shown. True: it goes.
    pub(crate) fn key(&mut self, key: KeyEvent, room: usize) -> bool {
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.input.reset();
                }
                _ => drop(self.input.handle_event(&Event::Key(key))),
            }
            self.scroll = 0;
            return false;
        }
        match key.code {
            KeyCode::Esc if !self.input.value().is_empty() => self.input.reset(),
            KeyCode::Esc | KeyCode::Char('q' | '?') | KeyCode::F(1) => return true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll += room,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(room),
            KeyCode::Home | KeyCode::Char('g') => self.scroll = 0,
            KeyCode::End | KeyCode::Char('G') => self.scroll = usize::MAX,
            _ => {}
        }
        self.scroll = self.scroll.min(self.lines().len().saturating_sub(room));
        false
    }
}

impl Popup {
    /// Whether letters are typed into it.
    pub(crate) fn is_typed(&self) -> bool {
        matches!(
            self,
            Self::Ask { .. } | Self::Order { .. } | Self::Palette(_)
        )
    }

    /// Its keys, each with what it does.
    fn keys(&self) -> Vec<(&'static str, &'static str)> {
        let scroll = ("arrows", "scroll, with PageUp, PageDown, g, G too");
        let mut keys = Vec::new();
        match self {
            Self::Preview(preview) => {
                if !preview.options.is_empty() {
                    keys.push(("1-9", "what can be had otherwise: another plan is made"));
                }
                keys.push(("Tab", "the next button; left and right, too"));
                keys.push(("Enter", "do what the chosen button says"));
                keys.push(("up down", "scroll"));
                keys.push(("Esc q", "leave it: nothing was done"));
            }
            Self::Failure(_) => keys.push(("Enter", "close; Esc, too")),
            Self::Reader(reader) => {
                if reader.tabs.len() > 1 {
                    keys.push(("Tab", "the next tab; Shift-Tab: the one before"));
                }
                if reader.beside.iter().any(Option::is_some) {
                    keys.push(("p n", "the page before, the page after"));
                }
                if reader.through.iter().any(Option::is_some) {
                    keys.push(("[ ]", "the same in the layer below, above"));
                }
                keys.push(scroll);
                keys.push(("y", "copy the text"));
                keys.push(("E", "write it to files"));
                keys.push(("Esc q", "close"));
            }
            Self::Answer(answer) => {
                keys.push(("arrows", "move; PageUp, PageDown, g, G, too"));
                keys.push(("Enter", "look closer, where the line leads on"));
                keys.push(("Tab", "between bytes, the next difference"));
                if answer.beside.iter().any(Option::is_some) {
                    keys.push(("p n", "the page before, the page after"));
                }
                keys.push(("y", "copy the text"));
                keys.push(("E", "write it to files"));
                keys.push(("Esc q", "back"));
            }
            Self::Order { .. } => {
                keys.push(("Enter", "let it hold; nothing typed: none"));
                keys.push(("Esc", "leave it as it is"));
            }
            Self::Ask { .. } => {
                keys.push(("Enter", "do it with what was typed"));
                keys.push(("Tab", "for a search: text, bytes, regular expression"));
                keys.push(("Esc", "leave"));
            }
            Self::Palette(_) => {
                keys.push(("letters", "of the name, or of what it does"));
                keys.push(("up down", "choose"));
                keys.push(("Enter", "do it"));
                keys.push(("Esc", "leave"));
            }
            Self::Help(_) => {}
        }
        keys
    }
}
