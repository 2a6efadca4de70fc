//! Restoring a layer.
mod tree;
