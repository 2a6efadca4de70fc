//! `cargo xtask screenshots`: the demo, driven in a real terminal, as pictures in `assets`.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use vt100::{Cell, Color};

const COLUMNS: u16 = 120;
const ROWS: u16 = 34;
const PATIENCE: Duration = Duration::from_secs(30);
/// Pixels of a cell.
const CELL: (f32, f32) = (8.4, 17.0);
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d5d8de";

/// Runs the demo and takes its pictures.
pub(crate) fn run() -> Result<()> {
    let built = Command::new("cargo").args(["build", "--quiet"]).status()?;
    ensure!(built.success(), "cargo build failed");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let icecore = fs::canonicalize(target.join("debug/icecore"))?;
    let mut screen = Screen::start(&icecore)?;
    screen.wait("1 of 7")?;
    screen.press("w")?;
    screen.wait("new pages/s now")?;
    screen.wait("2 of 7")?;
    screen.rest(Duration::from_secs(3))?;
    for number in 1..=4 {
        screen.press("d")?;
        screen.wait("[>Dump ]")?;
        if number == 2 {
            screen.picture("dump")?;
        }
        screen.rest(Duration::from_secs(1))?;
        screen.press("\r")?;
        screen.wait(&format!("Who owns each page of {number} "))?;
        screen.rest(Duration::from_secs(2))?;
    }
    screen.press("\t\t")?;
    screen.wait("5 of 7")?;
    screen.press("\x1b[B\x1b[B\x1b[C\x1b[C\x1b[C")?;
    // Until what has just ended is no longer shown.
    screen.rest(Duration::from_secs(6))?;
    screen.picture("screen")?;
    screen.press("\x1b[Z\x1b[ZW")?;
    screen.wait("A dump made now")?;
    screen.rest(Duration::from_secs(4))?;
    screen.picture("watch")?;
    // Back to the second layer, and a branch from there.
    screen.press("W\t[[")?;
    screen.wait("Who owns each page of 2 ")?;
    screen.press("r")?;
    screen.wait("Keep and restore")?;
    screen.picture("restore")?;
    screen.press("\t\r")?;
    screen.wait("runs again")?;
    screen.wait("6 of 7")?;
    screen.rest(Duration::from_secs(2))?;
    screen.press("d")?;
    screen.wait("[>Dump ]")?;
    screen.press("\r")?;
    screen.wait("├─╯")?;
    screen.wait("7 of 7")?;
    screen.rest(Duration::from_secs(7))?;
    screen.picture("branch")?;
    screen.press("c")?;
    screen.wait("CHANGED")?;
    screen.picture("compare")?;
    screen.press("\r")?;
    screen.wait("WHERE IN THE PAGE")?;
    screen.press("\r")?;
    screen.wait("Tab next difference")?;
    screen.picture("bytes")?;
    screen.press("qqq")?;
    screen.rest(Duration::from_millis(300))?;
    screen.press("D")?;
    screen.wait("[x] unchanged")?;
    screen.rest(Duration::from_secs(2))?;
    screen.picture("dedup")?;
    // Out of the view, and out of the demo, which removes what it made.
    screen.press("q")?;
    screen.rest(Duration::from_millis(300))?;
    screen.press("q")?;
    screen.child.wait()?;
    Ok(())
}

/// The demo in a terminal.
struct Screen {
    parser: vt100::Parser,
    output: Receiver<Vec<u8>>,
    keys: Box<dyn std::io::Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    _pty: Box<dyn MasterPty + Send>,
}

impl Screen {
    fn start(icecore: &Path) -> Result<Self> {
        let size = PtySize {
            rows: ROWS,
            cols: COLUMNS,
            pixel_width: 0,
            pixel_height: 0,
        };
        let pair = native_pty_system().openpty(size)?;
        let mut command = CommandBuilder::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.arg(icecore);
        command.arg("demo");
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        command.env_remove("NO_COLOR");
        command.env_remove("COLORTERM");
        command.env("ICECORE_CONFIG", "/dev/null");
        // Nobody can make a directory there: each run is the first one.
        command.env("XDG_STATE_HOME", "/proc/nowhere");
        let child = pair.slave.spawn_command(command)?;
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader()?;
        let keys = pair.master.take_writer()?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let dimension = |n| NonZero::new(n).context("a terminal has rows and columns");
        Ok(Self {
            parser: vt100::Parser::new(dimension(ROWS)?, dimension(COLUMNS)?, 0),
            output,
            keys,
            child,
            _pty: pair.master,
        })
    }

    fn wait(&mut self, text: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.parser.screen().contents().contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            let bytes = self.output.recv_timeout(left);
            let bytes = bytes.map_err(|e| anyhow!("no {text} ({e})"))?;
            self.parser.process(&bytes);
        }
        Ok(())
    }

    /// Takes in what comes in that time.
    fn rest(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Ok(bytes) = self
            .output
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.parser.process(&bytes);
        }
        Ok(())
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// Writes the screen as `assets/NAME.svg`.
    fn picture(&mut self, name: &str) -> Result<()> {
        self.rest(Duration::from_millis(500))?;
        fs::create_dir_all("assets")?;
        fs::write(format!("assets/{name}.svg"), svg(self.parser.screen()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ended = self.child.kill();
    }
}

fn svg(screen: &vt100::Screen) -> String {
    let (width, height) = (
        f32::from(COLUMNS) * CELL.0 + 20.0,
        f32::from(ROWS) * CELL.1 + 20.0,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );
    for row in 0..ROWS {
        let mut column = 0;
        while column < COLUMNS {
            let Some(cell) = screen.cell(row, column) else {
                break;
            };
            // As many cells as look alike.
            let style = style(cell);
            let first = column;
            let mut text = String::new();
            while let Some(cell) = screen.cell(row, column).filter(|c| self::style(c) == style) {
                text.push_str(if cell.has_contents() {
                    cell.contents()
                } else {
                    " "
                });
                column += 1;
                if column == COLUMNS {
                    break;
                }
            }
            draw(&mut out, (first, row), column - first, &text, &style);
        }
    }
    out + "</svg>\n"
}

/// Foreground, background, bold, dim.
type Style = (String, String, bool, bool);

fn style(cell: &Cell) -> Style {
    let fore = color(cell.fgcolor()).unwrap_or_else(|| FOREGROUND.to_owned());
    let back = color(cell.bgcolor()).unwrap_or_else(|| BACKGROUND.to_owned());
    let (fore, back) = if cell.inverse() {
        (back, fore)
    } else {
        (fore, back)
    };
    (fore, back, cell.bold(), cell.dim())
}

fn color(color: Color) -> Option<String> {
    match color {
        Color::Default => None,
        Color::Rgb(r, g, b) => Some(format!("#{r:02x}{g:02x}{b:02x}")),
        Color::Idx(index) => Some(indexed(index)),
    }
}

/// A colour of xterm's palette.
fn indexed(index: u8) -> String {
    const BASIC: [&str; 16] = [
        "#000000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5",
        "#666666", "#f14c4c", "#23d18b", "#f5f543", "#3b8eea", "#d670d6", "#29b8db", "#ffffff",
    ];
    match index {
        0..16 => BASIC[usize::from(index)].to_owned(),
        16..232 => {
            let level = |n: u8| if n == 0 { 0 } else { 55 + n * 40 };
            let n = index - 16;
            let (r, g, b) = (level(n / 36), level(n / 6 % 6), level(n % 6));
            format!("#{r:02x}{g:02x}{b:02x}")
        }
        232.. => {
            let grey = 8 + (index - 232) * 10;
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}

/// Braille, as a path: fonts differ in how wide they make it. The bits are those of Unicode, the dots of a
/// column that touch become one bar.
fn dots((x, y): (f32, f32), text: &str) -> String {
    const COLUMNS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    let (width, height) = (CELL.0 / 2.0, CELL.1 / 4.0);
    let mut path = String::new();
    for (cell, c) in text.chars().enumerate() {
        let bits = u32::from(c) - 0x2800;
        for (half, column) in COLUMNS.iter().enumerate() {
            let left = x + (cell * 2 + half) as f32 * width;
            let mut from = None;
            for row in 0..=column.len() {
                let is_set = column.get(row).is_some_and(|bit| bits & bit != 0);
                match (from, is_set) {
                    (None, true) => from = Some(row),
                    (Some(first), false) => {
                        let (top, tall) =
                            (y + first as f32 * height, (row - first) as f32 * height);
                        let _ = write!(
                            path,
                            "M{left:.1} {top:.1}h{:.1}v{tall:.1}h-{:.1}z",
                            width - 0.6,
                            width - 0.6
                        );
                        from = None;
                    }
                    _ => {}
                }
            }
        }
    }
    path
}

fn draw(out: &mut String, (column, row): (u16, u16), cells: u16, text: &str, style: &Style) {
    let (fore, back, bold, dim) = style;
    let (x, y) = (
        10.0 + f32::from(column) * CELL.0,
        10.0 + f32::from(row) * CELL.1,
    );
    let width = f32::from(cells) * CELL.0;
    // Writing to a String cannot fail.
    if back != BACKGROUND {
        let height = CELL.1;
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{back}\"/>"
        );
    }
    if text.chars().all(|c| c == '▀') {
        // Half blocks are drawn: fonts leave gaps between them.
        let height = CELL.1 / 2.0;
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fore}\"/>"
        );
        return;
    }
    if text.chars().all(|c| matches!(c, '\u{2800}'..='\u{28ff}')) {
        let _ = writeln!(out, "<path fill=\"{fore}\" d=\"{}\"/>", dots((x, y), text));
        return;
    }
    if text.trim().is_empty() {
        return;
    }
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let weight = if *bold { " font-weight=\"bold\"" } else { "" };
    let opacity = if *dim { " opacity=\"0.6\"" } else { "" };
    let baseline = y + 13.0;
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{baseline:.1}\" textLength=\"{width:.1}\" fill=\"{fore}\"{weight}{opacity} xml:space=\"preserve\">{text}</text>"
    );
}
