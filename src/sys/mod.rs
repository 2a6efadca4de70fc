//! The kernel, one operation per function, with typed arguments: the only `unsafe` of the engine.

pub mod clone;
pub mod descriptor;
pub mod kcmp;
pub mod ptrace;
pub mod vm;
