//! TCP connections between a dump that ended their tree and its restore.
//!
//! When the tree is gone, something has to hold its ends, or the kernel answers the other side with a
//! reset. The keeper does: each socket in repair mode, and deaf, so that whatever arrives is dropped
//! and sent again later. The restore of that layer goes on with the very socket; the restore of
//! another layer that needs the addresses has it closed without a word. CRIU blocks the packets by
//! rules of the packet filter instead, which outlive everything but a restore or a reboot.

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{Answer, Request, deliver, request};
use crate::error::Result;

/// A connection that the keeper holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The layer (identity, hexadecimal) that has its state.
    pub layer: String,
    /// Its two ends, in words.
    pub ends: String,
}

/// Hands a connection over. Starts the keeper `program` when none runs.
///
/// # Errors
/// When no keeper can be started or it refuses.
pub fn hold(program: &Path, connection: &Connection, socket: &OwnedFd) -> Result<()> {
    deliver(program, &Request::Hold(connection.clone()), Some(socket))
}

/// The socket of a connection, as it was when the layer was made; the keeper holds it, too, until it
/// is told to [`let_go`]. `None` when the keeper has none.
///
/// # Errors
/// When a keeper is there but does not answer.
pub fn held(connection: &Connection) -> Result<Option<OwnedFd>> {
    let answer = request(&Request::Held(connection.clone()), None)?;
    Ok(answer.and_then(|(_, socket)| socket))
}

/// All connections that are held.
///
/// # Errors
/// As [`held`].
pub fn list() -> Result<Vec<Connection>> {
    match request(&Request::Connections, None)? {
        Some((Answer::Connections(all), _)) => Ok(all),
        _ => Ok(Vec::new()),
    }
}

/// Lets go of every connection with these ends, or of all; they end without a word, unless somebody
/// else has them.
///
/// # Errors
/// As [`held`].
pub fn let_go(ends: Option<&str>) -> Result<()> {
    request(&Request::LetGo(ends.map(str::to_owned)), None).map(drop)
}
