//! The terminal: taken at the start, given back however the program ends.

use std::io::{self, Stdout, Write as _, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossterm::cursor::Show;
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::execute;
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use icecore::{Error, Result};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::model::Model;
use super::view;

/// The terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The screen; dropping it gives the terminal back.
#[derive(Debug)]
pub(crate) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal, and its mouse if wanted.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn take(mouse: bool) -> Result<Self> {
        let cannot = |e| Error::io("Cannot take over the terminal", e);
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            previous(info);
        }));
        enable_raw_mode().map_err(cannot)?;
        TAKEN.store(true, Ordering::SeqCst);
        execute!(stdout(), EnterAlternateScreen).map_err(cannot)?;
        if mouse {
            execute!(stdout(), EnableMouseCapture).map_err(cannot)?;
        }
        Terminal::new(CrosstermBackend::new(stdout()))
            .map(Self)
            .map_err(cannot)
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u16, u16) {
        self.0
            .size()
            .map_or((80, 24), |size| (size.width, size.height))
    }

    /// Draws the model, all at once.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn draw(&mut self, model: &Model) -> Result<()> {
        let mut draw = || -> io::Result<()> {
            execute!(stdout(), BeginSynchronizedUpdate)?;
            self.0.draw(|frame| view::draw(model, frame))?;
            execute!(stdout(), EndSynchronizedUpdate)
        };
        draw().map_err(|e| Error::io("Cannot write to the terminal", e))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives a text to the terminal's clipboard, also through ssh: OSC 52 (xterm's "Manipulate Selection
/// Data"). A terminal that does not know it ignores it.
///
/// # Errors
/// When the terminal is gone.
pub(super) fn copy(text: &str) -> Result<()> {
    let encoded = STANDARD.encode(text);
    execute!(stdout(), Print(format!("\x1b]52;c;{encoded}\x1b\\")))
        .map_err(|e| Error::io("Cannot write to the terminal", e))
}

/// Gives the terminal back, once.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Nobody is left to tell when the terminal is gone.
        let _raw = disable_raw_mode();
        let _screen = execute!(
            stdout(),
            EndSynchronizedUpdate,
            DisableMouseCapture,
            LeaveAlternateScreen,
            Show
        );
        let _flushed = stdout().flush();
    }
}
