//! A program in a terminal: a pty, its screen read back by a terminal emulator.

use std::io::{Read as _, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// Longer than anything takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program in a terminal.
pub struct Term {
    pub screen: vt100::Parser,
    pub bytes: Vec<u8>,
    output: Receiver<Vec<u8>>,
    keys: Box<dyn Write + Send>,
    pub child: Box<dyn Child + Send + Sync>,
    pty: Box<dyn MasterPty + Send>,
}

impl Term {
    /// Starts it.
    pub fn start(mut command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let size = PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size).unwrap();
        command.env("TERM", "xterm-256color");
        // Nothing is kept from one test to another: nobody can make a directory there.
        command.env("XDG_STATE_HOME", "/proc/nowhere");
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let keys = pair.master.take_writer().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            screen: vt100::Parser::new(
                NonZero::new(rows).unwrap(),
                NonZero::new(columns).unwrap(),
                0,
            ),
            bytes: Vec::new(),
            output,
            keys,
            child,
            pty: pair.master,
        }
    }

    /// Waits until the screen is as wanted.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !wanted(self.screen.screen()) {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.screen.process(&bytes);
                    self.bytes.extend(bytes);
                }
                Err(e) => panic!("no {what} ({e}):\n{}", self.screen.screen().contents()),
            }
        }
    }

    /// Waits for a text on the screen.
    pub fn wait_text(&mut self, text: &str) {
        self.wait(text, |screen| screen.contents().contains(text));
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Gives the terminal another size; the screen is empty until the program draws it.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        // What it had written for the old size is not what is waited for.
        while let Ok(bytes) = self.output.try_recv() {
            self.screen.process(&bytes);
            self.bytes.extend(bytes);
        }
        self.screen.process(b"\x1b[2J");
        let screen = self.screen.screen_mut();
        screen.set_size(NonZero::new(rows).unwrap(), NonZero::new(columns).unwrap());
        self.pty.resize(size).unwrap();
    }

    /// Waits for the end of the program and takes in all it wrote.
    pub fn end(&mut self) -> u32 {
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE) {
            self.screen.process(&bytes);
            self.bytes.extend(bytes);
        }
        self.child.wait().unwrap().exit_code()
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.screen().contents()
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        let _ended = self.child.kill();
    }
}
