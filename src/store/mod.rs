//! Where layers live: directories that are complete or not there.

mod partial;

pub use partial::PartialDir;
