//! Settings of a terminal in the image. CRIU copies the 19 control characters as bytes into a field of
//! 32-bit words, and counts words: the first five hold all of them, four each, the others nothing.

use crate::image::proto::{TermiosEntry, WinsizeEntry};
use crate::sys::tty::{Termios, Winsize};

/// For the image.
pub(super) fn to_image(settings: &Termios) -> TermiosEntry {
    let mut words = [0; 19];
    for (word, characters) in words.iter_mut().zip(settings.c_cc.chunks(4)) {
        let mut bytes = [0; 4];
        bytes[..characters.len()].copy_from_slice(characters);
        *word = u32::from_le_bytes(bytes);
    }
    TermiosEntry {
        c_iflag: settings.c_iflag,
        c_oflag: settings.c_oflag,
        c_cflag: settings.c_cflag,
        c_lflag: settings.c_lflag,
        c_line: settings.c_line.into(),
        c_ispeed: 0,
        c_ospeed: 0,
        c_cc: words.to_vec(),
    }
}

/// From the image.
pub(super) fn from_image(entry: &TermiosEntry) -> Termios {
    let mut c_cc = [0; 19];
    let bytes = entry.c_cc.iter().flat_map(|word| word.to_le_bytes());
    for (character, byte) in c_cc.iter_mut().zip(bytes) {
        *character = byte;
    }
    Termios {
        c_iflag: entry.c_iflag,
        c_oflag: entry.c_oflag,
        c_cflag: entry.c_cflag,
        c_lflag: entry.c_lflag,
        c_line: u8::try_from(entry.c_line).unwrap_or(0),
        c_cc,
    }
}

/// For the image.
pub(super) fn size_to_image(size: Winsize) -> WinsizeEntry {
    WinsizeEntry {
        ws_row: size.ws_row.into(),
        ws_col: size.ws_col.into(),
        ws_xpixel: size.ws_xpixel.into(),
        ws_ypixel: size.ws_ypixel.into(),
    }
}

/// From the image.
pub(super) fn size_from_image(entry: &WinsizeEntry) -> Winsize {
    let short = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    Winsize {
        ws_row: short(entry.ws_row),
        ws_col: short(entry.ws_col),
        ws_xpixel: short(entry.ws_xpixel),
        ws_ypixel: short(entry.ws_ypixel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_and_characters_are_packed_as_criu_packs_them() {
        let mut settings = Termios {
            c_iflag: 1,
            c_oflag: 2,
            c_cflag: 3,
            c_lflag: 4,
            c_line: 0,
            c_cc: [0; 19],
        };
        settings.c_cc[..4].copy_from_slice(&[0x03, 0x1c, 0x7f, 0x15]);
        settings.c_cc[18] = 9;
        let image = to_image(&settings);
        assert_eq!(image.c_cc.len(), 19);
        assert_eq!(image.c_cc[0], 360_651_779);
        let back = from_image(&image);
        assert_eq!((back.c_lflag, back.c_cc), (4, settings.c_cc));
    }
}
