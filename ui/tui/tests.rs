//! The screen on a made-up model.
