//! Every style and every glyph comes from here.
//!
//! Plain text has neither foreground nor background of ours, so that light and dark terminals both
//! work; what is selected is reversed *and* marked. Colour is never the only sign: layers have
//! letters, and without colour (`NO_COLOR`) or Unicode (`LANG=C`) the map is drawn with them.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

use super::map::Owner;

/// How many colours there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colors {
    /// None at all.
    None,
    /// The terminal's own sixteen.
    Sixteen,
    /// 256.
    Indexed,
}

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    /// Colours to choose from.
    pub(crate) colors: Colors,
    /// Nothing but ASCII.
    pub(crate) ascii: bool,
}

/// Layers with a colour of their own, newest first (Okabe and Ito's set, told apart by everyone).
const OWNERS: [(u8, Color); 7] = [
    (214, Color::Yellow),
    (39, Color::Blue),
    (35, Color::Green),
    (175, Color::Magenta),
    (202, Color::Red),
    (117, Color::Cyan),
    (227, Color::LightYellow),
];

impl Theme {
    /// What the environment asks for.
    pub(crate) fn from_env() -> Self {
        let of = |name: &str| std::env::var(name).unwrap_or_default();
        let term = of("TERM");
        let bare = term == "linux" || term == "dumb";
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .map(of)
            .find(|value| !value.is_empty());
        let colors = if !of("NO_COLOR").is_empty() || term == "dumb" {
            Colors::None
        } else if bare {
            Colors::Sixteen
        } else {
            Colors::Indexed
        };
        Self {
            colors,
            ascii: bare || matches!(locale.as_deref(), Some("C" | "POSIX")),
        }
    }

    /// The map shows letters instead of coloured half blocks.
    pub(crate) fn letters(self) -> bool {
        self.ascii || self.colors == Colors::None
    }

    /// The selected row; `focused` when its pane has the keyboard.
    pub(crate) fn selected(self, focused: bool) -> Style {
        if focused {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        }
    }

    /// Titles of panes.
    pub(crate) fn title(self, focused: bool) -> Style {
        let style = Style::new();
        if focused {
            self.tint(style.add_modifier(Modifier::BOLD), 39, Color::Cyan)
        } else {
            style
        }
    }

    /// Frames of panes.
    pub(crate) fn frame(self, focused: bool) -> Style {
        if focused {
            self.tint(Style::new(), 39, Color::Cyan)
        } else {
            self.dim()
        }
    }

    /// Bars at the top.
    pub(crate) fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Less important.
    pub(crate) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// More important.
    pub(crate) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// All is well.
    pub(crate) fn good(self) -> Style {
        self.tint(Style::new(), 35, Color::Green)
    }

    /// Worth a look.
    pub(crate) fn warn(self) -> Style {
        self.tint(Style::new(), 208, Color::Yellow)
    }

    /// Wrong.
    pub(crate) fn bad(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        self.tint(style, 196, Color::Red)
    }

    /// A layer's (or a missing page's) colour; `last` is the lowest layer of the stack.
    pub(crate) fn owner(self, owner: Owner, last: usize) -> Style {
        match self.owner_color(owner, last) {
            Some(color) => Style::new().fg(color),
            None => Style::new(),
        }
    }

    /// The same as a colour.
    pub(crate) fn owner_color(self, owner: Owner, last: usize) -> Option<Color> {
        let pick = |index, plain| match self.colors {
            Colors::None => None,
            Colors::Sixteen => Some(plain),
            Colors::Indexed => Some(Color::Indexed(index)),
        };
        match owner {
            Owner::Missing => pick(196, Color::LightRed),
            // The base is most of the picture: it stays in the background.
            Owner::Layer(n) if n == last && n > 0 => pick(61, Color::Gray),
            Owner::Layer(n) => match OWNERS.get(n) {
                Some((index, plain)) => pick(*index, *plain),
                None => pick(102, Color::DarkGray),
            },
        }
    }

    fn tint(self, style: Style, index: u8, plain: Color) -> Style {
        match self.colors {
            Colors::None => style,
            Colors::Sixteen => style.fg(plain),
            Colors::Indexed => style.fg(Color::Indexed(index)),
        }
    }

    /// Replaces what the terminal cannot show. Runs once over the finished picture.
    pub(crate) fn finish(self, buffer: &mut Buffer) {
        if !self.ascii {
            return;
        }
        for cell in &mut buffer.content {
            if !cell.symbol().is_ascii() {
                cell.set_symbol(ascii(cell.symbol()));
            }
        }
    }
}

/// The letter of a layer: `a` is the newest of the stack.
pub(crate) fn letter(owner: Owner) -> char {
    match owner {
        Owner::Missing => '!',
        Owner::Layer(n) => u8::try_from(n)
            .ok()
            .filter(|n| *n < 26)
            .map_or('+', |n| char::from(b'a' + n)),
    }
}

fn ascii(symbol: &str) -> &'static str {
    match symbol {
        "│" | "┃" | "║" => "|",
        "─" | "━" | "╌" => "-",
        "┌" | "┐" | "└" | "┘" | "├" | "┤" | "┬" | "┴" | "┼" | "╭" | "╮" | "╰" | "╯" => {
            "+"
        }
        "●" => "*",
        "○" => "o",
        "◌" => "~",
        "…" => ".",
        "✓" => "v",
        "✗" => "x",
        "▶" | "▸" => ">",
        "▾" => "v",
        "↑" => "^",
        "→" => ">",
        "←" => "<",
        "◆" => "@",
        "·" => ".",
        "–" | "—" => "-",
        "“" | "”" => "\"",
        "▁" => "_",
        "▂" => ".",
        "▃" => "-",
        "▄" => "=",
        "▅" => "+",
        "▆" => "*",
        "▇" | "█" | "■" | "▀" => "#",
        "░" => ".",
        _ => "?",
    }
}
