//! Colours that a terminal does not have become the nearest that it has.
//!
//! Sources: xterm's 256colres (6×6×6 cube with levels 0, 95, 135, …, 255; greys 8, 18, …, 238) and
//! its default sixteen.

use ratatui::style::Color;

/// The sixteen, in the order of their numbers.
const SIXTEEN: [(Color, (u8, u8, u8)); 16] = [
    (Color::Black, (0, 0, 0)),
    (Color::Red, (205, 0, 0)),
    (Color::Green, (0, 205, 0)),
    (Color::Yellow, (205, 205, 0)),
    (Color::Blue, (0, 0, 238)),
    (Color::Magenta, (205, 0, 205)),
    (Color::Cyan, (0, 205, 205)),
    (Color::Gray, (229, 229, 229)),
    (Color::DarkGray, (127, 127, 127)),
    (Color::LightRed, (255, 0, 0)),
    (Color::LightGreen, (0, 255, 0)),
    (Color::LightYellow, (255, 255, 0)),
    (Color::LightBlue, (92, 92, 255)),
    (Color::LightMagenta, (255, 0, 255)),
    (Color::LightCyan, (0, 255, 255)),
    (Color::White, (255, 255, 255)),
];

/// Red, green and blue of an index.
fn of_index(index: u8) -> (u8, u8, u8) {
    let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
    match index {
        0..16 => SIXTEEN[usize::from(index)].1,
        16..232 => {
            let n = index - 16;
            (level(n / 36), level(n / 6 % 6), level(n % 6))
        }
        232.. => {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
    }
}

fn distance(a: (u8, u8, u8), b: (u8, u8, u8)) -> u32 {
    let square = |a: u8, b: u8| u32::from(a.abs_diff(b)).pow(2);
    square(a.0, b.0) + square(a.1, b.1) + square(a.2, b.2)
}

/// The nearest of the 256; those that follow the terminal's own sixteen stay as they are.
pub(crate) fn indexed(color: Color) -> Color {
    let Color::Rgb(r, g, b) = color else {
        return color;
    };
    // The first sixteen differ from terminal to terminal.
    let nearest = (16..=255).min_by_key(|index| distance(of_index(*index), (r, g, b)));
    nearest.map_or(color, Color::Indexed)
}

/// Red, green and blue of a colour; what the terminal chooses is taken for black, as on paper.
pub(crate) fn rgb(color: Color) -> (u8, u8, u8) {
    match color {
        Color::Rgb(r, g, b) => (r, g, b),
        Color::Indexed(index) => of_index(index),
        named => {
            let known = SIXTEEN.iter().find(|(of, _)| *of == named);
            known.map_or((0, 0, 0), |(_, rgb)| *rgb)
        }
    }
}

/// The nearest of the sixteen.
pub(crate) fn sixteen(color: Color) -> Color {
    if !matches!(color, Color::Rgb(..) | Color::Indexed(_)) {
        return color;
    }
    let rgb = rgb(color);
    let nearest = SIXTEEN.iter().min_by_key(|(_, of)| distance(*of, rgb));
    nearest.map_or(color, |(color, _)| *color)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_of_the_cube_and_the_greys_is_its_own_nearest() {
        for index in 16..=255 {
            let (r, g, b) = of_index(index);
            let Color::Indexed(nearest) = indexed(Color::Rgb(r, g, b)) else {
                panic!("{index}");
            };
            assert_eq!(of_index(nearest), (r, g, b));
            assert_eq!(rgb(Color::Indexed(index)), (r, g, b));
        }
        for (color, (r, g, b)) in SIXTEEN {
            assert_eq!(sixteen(Color::Rgb(r, g, b)), color);
            assert_eq!(rgb(color), (r, g, b));
        }
    }
}
