//! Labels and pins: what the user says of a layer. Only the sidecar changes.

use std::path::Path;

use crate::chain::Held;
use crate::error::{Error, Kind, Result};
use crate::image::{Images, Sidecar};

/// Longest label, in characters.
const LONGEST: usize = 200;

/// Calls the layer in `dir` `text`; an empty text takes the label away. False when it was so already.
///
/// # Errors
/// When it is no layer, is in use, or the text has control characters or is too long.
pub fn label(dir: &Path, text: &str) -> Result<bool> {
    let text = text.trim();
    if text.chars().any(char::is_control) || text.chars().count() > LONGEST {
        let what = format!("A label has at most {LONGEST} characters, in one line");
        return Err(Error::new(Kind::Usage, what));
    }
    let wanted = (!text.is_empty()).then(|| text.to_owned());
    change(dir, |sidecar| {
        let changes = sidecar.label != wanted;
        sidecar.label = wanted;
        changes
    })
}

/// Pins the layer in `dir`, so that nothing makes it unrestorable, or unpins it. False when it was so
/// already.
///
/// # Errors
/// When it is no layer, or is in use.
pub fn pin(dir: &Path, pinned: bool) -> Result<bool> {
    change(dir, |sidecar| {
        let changes = sidecar.pinned.unwrap_or(false) != pinned;
        sidecar.pinned = pinned.then_some(true);
        changes
    })
}

fn change(dir: &Path, how: impl FnOnce(&mut Sidecar) -> bool) -> Result<bool> {
    let images = Images::open(dir)?;
    if !dir.join("inventory.img").exists() {
        let what = format!("{} is no finished layer", dir.display());
        return Err(Error::new(Kind::NotFound, what).hint("icecore stacks DIR lists layers"));
    }
    let _held = Held::alone(dir)?;
    Sidecar::update(&images, |sidecar| Ok(how(sidecar)))
}
