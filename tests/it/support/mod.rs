//! What the tests share: the sandbox in which targets live, the targets, and ways to look at a
//! process from outside.

mod digest;
pub mod disk;
pub mod faults;
mod needs;
mod portrait;
mod sandbox;
mod target;
mod term;
mod wait;

pub use digest::{Digest, assert_same_memory, digest};
pub use needs::{Need, criu, criu_of_internet, postgres, python, require};
pub use portrait::{Portrait, assert_same_portrait, portrait};
pub use sandbox::{Run, Sandbox};
pub use target::Target;
pub use term::Term;
pub use wait::wait_until;
