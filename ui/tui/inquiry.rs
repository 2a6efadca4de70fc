//! What differs between two layers, by mapping, then by page, then byte by byte; and where something is in the
//! memory of a stack. An answer is a list whose lines lead on; Esc leads back.

mod compare;
mod search;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent};
use icecore::image::PagemapId;
use icecore::inspect::{Pages, Pattern};
use icecore::{Cancel, Result, Vaddr};
use serde_json::Value;

use super::export::{self, Export};
use super::popup::Mark;
use super::reader::Look;
use crate::cli::search as search_line;
use crate::format;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inquiry {
    /// What became of a tree from one layer to another.
    Layers {
        /// The first layer.
        from: PathBuf,
        /// The second one.
        to: PathBuf,
    },
    /// Which pages of a mapping differ, and how much.
    Pages(Arc<Differing>),
    /// The bytes of a page in both.
    Bytes {
        /// Pages that differ, this one among them.
        of: Arc<Differing>,
        /// Address of the page.
        addr: Vaddr,
    },
    /// Where something is in the memory of a layer and of those below.
    Search {
        /// The layer.
        dir: PathBuf,
        /// What was typed.
        text: String,
        /// What that means.
        sought: Sought,
    },
}

/// What a typed text stands for in a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sought {
    /// Itself.
    #[default]
    Text,
    /// Bytes, in hexadecimal digits.
    Bytes,
    /// All that a regular expression means.
    Regex,
}

impl Sought {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bytes => "hexadecimal bytes",
            Self::Regex => "regular expression",
        }
    }

    /// The next one, around.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Text => Self::Bytes,
            Self::Bytes => Self::Regex,
            Self::Regex => Self::Text,
        }
    }

    /// What is looked for.
    ///
    /// # Errors
    /// When `text` makes no sense so.
    pub(crate) fn pattern(self, text: &str) -> Result<Pattern> {
        match self {
            Self::Text => Pattern::text(text),
            Self::Bytes => Pattern::bytes(&search_line::bytes(text)?),
            Self::Regex => Pattern::regex(text),
        }
    }
}

/// Pages of a mapping that differ between two layers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Differing {
    /// The first layer.
    pub(crate) from: PathBuf,
    /// The second one.
    pub(crate) to: PathBuf,
    /// Of which process or segment.
    pub(crate) id: PagemapId,
    /// Which.
    pub(crate) pages: Pages,
}

/// Where a line leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// To another question.
    Inquiry(Inquiry),
    /// To something that is read.
    Look(Look),
}

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What it says.
    pub(crate) text: String,
    /// The same as a row of a file; none where it only explains.
    pub(crate) cells: Option<Value>,
    /// How it is marked.
    pub(crate) mark: Mark,
    /// Where it leads.
    pub(crate) lead: Option<Lead>,
}

/// Bytes of a page, or why there are none.
pub(crate) type Side = std::result::Result<Vec<u8>, String>;

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// It is being found out.
    Waits,
    /// Lines.
    Rows(Vec<Row>),
    /// A page in both layers.
    Bytes([(String, Side); 2]),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// What was asked.
    pub(crate) inquiry: Inquiry,
    /// What it is about.
    pub(crate) title: String,
    /// Above the lines; stays when they scroll.
    pub(crate) head: String,
    /// The lines.
    pub(crate) body: Body,
    /// The selected line, or the first one shown of bytes.
    pub(crate) at: usize,
    /// The page before, the page after.
    pub(crate) beside: [Option<Inquiry>; 2],
}

/// What a key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that matters elsewhere.
    Stay,
    /// It goes.
    Close,
    /// On to this.
    Lead(Lead),
    /// To this instead.
    Instead(Inquiry),
    /// This goes to the clipboard.
    Copy(String),
    /// These are written.
    Save(Vec<Export>),
}

impl Inquiry {
    /// What it is called.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Layers { from, to } => {
                format!("From layer {} to layer {}", name(from), name(to))
            }
            Self::Pages(of) => format!(
                "{} of {}: from layer {} to layer {}",
                of.what(),
                whose(of.id),
                name(&of.from),
                name(&of.to)
            ),
            Self::Bytes { of, addr } => format!(
                "Page {addr:x} of {} {}: from layer {} to layer {}",
                whose(of.id),
                of.what(),
                name(&of.from),
                name(&of.to)
            ),
            Self::Search { dir, text, sought } => {
                let what = match sought {
                    Sought::Text => String::new(),
                    other => format!("{} ", other.name()),
                };
                let text = format::plain(text);
                format!("{what}“{text}” in layer {} and those below", name(dir))
            }
        }
    }

    /// What files of it are called.
    fn topic(&self) -> &'static str {
        match self {
            Self::Layers { .. } => "differing-mappings",
            Self::Pages(_) => "differing-pages",
            Self::Bytes { .. } => "differing-bytes",
            Self::Search { .. } => "found",
        }
    }

    /// Finds the answer.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub(crate) fn answer(&self, cancel: &Cancel) -> Result<Answer> {
        match self {
            Self::Layers { from, to } => compare::layers(self, from, to),
            Self::Pages(of) => compare::pages(self, of, cancel),
            Self::Bytes { of, addr } => compare::bytes(self, of, *addr),
            Self::Search { dir, text, sought } => {
                search::search(self, dir, &sought.pattern(text)?, cancel)
            }
        }
    }
}

impl Differing {
    /// What the mapping is called.
    fn what(&self) -> String {
        match self.pages.name.as_str() {
            "" => self.pages.mapping.to_string(),
            name => format::plain(name),
        }
    }
}

impl Answer {
    /// The answer to `inquiry` as long as there is none.
    pub(crate) fn waits(inquiry: Inquiry) -> Self {
        Self {
            title: inquiry.title(),
            inquiry,
            head: String::new(),
            body: Body::Waits,
            at: 0,
            beside: [None, None],
        }
    }

    fn of_rows(inquiry: &Inquiry, head: String, rows: Vec<Row>) -> Self {
        let leads = rows.iter().position(|row| row.lead.is_some());
        Self {
            head,
            at: leads.unwrap_or(0),
            body: Body::Rows(rows),
            ..Self::waits(inquiry.clone())
        }
    }

    /// Lines that one can go to; of bytes, those of sixteen.
    fn len(&self) -> usize {
        match &self.body {
            Body::Waits => 0,
            Body::Rows(rows) => rows.len(),
            Body::Bytes(sides) => {
                let longest = sides.iter().filter_map(|(_, side)| side.as_ref().ok());
                longest.map(|bytes| bytes.len() / 16).max().unwrap_or(0)
            }
        }
    }

    /// Takes a key; `room` is the number of lines shown.
    pub(crate) fn key(&mut self, key: KeyEvent, room: usize) -> Step {
        let last = self.len().saturating_sub(1);
        let page = room.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Esc | KeyCode::Char('q') => return Step::Close,
            KeyCode::Up | KeyCode::Char('k') => self.at = self.at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.at += 1,
            KeyCode::PageUp => self.at = self.at.saturating_sub(page),
            KeyCode::PageDown => self.at += page,
            KeyCode::Home | KeyCode::Char('g') => self.at = 0,
            KeyCode::End | KeyCode::Char('G') => self.at = last,
            KeyCode::Char('y') => return Step::Copy(self.text()),
            KeyCode::Char('E') => return Step::Save(self.exported()),
            KeyCode::Tab => self.at = self.next_difference(),
            KeyCode::Char('p') | KeyCode::Char('n') => {
                let which = usize::from(key.code == KeyCode::Char('n'));
                let beside = self.beside.get(which).cloned().flatten();
                return beside.map_or(Step::Stay, Step::Instead);
            }
            KeyCode::Enter | KeyCode::Right => {
                let row = match &self.body {
                    Body::Rows(rows) => rows.get(self.at),
                    _ => None,
                };
                let lead = row.and_then(|row| row.lead.clone());
                return lead.map_or(Step::Stay, Step::Lead);
            }
            KeyCode::Left => return Step::Close,
            _ => {}
        }
        self.at = self.at.min(last);
        Step::Stay
    }

    /// The next line of bytes that differ, around; of a list, where one is.
    fn next_difference(&self) -> usize {
        let Body::Bytes([(_, Ok(a)), (_, Ok(b))]) = &self.body else {
            return self.at;
        };
        let lines = a.chunks(16).zip(b.chunks(16)).enumerate();
        let mut differ = lines.filter(|(_, (a, b))| a != b).map(|(line, _)| line);
        let first = differ.next();
        let after = |line: &usize| *line > self.at;
        let next = first.filter(after).or_else(|| differ.find(after));
        next.or(first).unwrap_or(self.at)
    }

    /// Its lines as text.
    fn text(&self) -> String {
        let line = |text: &str| format!("{}\n", text.trim_end());
        match &self.body {
            Body::Waits => String::new(),
            Body::Rows(rows) => {
                let rows = rows.iter().map(|row| line(&row.text));
                std::iter::once(line(&self.head)).chain(rows).collect()
            }
            Body::Bytes(sides) => {
                let side = |(name, side): &(String, Side)| match side {
                    Err(why) => format!("{name}: {why}\n"),
                    Ok(bytes) => {
                        let lines = (0u64..).step_by(16).zip(bytes.chunks(16));
                        let lines = lines.map(|(at, bytes)| line(&format::hex_line(at, bytes)));
                        format!("{name}\n{}", lines.collect::<String>())
                    }
                };
                sides.iter().map(side).collect()
            }
        }
    }

    /// As files: a table where it is one.
    fn exported(&self) -> Vec<Export> {
        let cells: Vec<Value> = match &self.body {
            Body::Rows(rows) => rows.iter().filter_map(|row| row.cells.clone()).collect(),
            Body::Waits | Body::Bytes(_) => Vec::new(),
        };
        export::table_or_text(self.inquiry.topic(), &cells, self.text())
    }

    /// Where one is in it.
    pub(crate) fn spoken(&self) -> String {
        match &self.body {
            Body::Waits => "It is being found out.".into(),
            Body::Rows(rows) => {
                let row = rows.get(self.at).map_or("", |row| row.text.trim());
                let head = self.head.trim();
                format!(
                    "Line {} of {}: {row}. Columns: {head}.",
                    self.at + 1,
                    rows.len()
                )
            }
            Body::Bytes([(from, Ok(a)), (to, Ok(b))]) => {
                let at = self.at * 16;
                let line = |bytes: &[u8]| {
                    let bytes = bytes.get(at..).unwrap_or_default().iter().take(16);
                    let bytes: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
                    bytes.join(" ")
                };
                let (a, b) = (line(a), line(b));
                if a == b {
                    format!("{at:x}, equal: {a}.")
                } else {
                    format!("{at:x}, different: {a} in layer {from}, {b} in layer {to}.")
                }
            }
            Body::Bytes(sides) => {
                let why = |(name, side): &(String, Side)| match side {
                    Ok(_) => format!("Layer {name} has the page."),
                    Err(why) => format!("Layer {name}: {why}."),
                };
                sides.iter().map(why).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The keys that do something here.
    pub(crate) fn keys(&self) -> String {
        let mut keys = Vec::new();
        if let Body::Rows(rows) = &self.body
            && rows.iter().any(|row| row.lead.is_some())
        {
            keys.push("Enter look closer");
        }
        if matches!(self.body, Body::Bytes([(_, Ok(_)), (_, Ok(_))])) {
            keys.push("Tab next difference");
        }
        if self.beside.iter().any(Option::is_some) {
            keys.push("p n other page");
        }
        keys.push("arrows");
        if matches!(self.body, Body::Rows(_)) {
            keys.push("E export");
        }
        keys.push("Esc back");
        keys.join("  ")
    }
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    format::plain(&name.to_string_lossy())
}

fn whose(id: PagemapId) -> String {
    match id {
        PagemapId::Task(pid) => format!("process {pid}"),
        PagemapId::Shared(shmid) => format!("shared segment {shmid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tab_goes_from_difference_to_difference_around() {
        let from = vec![0u8; 256];
        let mut to = from.clone();
        (to[35], to[36], to[200]) = (1, 1, 1);
        let inquiry = Inquiry::Layers {
            from: "/img/1".into(),
            to: "/img/2".into(),
        };
        let mut answer = Answer {
            body: Body::Bytes([("1".into(), Ok(from)), ("2".into(), Ok(to))]),
            ..Answer::waits(inquiry)
        };
        let mut seen = Vec::new();
        for _ in 0..3 {
            answer.key(KeyCode::Tab.into(), 10);
            seen.push(answer.at);
        }
        assert_eq!(seen, [2, 12, 2]);
        assert!(answer.spoken().starts_with("20, different: "));
    }

    #[test]
    fn a_list_begins_where_it_leads_somewhere_and_ends_at_its_last_line() {
        let dir = PathBuf::from("/img/3");
        let inquiry = Inquiry::Search {
            dir: dir.clone(),
            text: "x".into(),
            sought: Sought::Text,
        };
        let lead = Lead::Look(Look::Verify(dir));
        let row = |lead: Option<&Lead>| Row {
            text: "line".into(),
            cells: None,
            mark: Mark::Plain,
            lead: lead.cloned(),
        };
        let rows = vec![row(None), row(Some(&lead)), row(None)];
        let mut answer = Answer::of_rows(&inquiry, "head".into(), rows);
        assert_eq!(answer.key(KeyCode::Enter.into(), 10), Step::Lead(lead));
        answer.key(KeyCode::PageDown.into(), 10);
        assert_eq!(answer.at, 2);
        assert_eq!(answer.key(KeyCode::Enter.into(), 10), Step::Stay);
        assert_eq!(answer.key(KeyCode::Char('n').into(), 10), Step::Stay);
        assert_eq!(answer.key(KeyCode::Esc.into(), 10), Step::Close);
    }
}
