//! Everything that differs between processor architectures: registers and their image, the code of
//! the injected stub, how an interrupted system call is started again. One folder an architecture.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("icecore's live side supports x86_64 so far");
