//! What of TCP sockets stops a dump, or is lost, in words.

use super::Refusal;
use crate::files::descriptor::Descriptor;

/// Why a socket that failed to connect cannot be dumped before its program asked why.
pub(super) fn failed(file: &Descriptor) -> Refusal {
    Refusal {
        what: format!(
            "a TCP socket ({}) that failed to connect, which it has not been told yet,",
            file.shown()
        ),
        hint: "try again when the program has asked for the error (SO_ERROR), or have it \
                       close the socket"
            .to_owned(),
    }
}

/// Why a connection with another protocol above TCP cannot be dumped: the kernel does not tell its keys.
pub(super) fn layered(file: &Descriptor) -> Refusal {
    Refusal {
        what: format!(
            "a TCP connection ({}) that the kernel encrypts (TCP_ULP)",
            file.shown()
        ),
        hint: "have the program do that itself (TLS without kTLS), or drop all connections \
                       with --tcp-close"
            .to_owned(),
    }
}

/// Why a socket that signs its segments cannot be dumped: the kernel does not tell its keys.
pub(super) fn signed(file: &Descriptor) -> Refusal {
    Refusal {
        what: format!(
            "a TCP socket ({}) that signs its segments (TCP_MD5SIG)",
            file.shown()
        ),
        hint: "have the program close it before the dump".to_owned(),
    }
}

/// Why a connection with urgent data cannot be dumped; `what` it is. No call puts such a byte back where
/// it was, and without its mark it would be read as one of the others.
pub(super) fn urgent(what: &str) -> Refusal {
    Refusal {
        what: format!("{what} with urgent data that was not received yet"),
        hint: "try again when the program has received it (MSG_OOB), or drop all connections with \
               --tcp-close"
            .to_owned(),
    }
}

/// That of urgent data among the other bytes of `what` only the mark is lost: what, and the hint.
pub(super) fn lost_mark(what: &str) -> (String, String) {
    let what = format!("{what} whose mark of urgent data is not saved");
    let hint = "let the program read on: a restored process gets all bytes, but is not told where \
                the mark was";
    (what, hint.to_owned())
}

/// That a datagram which was begun in `what` is lost: what, and the hint.
pub(super) fn begun(what: &str) -> (String, String) {
    let what = format!("{what} with a datagram begun (MSG_MORE, UDP_CORK) and not sent");
    let hint = "let the program send it: a restored process does not have its beginning";
    (what, hint.to_owned())
}

/// That a program will not get the error by which the connection of `what` ended: what, and the hint.
pub(super) fn untold(what: &str) -> (String, String) {
    let what = format!("{what} whose connection ended by an error that it has not been told yet");
    (what, "a restored process reads its end instead".to_owned())
}
