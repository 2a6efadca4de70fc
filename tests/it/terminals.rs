//! Terminals: what the target made itself, and programs that live in one.

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, require};

#[test]
fn pseudo_terminals_come_back_with_sessions_settings_and_unread_bytes() {
    every_layer_comes_back("terminals", &[], "", &["leader", "foreground"]);
}

#[test]
fn unread_bytes_of_a_terminal_are_read_after_the_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("terminals", &[]);
    target.ask("write 3");
    target.ask_at("foreground", "expect 3");
    // Twice: what was put back after a look is what the second look finds.
    for layer in 1..=2 {
        let words = format!("dump -t {} -D {layer} -R", target.pid);
        sandbox.icecore(&words).ok();
    }
    target.check();
    target.ask_at("foreground", "check");
    sandbox.kill(&target);
    sandbox.icecore("restore -D 2 -d").ok();
    target.ask_at("foreground", "drain");
}
