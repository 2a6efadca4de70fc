//! No tracking at all: pages are compared with the parent layer's. Always right, never fast.

use super::DirtyTracker;
use crate::error::Result;
use crate::sys::pagemap::Category;

/// See the module.
#[derive(Debug)]
pub(super) struct Content;

impl DirtyTracker for Content {
    fn name(&self) -> &'static str {
        "content"
    }

    fn probe(&self) -> Result<(), String> {
        Ok(())
    }

    fn written(&self) -> Option<Category> {
        None
    }
}
