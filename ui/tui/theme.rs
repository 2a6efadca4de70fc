//! Every style and every glyph comes from here.
//!
//! Plain text has neither foreground nor background of ours, so that light and dark terminals both
//! work; what is selected is reversed *and* marked. Colour is never the only sign: layers have
//! letters, and without colour (`NO_COLOR`) or Unicode (`LANG=C`) the map is drawn with them. What a
//! palette asks for becomes what the terminal has.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

use super::color;
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
    /// All.
    True,
}

/// A colour, and what stands for it where there are only sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tint {
    /// The colour itself.
    pub(crate) rich: Color,
    /// One of the sixteen.
    pub(crate) plain: Color,
}

impl Tint {
    /// A colour, with the nearest of the sixteen.
    pub(crate) fn of(rich: Color) -> Self {
        Self {
            rich,
            plain: color::sixteen(rich),
        }
    }
}

const fn tint(index: u8, plain: Color) -> Tint {
    Tint {
        rich: Color::Indexed(index),
        plain,
    }
}

/// All colours of a theme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    /// What has the keyboard.
    pub(crate) accent: Tint,
    /// All is well.
    pub(crate) good: Tint,
    /// Worth a look.
    pub(crate) warn: Tint,
    /// Wrong.
    pub(crate) bad: Tint,
    /// Pages that no layer has.
    pub(crate) missing: Tint,
    /// The lowest layer: it is most of the map and stays in the background.
    pub(crate) base_layer: Tint,
    /// Layers without a colour of their own.
    pub(crate) others: Tint,
    /// Layers with a colour of their own, newest first.
    pub(crate) owners: [Tint; 7],
}

impl Palette {
    /// All but the layers, with their names in theme files.
    pub(crate) fn roles(&mut self) -> impl Iterator<Item = (&'static str, &mut Tint)> {
        [
            ("accent", &mut self.accent),
            ("good", &mut self.good),
            ("warn", &mut self.warn),
            ("bad", &mut self.bad),
            ("missing", &mut self.missing),
            ("base-layer", &mut self.base_layer),
            ("others", &mut self.others),
        ]
        .into_iter()
    }
}

/// On a dark background (the layers: Okabe and Ito's set, told apart by everyone).
pub(crate) const DARK: Palette = Palette {
    accent: tint(39, Color::Cyan),
    good: tint(35, Color::Green),
    warn: tint(208, Color::Yellow),
    bad: tint(196, Color::Red),
    missing: tint(196, Color::LightRed),
    base_layer: tint(61, Color::Gray),
    others: tint(102, Color::DarkGray),
    owners: [
        tint(214, Color::Yellow),
        tint(39, Color::Blue),
        tint(35, Color::Green),
        tint(175, Color::Magenta),
        tint(202, Color::Red),
        tint(117, Color::Cyan),
        tint(227, Color::LightYellow),
    ],
};

/// On a light background: the same hues, darker.
pub(crate) const LIGHT: Palette = Palette {
    accent: tint(25, Color::Blue),
    good: tint(28, Color::Green),
    warn: tint(130, Color::Magenta),
    bad: tint(160, Color::Red),
    missing: tint(160, Color::Red),
    base_layer: tint(146, Color::Gray),
    others: tint(245, Color::DarkGray),
    owners: [
        tint(166, Color::Red),
        tint(26, Color::Blue),
        tint(29, Color::Green),
        tint(133, Color::Magenta),
        tint(94, Color::Yellow),
        tint(31, Color::Cyan),
        tint(100, Color::Black),
    ],
};

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    /// Colours to choose from.
    pub(crate) colors: Colors,
    /// Nothing but ASCII.
    pub(crate) ascii: bool,
    /// The colours.
    pub(crate) palette: Palette,
}

impl Theme {
    /// What the environment asks for; `of` tells its variables.
    pub(crate) fn of_environment(of: impl Fn(&str) -> String) -> Self {
        let term = of("TERM");
        let bare = term == "linux" || term == "dumb";
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .map(&of)
            .find(|value| !value.is_empty());
        let utf8 = |locale: &str| {
            let locale = locale.to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        };
        let colors = if !of("NO_COLOR").is_empty() || term == "dumb" {
            Colors::None
        } else if bare {
            Colors::Sixteen
        } else if matches!(of("COLORTERM").as_str(), "truecolor" | "24bit") {
            Colors::True
        } else {
            Colors::Indexed
        };
        // rxvt's "foreground;background" (sometimes with a word in between): 7 and 9 to 15 are light.
        let background = of("COLORFGBG");
        let background = background.rsplit(';').next().and_then(|n| n.parse().ok());
        let light = matches!(background, Some(7u8 | 9..=15));
        Self {
            colors,
            // Without any locale the terminal is taken for what nearly all are.
            ascii: bare || locale.is_some_and(|locale| !utf8(&locale)),
            palette: if light { LIGHT } else { DARK },
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
            self.tint(style.add_modifier(Modifier::BOLD), self.palette.accent)
        } else {
            style
        }
    }

    /// Frames of panes.
    pub(crate) fn frame(self, focused: bool) -> Style {
        if focused {
            self.tint(Style::new(), self.palette.accent)
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
        self.tint(Style::new(), self.palette.good)
    }

    /// Worth a look.
    pub(crate) fn warn(self) -> Style {
        self.tint(Style::new(), self.palette.warn)
    }

    /// Wrong.
    pub(crate) fn bad(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        self.tint(style, self.palette.bad)
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
        self.shade(match owner {
            Owner::Missing => self.palette.missing,
            // The base is most of the picture: it stays in the background.
            Owner::Layer(n) if n == last && n > 0 => self.palette.base_layer,
            Owner::Layer(n) => *self.palette.owners.get(n).unwrap_or(&self.palette.others),
        })
    }

    fn tint(self, style: Style, tint: Tint) -> Style {
        self.shade(tint).map_or(style, |color| style.fg(color))
    }

    fn shade(self, tint: Tint) -> Option<Color> {
        match self.colors {
            Colors::None => None,
            Colors::Sixteen => Some(tint.plain),
            Colors::Indexed => Some(color::indexed(tint.rich)),
            Colors::True => Some(tint.rich),
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
        "▶" | "▸" | "›" => ">",
        "»" => "&",
        "‹" => "<",
        "▾" => "v",
        "↑" => "^",
        "→" => ">",
        "←" => "<",
        "◆" => "@",
        "·" => ".",
        "≥" => ">",
        "•" => "*",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn theme(variables: &[(&str, &str)]) -> Theme {
        Theme::of_environment(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map_or_else(String::new, |(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_decides_colours_letters_and_background() {
        assert_eq!(theme(&[]).colors, Colors::Indexed);
        assert_eq!(theme(&[("COLORTERM", "truecolor")]).colors, Colors::True);
        assert_eq!(theme(&[("TERM", "linux")]).colors, Colors::Sixteen);
        let both = [("COLORTERM", "truecolor"), ("NO_COLOR", "1")];
        assert_eq!(theme(&both).colors, Colors::None);
        for (locale, ascii) in [("C", true), ("C.UTF-8", false), ("de_DE.ISO-8859-1", true)] {
            assert_eq!(theme(&[("LANG", locale)]).ascii, ascii, "{locale}");
        }
        assert!(!theme(&[("LANG", "C"), ("LC_ALL", "en_US.utf8")]).ascii);
        for (value, palette) in [
            ("0;15", LIGHT),
            ("15;0", DARK),
            ("0;default;7", LIGHT),
            ("", DARK),
        ] {
            assert_eq!(theme(&[("COLORFGBG", value)]).palette, palette, "{value}");
        }
    }

    #[test]
    fn a_terminal_gets_no_colour_that_it_does_not_have() {
        let mut theme = theme(&[]);
        theme.palette.good = Tint::of(Color::Rgb(0, 175, 95));
        theme.colors = Colors::Indexed;
        assert_eq!(theme.good().fg, Some(Color::Indexed(35)));
        theme.colors = Colors::Sixteen;
        assert_eq!(theme.good().fg, Some(Color::Green));
        theme.colors = Colors::None;
        assert_eq!(theme.good().fg, None);
    }
}
