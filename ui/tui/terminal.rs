//! The terminal: taken at the start, given back however the program ends.

use std::io::{self, BufWriter, Stdout, Write as _, stdout};
use std::mem::ManuallyDrop;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossterm::cursor::Show;
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use icecore::{Error, Result};
use nix::sys::signal::{Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect};

use super::model::Model;
use super::view;

/// The terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The screen; dropping it gives the terminal back.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Never dropped: of a terminal that has hung up it would tell standard error, which is gone with it,
    /// and panic. The cursor is given back with the rest.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>,
    mouse: bool,
    /// The next frame draws everything.
    resized: bool,
}

/// Room for a frame in bytes: standard output alone writes each kibibyte by itself, and each such
/// write wakes the terminal.
const ROOM: usize = 256 << 10;

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
        enter(mouse).map_err(cannot)?;
        let terminal = open().map_err(cannot)?;
        Ok(Self {
            terminal,
            mouse,
            resized: false,
        })
    }

    /// Gives the terminal back, stops the program as a shell's job is stopped (SIGTSTP), and takes the
    /// terminal again when somebody brings it back. A program that no shell waits for goes on at once:
    /// the kernel stops no orphaned process group (`setpgid(2)`).
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn stop(&mut self) -> Result<()> {
        give_back();
        raise(Signal::SIGTSTP).map_err(|e| Error::io("Cannot stop", e.into()))?;
        let mut again = || {
            enter(self.mouse)?;
            // A new one takes the other screen for empty, as it is, and draws everything; `clear`
            // would ask the terminal for its cursor, and the answer come among the keys.
            self.terminal = open()?;
            Ok::<_, io::Error>(())
        };
        again().map_err(|e| Error::io("Cannot take over the terminal", e))
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u16, u16) {
        self.terminal
            .size()
            .map_or((80, 24), |size| (size.width, size.height))
    }

    /// Makes the next frame draw everything: a terminal that has had another size meanwhile has lost
    /// what did not fit, also when it has the old size again by the time one looks.
    pub(crate) fn resized(&mut self) {
        self.resized = true;
    }

    /// Draws the model, all at once.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn draw(&mut self, model: &Model) -> Result<()> {
        let mut draw = || -> io::Result<()> {
            queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
            if std::mem::take(&mut self.resized) {
                let size = self.terminal.size()?;
                self.terminal.resize(Rect::from((Position::ORIGIN, size)))?;
            }
            self.terminal.draw(|frame| view::draw(model, frame))?;
            execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)
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

fn open() -> io::Result<ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>> {
    let out = BufWriter::with_capacity(ROOM, stdout());
    Terminal::new(CrosstermBackend::new(out)).map(ManuallyDrop::new)
}

fn enter(mouse: bool) -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen)?;
    if mouse {
        execute!(stdout(), EnableMouseCapture)?;
    }
    Ok(())
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
