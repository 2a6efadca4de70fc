//! A configuration file, and the place of whatever is wrong in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use icecore::{Error, Kind, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file that was read.
#[derive(Debug)]
pub(crate) struct File {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it says.
    text: String,
}

/// A value with its place.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

impl File {
    /// Reads a file; none when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(Self::new(path, text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path("read the configuration", path, e)),
        }
    }

    /// A file of this text.
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self {
            path: path.to_owned(),
            text,
        }
    }

    /// Its table.
    ///
    /// # Errors
    /// When it is no TOML.
    pub(crate) fn table(&self) -> Result<DeTable<'_>> {
        DeTable::parse(&self.text)
            .map(Spanned::into_inner)
            .map_err(|e| {
                let at = e.span().map_or(0, |span| span.start);
                self.wrong(at, &e.message().replace('\n', ", "))
                    .hint("icecore config --print-default shows a file as it should be")
            })
    }

    /// An error at a byte of the file.
    pub(crate) fn wrong(&self, at: usize, what: &str) -> Error {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |line| line.chars().count())
            + 1;
        let path = self.path.display();
        Error::new(Kind::Usage, format!("{path}:{line}:{column}: {what}"))
    }

    /// An error at a value.
    pub(crate) fn wrong_value(&self, value: &Value<'_>, wanted: &str) -> Error {
        self.wrong(value.span().start, &format!("This should be {wanted}"))
    }

    /// An error at a key that nothing knows.
    pub(crate) fn unknown<'k>(
        &self,
        at: usize,
        key: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Error {
        let known: Vec<&str> = known.collect();
        self.wrong(
            at,
            &format!("There is no setting \u{201c}{key}\u{201d} here"),
        )
        .hint(format!("one of: {}", known.join(", ")))
    }

    /// A text.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn string(&self, value: &Value<'_>, wanted: &str) -> Result<String> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            _ => Err(self.wrong_value(value, wanted)),
        }
    }
}
