//! Text that has to fit into columns.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// `text` in exactly `width` columns: padded, or cut with an ellipsis.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let mut out = cut(text, width);
    let used = out.width();
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    out
}

/// `text` in at most `width` columns.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns + 1 > width {
            break;
        }
        used += columns;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// Keys and what they do, two blanks between them, in at most `width` columns: the first and the last
/// stay longest, the last (how to leave) whole.
pub(crate) fn hints(text: &str, width: usize) -> String {
    let mut parts: Vec<&str> = text.split("  ").filter(|part| !part.is_empty()).collect();
    while parts.len() > 2 && parts.join("  ").width() > width {
        parts.remove(parts.len() - 2);
    }
    let all = parts.join("  ");
    match parts.as_slice() {
        [first, last] if all.width() > width => match width.saturating_sub(last.width() + 2) {
            0..4 => cut(last, width),
            room => format!("{}  {last}", cut(first, room)),
        },
        _ => cut(&all, width),
    }
}

/// `text` in lines of at most `width` columns, broken at blanks where possible.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        while let Some(line) = lines.last_mut() {
            let gap = usize::from(!line.is_empty());
            if line.width() + gap + word.width() <= width {
                if gap == 1 {
                    line.push(' ');
                }
                line.push_str(&word);
                break;
            }
            if !line.is_empty() {
                lines.push(String::new());
                continue;
            }
            // A word longer than a line, a path most often: it goes on in the next one.
            let mut used = 0;
            let mut at = 0;
            for (n, c) in word.char_indices() {
                used += c.width().unwrap_or(0);
                if used > width && n > 0 {
                    break;
                }
                at = n + c.len_utf8();
            }
            let rest = word.split_off(at);
            line.push_str(&word);
            if rest.is_empty() {
                break;
            }
            word = rest;
            lines.push(String::new());
        }
    }
    lines
}

/// Bytes in at most six columns: `4.0K`, `312M`, `1.21G`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["K", "M", "G", "T", "P"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes}B"),
        _ if value < 9.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// A count in at most five columns: `812`, `2.1k`, `311k`.
pub(crate) fn tally(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        1000..10_000 => format!("{:.1}k", n as f64 / 1e3),
        10_000..1_000_000 => format!("{}k", n / 1000),
        1_000_000..10_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{}M", n / 1_000_000),
    }
}

/// A span of time in its largest unit: `12s`, `4m`, `3h`, `2d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_hints_the_way_out_stays_longest() {
        let keys = "Tab next  p n page  arrows scroll  Esc close";
        assert_eq!(hints(keys, 80), keys);
        assert_eq!(hints(keys, 40), "Tab next  p n page  Esc close");
        assert_eq!(hints(keys, 20), "Tab next  Esc close");
        assert_eq!(hints(keys, 17), "Tab n…  Esc close");
        assert_eq!(hints(keys, 12), "Esc close");
        assert_eq!(hints("", 12), "");
    }

    proptest! {
        #[test]
        fn fitted_text_has_exactly_the_width(text in "\\PC{0,40}", width in 0usize..30) {
            // A wide character may leave one column over, never more; the rest is padded.
            prop_assert_eq!(fit(&text, width).width(), width);
        }

        #[test]
        fn wrapped_lines_fit_and_lose_nothing(text in "[a-z/ ]{0,80}", width in 1usize..30) {
            let lines = wrap(&text, width);
            for line in &lines {
                prop_assert!(line.width() <= width);
            }
            let letters = |s: &str| s.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }

    #[test]
    fn figures_stay_short() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(4096), "4.0K");
        assert_eq!(size(1023 * 1024), "1.0M");
        assert_eq!(size(312 << 20), "312M");
        assert_eq!(tally(311_000), "311k");
        assert_eq!(age(250), "4m");
    }
}
