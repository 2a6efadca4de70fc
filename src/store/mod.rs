//! Where layers live: directories that are complete or not there, and how they change.
//!
//! # The contract
//!
//! **Every change of a layer that exists is one step.** Its new contents are *staged* in a directory
//! beside it, `.NAME.icecore`; when all of it is durable, the two directories change places
//! (renameat2(2) with `RENAME_EXCHANGE`), and what is now in the staging directory is thrown away. A
//! layer disappears in one step as well: it is renamed to its staging name, then taken apart. So
//! whoever is killed, whenever, leaves each layer as it was or as it should be, and a staging
//! directory is always rubbish: there is no journal, and nothing to roll back or forward.
//!
//! **An operation on several layers is a row of such steps**, put into an order in which every layer
//! that survives reads the same after each of them: first the layers above get what they need, then
//! the layers that nobody needs any more are removed, the uppermost first. It may be cut off after
//! any step, and repeated.
//!
//! **Who changes layers holds [`Lock::alone`]** on all folders that contain layers of the stack;
//! readers, and dumps on top of it, hold [`Lock::shared`]. The lock of a folder is flock(2) on the
//! directory: it leaves no file, ends with its holder, and also covers branches, which lie in the
//! same folders. Through `chain::Held` a lock is found by the layer. Taking it clears away the
//! staging directories of those who died ([`clear`]).
//!
//! **CRIU takes no lock**, but holds a directory of the stack open as long as it runs: while it does,
//! nothing is changed there; and what was replaced when it began is left for it, to be cleared away by
//! the next command. (Dedup *superseded* punches holes in place; it marks the layers first.)

mod criu;
mod holes;
mod lock;
mod partial;
mod staging;

pub use holes::copy_with_holes;
pub use lock::Lock;
pub use partial::{PartialDir, is_being_made};
pub use staging::{FRESH, clear, is_staging, remove};
