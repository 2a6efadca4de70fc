//! The messages of CRIU's images, generated from `proto/*.proto` by `cargo xtask proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::use_self,
    reason = "generated code"
)]

include!("../../proto/gen/criu.rs");

/// Messages of the sidecar, which is ours.
pub mod icecore {
    include!("../../proto/gen/icecore.rs");
}
