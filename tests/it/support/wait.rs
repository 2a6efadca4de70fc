//! Waiting for something to become true; never for luck.

use std::time::{Duration, Instant};

use nix::poll::poll;

/// Longer than anything takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
///
/// # Panics
/// When it does not within a minute.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited too long: {what}");
        // The interval between two looks, not a guess at how long something takes.
        poll(&mut [], 2u8).unwrap();
    }
}
