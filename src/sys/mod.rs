//! The kernel, one operation per function, with typed arguments: the only `unsafe` of the engine.

mod bounded;
pub mod clone;
pub mod cpu;
pub mod descriptor;
pub mod events;
pub mod extents;
pub mod kcmp;
pub mod mqueue;
pub mod names;
pub mod namespace;
pub mod pagemap;
pub mod pidfd;
pub mod prctl;
pub mod ptrace;
pub mod rights;
pub mod robust;
pub mod sched;
pub mod scratch;
pub mod shared;
pub mod socket;
pub mod sysv;
pub mod tty;
pub mod uffd;
pub mod vm;
