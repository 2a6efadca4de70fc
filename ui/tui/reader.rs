//! Text over the whole screen, in tabs: a layer and what is in it, a page of memory, what differs
//! between two layers, what a search found.

use std::ops::Range;
use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent};
use icecore::image::PagemapId;
use icecore::{Pid, Vaddr};
use serde_json::Value;

use super::export::{self, Export};

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A tab of a layer.
    Layer {
        /// The layer.
        dir: PathBuf,
        /// Number of the tab.
        tab: usize,
    },
    /// A page of memory as of a layer.
    Page {
        /// The layer.
        dir: PathBuf,
        /// Of which process or segment.
        id: PagemapId,
        /// Address of its first byte.
        addr: Vaddr,
        /// Bytes that are marked, and where it is opened, when they are in it; none when empty.
        marked: Range<Vaddr>,
    },
    /// What process trees hold, and whether they can be dumped.
    Check(Vec<Pid>),
    /// Whether every byte of a layer and of those below is what was written.
    Verify(PathBuf),
}

impl Look {
    /// The same of another layer; nothing where it is not of one.
    pub(crate) fn of_layer(&self, other: PathBuf) -> Option<Self> {
        let mut look = self.clone();
        match &mut look {
            Self::Layer { dir, .. } | Self::Page { dir, .. } => *dir = other,
            Self::Check(_) | Self::Verify(_) => return None,
        }
        Some(look)
    }
}

/// One tab.
#[derive(Clone, Debug)]
pub(crate) struct Tab {
    /// Its name.
    pub(crate) name: String,
    /// What it says; the first line stays when the others scroll.
    pub(crate) head: String,
    /// The others.
    pub(crate) lines: Vec<String>,
    /// The rows of a table as a file has them; none where it is a text.
    pub(crate) cells: Vec<Value>,
    /// Of lines of bytes: the addresses of those that are marked.
    pub(crate) marked: Range<Vaddr>,
    /// It has been read; of layers, only what somebody looks at is.
    pub(crate) read: bool,
}

/// What is being read.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// What it is about.
    pub(crate) title: String,
    /// At least one.
    pub(crate) tabs: Vec<Tab>,
    /// The tab shown.
    pub(crate) at: usize,
    /// Its first line shown.
    pub(crate) scroll: usize,
    /// The page before, the page after: `p` and `n`.
    pub(crate) beside: [Option<Look>; 2],
    /// The same in the layer below and above: `[` and `]`.
    pub(crate) through: [Option<Look>; 2],
    /// The layer whose tabs these are, or of which it is a page.
    pub(crate) layer: Option<PathBuf>,
}

/// What a key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It stays.
    Stay,
    /// It goes.
    Close,
    /// Something else is to be looked at.
    Look(Look),
    /// This goes to the clipboard.
    Copy(String),
    /// These are written.
    Save(Vec<Export>),
}

impl Reader {
    /// Lines without tabs.
    pub(crate) fn of_text(title: &str, lines: Vec<String>) -> Self {
        let tab = Tab {
            name: title.to_lowercase(),
            head: String::new(),
            lines,
            cells: Vec::new(),
            marked: 0..0,
            read: true,
        };
        Self {
            title: title.into(),
            tabs: vec![tab],
            at: 0,
            scroll: 0,
            beside: [None, None],
            through: [None, None],
            layer: None,
        }
    }

    /// Takes a key; `room` is the number of lines shown.
    pub(crate) fn key(&mut self, key: KeyEvent, room: usize) -> Turn {
        let last = self.tabs.len().saturating_sub(1);
        let end = self
            .tabs
            .get(self.at)
            .map_or(0, |tab| tab.lines.len().saturating_sub(room));
        let before = self.at;
        match key.code {
            KeyCode::Esc | KeyCode::Char('q') => return Turn::Close,
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => {
                self.at = if self.at == last { 0 } else { self.at + 1 };
            }
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                self.at = self.at.checked_sub(1).unwrap_or(last);
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll += room,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(room),
            KeyCode::Home | KeyCode::Char('g') => self.scroll = 0,
            KeyCode::End | KeyCode::Char('G') => self.scroll = end,
            KeyCode::Char('y') => return Turn::Copy(self.copied()),
            KeyCode::Char('E') => return Turn::Save(self.exported()),
            KeyCode::Char(c) => {
                let look = match c {
                    'p' => &self.beside[0],
                    'n' => &self.beside[1],
                    '[' => &self.through[0],
                    ']' => &self.through[1],
                    _ => &None,
                };
                let mut look = look.clone();
                if let Some(Look::Layer { tab, .. }) = &mut look {
                    *tab = self.at;
                }
                return look.map_or(Turn::Stay, Turn::Look);
            }
            _ => {}
        }
        if self.at != before {
            self.scroll = 0;
        }
        self.scroll = self.scroll.min(end);
        self.unread().map_or(Turn::Stay, Turn::Look)
    }

    /// Shows another tab.
    pub(crate) fn turn_to(&mut self, at: usize) -> Turn {
        if at < self.tabs.len() && at != self.at {
            (self.at, self.scroll) = (at, 0);
        }
        self.unread().map_or(Turn::Stay, Turn::Look)
    }

    /// What has to be read before the tab can be shown.
    fn unread(&self) -> Option<Look> {
        let unread = self.tabs.get(self.at).is_some_and(|tab| !tab.read);
        let dir = self.layer.clone().filter(|_| unread)?;
        Some(Look::Layer { dir, tab: self.at })
    }

    /// Takes over where one was in `old`, and what was read there of the same layer.
    pub(crate) fn succeed(&mut self, old: &mut Self) {
        if self.tabs.len() != old.tabs.len() {
            return;
        }
        if self.layer.is_some() && self.layer == old.layer {
            for (tab, old) in self.tabs.iter_mut().zip(&mut old.tabs) {
                if !tab.read {
                    *tab = std::mem::replace(old, tab.clone());
                }
            }
        }
        if self.tabs.get(old.at).is_some_and(|tab| tab.read) {
            (self.at, self.scroll) = (old.at, old.scroll);
        }
    }

    /// The tab shown as text.
    fn copied(&self) -> String {
        let Some(tab) = self.tabs.get(self.at) else {
            return String::new();
        };
        let head = (!tab.head.is_empty()).then_some(&tab.head);
        head.into_iter()
            .chain(&tab.lines)
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// The tab shown as files: a table where it is one.
    fn exported(&self) -> Vec<Export> {
        let Some(tab) = self.tabs.get(self.at) else {
            return Vec::new();
        };
        export::table_or_text(&tab.name, &tab.cells, self.copied())
    }

    /// Scrolls by lines, down or (negative) up.
    pub(crate) fn scroll(&mut self, lines: isize, room: usize) {
        let tab = self.tabs.get(self.at);
        let end = tab.map_or(0, |tab| tab.lines.len().saturating_sub(room));
        self.scroll = self.scroll.saturating_add_signed(lines).min(end);
    }

    /// The keys that do something here.
    pub(crate) fn keys(&self) -> String {
        let mut keys = Vec::new();
        if self.tabs.len() > 1 {
            keys.push("Tab next");
        }
        if self.beside.iter().any(Option::is_some) {
            keys.push("p n page");
        }
        if self.through.iter().any(Option::is_some) {
            keys.push("[ ] layer below, above");
        }
        keys.push("arrows scroll");
        if self
            .tabs
            .get(self.at)
            .is_some_and(|tab| !tab.cells.is_empty())
        {
            keys.push("E export");
        }
        keys.push("Esc close");
        keys.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(lines: usize) -> Reader {
        let tab = |name: &str| Tab {
            name: name.into(),
            head: String::new(),
            lines: (0..lines).map(|n| n.to_string()).collect(),
            cells: Vec::new(),
            marked: 0..0,
            read: true,
        };
        Reader {
            title: String::new(),
            tabs: vec![tab("a"), tab("b")],
            at: 0,
            scroll: 0,
            beside: [None, Some(Look::Verify("/next".into()))],
            through: [None, None],
            layer: None,
        }
    }

    #[test]
    fn scrolling_ends_where_the_last_line_is_seen_and_each_tab_begins_at_its_top() {
        let mut reader = reader(25);
        for _ in 0..40 {
            reader.key(KeyCode::Down.into(), 10);
        }
        assert_eq!(reader.scroll, 15);
        reader.key(KeyCode::Tab.into(), 10);
        assert_eq!((reader.at, reader.scroll), (1, 0));
        reader.key(KeyCode::Tab.into(), 10);
        assert_eq!(reader.at, 0);
        reader.key(KeyCode::End.into(), 40);
        assert_eq!(reader.scroll, 0, "all of it is seen");
    }

    #[test]
    fn tabs_of_a_layer_are_read_when_they_are_looked_at_and_kept() {
        let of_layer = |at| {
            let mut reader = reader(30);
            reader.layer = Some("/img/1".into());
            reader.at = at;
            reader.tabs[1 - at].read = false;
            reader.tabs[1 - at].lines.clear();
            reader
        };
        let mut shown = of_layer(0);
        let wanted = Turn::Look(Look::Layer {
            dir: "/img/1".into(),
            tab: 1,
        });
        assert_eq!(shown.key(KeyCode::Tab.into(), 10), wanted);
        let mut read = of_layer(1);
        read.succeed(&mut shown);
        assert!(
            read.tabs
                .iter()
                .all(|tab| tab.read && tab.lines.len() == 30)
        );
        assert_eq!(read.at, 1);
        assert_eq!(read.key(KeyCode::Tab.into(), 10), Turn::Stay, "it is kept");
        // Another layer has its own.
        let mut other = of_layer(0);
        other.layer = Some("/img/2".into());
        other.succeed(&mut read);
        assert!(!other.tabs[1].read);
    }

    #[test]
    fn keys_lead_to_what_is_beside_where_there_is_something() {
        let mut reader = reader(1);
        let next = Turn::Look(Look::Verify("/next".into()));
        assert_eq!(reader.key(KeyCode::Char('n').into(), 9), next);
        assert_eq!(reader.key(KeyCode::Char('p').into(), 9), Turn::Stay);
        assert_eq!(reader.key(KeyCode::Esc.into(), 9), Turn::Close);
    }
}
