//! Standard output: who reads it may stop at any time (`icecore verify | head`).

use std::error;
use std::fmt;
use std::io::{self, ErrorKind};

use icecore::{Error, Kind};

/// The exit code of a command whose output nobody wanted to the end: that of a program which SIGPIPE
/// ended (signal(7)), as of most others. The signal itself would end a dump at any instant.
pub(crate) const UNREAD: u8 = 128 + 13;

/// Nobody reads standard output any more.
#[derive(Debug)]
struct Unread;

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads it")
    }
}

impl error::Error for Unread {}

/// The error of standard output that could not be written.
pub(crate) fn output(error: io::Error) -> Error {
    let what = "Cannot write the output";
    match error.kind() {
        ErrorKind::BrokenPipe => Error::new(Kind::Failed, what).because(Unread),
        _ => Error::io(what, error),
    }
}

/// Nothing went wrong but that nobody reads the output to its end: no reason to say anything.
pub(crate) fn is_unread(error: &Error) -> bool {
    error::Error::source(error).is_some_and(|source| source.is::<Unread>())
}
