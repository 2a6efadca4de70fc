//! Files that the user asked for, in the working directory. Nothing that is there is overwritten.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use icecore::Error;

use super::export::Export;
use super::message::Failure;

/// Names that are tried before it gives up.
const TRIES: u32 = 1000;

/// Writes them; returns their names.
pub(super) fn save(files: &[Export]) -> Result<Vec<String>, Failure> {
    save_in(Path::new("."), files)
}

fn save_in(dir: &Path, files: &[Export]) -> Result<Vec<String>, Failure> {
    // Files that belong together have one number.
    for number in 1..=TRIES {
        let name = |file: &Export| match number {
            1 => format!("{}.{}", file.stem, file.extension),
            n => format!("{}-{n}.{}", file.stem, file.extension),
        };
        let taken = |file: &Export| dir.join(name(file)).symlink_metadata().is_ok();
        if files.iter().any(taken) {
            continue;
        }
        let mut names = Vec::new();
        for file in files {
            let name = name(file);
            let path = dir.join(&name);
            let failed = |e: std::io::Error| Failure::from(&Error::path("write", &path, e));
            let opened = OpenOptions::new().write(true).create_new(true).open(&path);
            opened
                .and_then(|mut opened| opened.write_all(file.text.as_bytes()))
                .map_err(failed)?;
            names.push(name);
        }
        return Ok(names);
    }
    let full = std::io::Error::from(ErrorKind::AlreadyExists);
    Err((&Error::path("write into", dir, full).hint("remove the exports that are there")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_what_belongs_together_has_one_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = |extension| Export {
            stem: "x".into(),
            extension,
            text: "new".into(),
        };
        std::fs::write(dir.path().join("x.json"), "old").unwrap();
        let files = [file("csv"), file("json")];
        assert_eq!(
            save_in(dir.path(), &files).unwrap(),
            ["x-2.csv", "x-2.json"]
        );
        assert_eq!(
            save_in(dir.path(), &files).unwrap(),
            ["x-3.csv", "x-3.json"]
        );
        assert_eq!(std::fs::read(dir.path().join("x.json")).unwrap(), b"old");
        assert!(save_in(Path::new("/nonexistent"), &files).is_err());
    }
}
