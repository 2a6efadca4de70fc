//! What lies over the screen and takes the keys: previews, errors, help.

use std::path::{Path, PathBuf};

use crossterm::event::{Event, KeyCode, KeyEvent};
use icecore::Pid;
use icecore::dump::Prediction;
use serde::{Deserialize, Serialize};
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler as _;

use super::action::Act;
use super::export::Export;
use super::follow::{Order, Terms};
use super::help::Help;
use super::inquiry::{Answer, Inquiry, Lead, Sought, Step};
use super::message::{Edit, Failure, Wish};
use super::palette::{Choice, Palette};
use super::reader::{Look, Reader, Turn};

/// A popup.
#[derive(Clone, Debug)]
pub(crate) enum Popup {
    /// What would be done; nothing has been yet.
    Preview(Preview),
    /// What went wrong.
    Failure(Failure),
    /// What was asked of layers, over the whole screen.
    Answer(Box<Answer>),
    /// Text over the whole screen.
    Reader(Box<Reader>),
    /// A rule or a budget that is asked for.
    Order {
        /// The tree that it is for.
        root: Pid,
        /// Which of them.
        terms: Terms,
        /// What was typed so far.
        text: Input,
    },
    /// A text that is asked for.
    Ask {
        /// The layer that it is about.
        dir: PathBuf,
        /// What for.
        about: About,
        /// What was typed so far.
        text: Input,
    },
    /// All actions by name.
    Palette(Palette),
    /// What keys do.
    Help(Box<Help>),
}

/// What a text is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// To search it in the memory of a layer, as that.
    Search(Sought),
    /// To call the layer by it.
    Label,
}

/// How a line of a preview is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mark {
    /// Not at all.
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// In the way.
    Bad,
    /// What to do about the line above.
    Hint,
}

/// What would be done, and the choice to do it.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    /// What it is about.
    pub(crate) title: String,
    /// What would happen.
    pub(crate) lines: Vec<(Mark, String)>,
    /// What can be had otherwise, by the digit keys.
    pub(crate) options: Vec<Choosable>,
    /// What can be chosen; the first is always to leave it.
    pub(crate) buttons: Vec<Button>,
    /// The button with the focus.
    pub(crate) focus: usize,
    /// How the trees are expected to be frozen.
    pub(crate) freezes: Vec<(Pid, Prediction)>,
}

/// A choice.
#[derive(Clone, Debug)]
pub(crate) struct Button {
    /// Its name.
    pub(crate) label: String,
    /// What it does; nothing: cancel.
    pub(crate) deed: Option<Deed>,
}

/// What a choice does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A wish is carried out.
    Wish(Wish),
    /// The program ends.
    Leave(Leave),
}

/// How the program ends while something is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// At once.
    Now,
    /// As soon as no job runs any more.
    Later,
    /// The same, and the jobs are asked to stop.
    Cancelling,
}

impl From<Wish> for Deed {
    fn from(wish: Wish) -> Self {
        Self::Wish(wish)
    }
}

impl From<Leave> for Deed {
    fn from(leave: Leave) -> Self {
        Self::Leave(leave)
    }
}

/// What can be had otherwise: another plan is made for it.
#[derive(Clone, Debug)]
pub(crate) struct Choosable {
    /// What it is.
    pub(crate) label: String,
    /// Whether this plan has it.
    pub(crate) on: bool,
    /// The other wish.
    pub(crate) other: Wish,
}

/// What a key did to a popup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It stays.
    Stay,
    /// It goes.
    Close,
    /// It goes, and this shall be done.
    Do(Wish),
    /// It stays until another plan is there.
    Again(Wish),
    /// It goes, and this holds for a tree.
    Order(Pid, Order),
    /// It goes, and the program ends.
    Leave(Leave),
    /// It goes, and this action is chosen.
    Act(Act),
    /// It stays, and this goes to the clipboard.
    Copy(String),
    /// It stays, and these are written.
    Save(Vec<Export>),
    /// It stays until this can be shown instead.
    Look(Look),
    /// It goes; this is asked.
    Ask(Inquiry),
    /// It goes; this is asked instead.
    Instead(Inquiry),
}

impl Preview {
    /// A preview with `Cancel` focused; see [`Preview::offer`].
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
            options: Vec::new(),
            buttons: vec![Button {
                label: "Cancel".into(),
                deed: None,
            }],
            focus: 0,
            freezes: Vec::new(),
        }
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, mark: Mark, text: impl Into<String>) {
        self.lines.push((mark, text.into()));
    }

    /// Adds something that can be had otherwise.
    pub(crate) fn option(&mut self, label: impl Into<String>, on: bool, other: Wish) {
        let label = label.into();
        self.options.push(Choosable { label, on, other });
    }

    /// Adds a button. `focused` only when choosing it by mistake does no harm.
    pub(crate) fn offer(&mut self, label: impl Into<String>, deed: impl Into<Deed>, focused: bool) {
        if focused {
            self.focus = self.buttons.len();
        }
        self.buttons.push(Button {
            label: label.into(),
            deed: Some(deed.into()),
        });
    }
}

impl Popup {
    /// Takes a key; `room` is the number of lines that a reader shows.
    pub(crate) fn key(&mut self, key: KeyEvent, room: usize) -> Outcome {
        match self {
            Self::Reader(reader) => {
                return match reader.key(key, room) {
                    Turn::Stay => Outcome::Stay,
                    Turn::Close => Outcome::Close,
                    Turn::Look(look) => Outcome::Look(look),
                    Turn::Copy(text) => Outcome::Copy(text),
                    Turn::Save(files) => Outcome::Save(files),
                };
            }
            Self::Answer(answer) => {
                return match answer.key(key, room + 1) {
                    Step::Stay => Outcome::Stay,
                    Step::Close => Outcome::Close,
                    Step::Lead(Lead::Inquiry(inquiry)) => Outcome::Ask(inquiry),
                    Step::Lead(Lead::Look(look)) => Outcome::Look(look),
                    Step::Instead(inquiry) => Outcome::Instead(inquiry),
                    Step::Copy(text) => Outcome::Copy(text),
                    Step::Save(files) => Outcome::Save(files),
                };
            }
            Self::Order { root, terms, text } => match key.code {
                KeyCode::Esc => return Outcome::Close,
                // What makes no sense is explained while it is typed.
                KeyCode::Enter => {
                    let order = terms.read(text.value());
                    return order.map_or(Outcome::Stay, |order| Outcome::Order(*root, order));
                }
                _ => {
                    text.handle_event(&Event::Key(key));
                    return Outcome::Stay;
                }
            },
            Self::Ask { dir, about, text } => return ask(key, dir, about, text),
            Self::Palette(palette) => {
                return match palette.key(key) {
                    Choice::None => Outcome::Stay,
                    Choice::Leave => Outcome::Close,
                    Choice::Act(act) => Outcome::Act(act),
                };
            }
            Self::Preview(_) | Self::Failure(_) | Self::Help(_) => {}
        }
        if matches!(key.code, KeyCode::Esc | KeyCode::Char('q')) {
            return Outcome::Close;
        }
        let Self::Preview(preview) = self else {
            return match key.code {
                KeyCode::Enter | KeyCode::Char(' ') => Outcome::Close,
                _ => Outcome::Stay,
            };
        };
        let last = preview.buttons.len().saturating_sub(1);
        match key.code {
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => {
                preview.focus = if preview.focus >= last {
                    0
                } else {
                    preview.focus + 1
                };
            }
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
                preview.focus = preview.focus.checked_sub(1).unwrap_or(last);
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let n = usize::try_from(u32::from(digit) - u32::from('1')).unwrap_or(usize::MAX);
                if let Some(option) = preview.options.get(n) {
                    return Outcome::Again(option.other.clone());
                }
            }
            KeyCode::Enter => {
                let chosen = preview.buttons.get(preview.focus);
                return match chosen.and_then(|button| button.deed.clone()) {
                    None => Outcome::Close,
                    Some(Deed::Wish(wish)) => Outcome::Do(wish),
                    Some(Deed::Leave(how)) => Outcome::Leave(how),
                };
            }
            _ => {}
        }
        Outcome::Stay
    }
}

fn ask(key: KeyEvent, dir: &Path, about: &mut About, text: &mut Input) -> Outcome {
    match key.code {
        KeyCode::Esc => return Outcome::Close,
        KeyCode::Tab => {
            if let About::Search(sought) = about {
                *sought = sought.next();
            }
        }
        // A name can be taken away; nothing cannot be searched.
        KeyCode::Enter if *about == About::Label || !text.value().is_empty() => {
            let (dir, text) = (dir.to_path_buf(), text.value().to_owned());
            return match *about {
                // What makes no sense is explained while it is typed.
                About::Search(sought) if sought.pattern(&text).is_err() => Outcome::Stay,
                About::Search(sought) => Outcome::Ask(Inquiry::Search { dir, text, sought }),
                About::Label => Outcome::Do(Wish::Edit(Edit::Label { dir, text })),
            };
        }
        KeyCode::Enter => {}
        _ => drop(text.handle_event(&Event::Key(key))),
    }
    Outcome::Stay
}
