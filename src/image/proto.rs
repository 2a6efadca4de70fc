//! The messages of CRIU's images, generated from `proto/*.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    reason = "generated code"
)]

include!("../../proto/gen/criu.rs");
