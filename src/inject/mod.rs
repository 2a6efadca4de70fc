//! System calls inside a stopped task.

mod remote;

pub use remote::{Call, Remote};
