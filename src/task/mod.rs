//! The target: a process tree, how it is found, stopped, and let go.

mod asleep;
mod freeze;
mod ids;
pub mod numbers;
pub(crate) mod proc;
pub mod sessions;
pub mod sharing;
pub mod sysv;
mod tree;
mod trees;
pub mod vfork;

pub use asleep::Restarting;
pub use freeze::{Frozen, await_ends, may_suspend_seccomp, seize};
pub use ids::{Ids, is_inside};
pub use tree::{Life, Process, members, process};
pub use trees::{Roster, Tree, trees};
