//! System calls inside a stopped task.
//!
//! [`Infected`] is a process in whose slack our stub stands and which has a page of ours mapped for
//! arguments; [`Remote`] is one of its threads in which calls can be run. Both undo what they did
//! when they are dropped; should the engine die, the stub undoes it by itself (`arch::stub`).

mod foothold;
mod infected;
mod remote;
mod rseq;
mod signal;
mod slack;

pub use foothold::{Foothold, Ground};
pub use infected::Infected;
pub use remote::{Call, Remote};
pub use rseq::abort_sequence;
pub use signal::obstacle;

#[cfg(test)]
mod tests;
