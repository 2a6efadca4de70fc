//! Init of a test's pid and mount namespace: starts programs on request, reaps everything, and ends, and with
//! it the namespace, when the test does (end of its standard input).
//!
//! Request: `LOG<tab>PROGRAM<tab>ARGS…`; reply: its pid.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// How often it looks for ended children, in milliseconds.
const ROUND: u16 = 5;

/// Serves until the end of standard input.
pub fn run() {
    // What the test inherited from its surroundings is not for the targets; it may even be of
    // another mount namespace.
    crate::kernel::call(libc::SYS_close_range, [3, u64::from(u32::MAX), 0, 0, 0, 0]).unwrap();
    // Terminals of its own, so that their numbers are as predictable as pids.
    let (kind, options) = (Some("devpts"), Some("ptmxmode=0666,mode=0620"));
    nix::mount::mount(
        kind,
        "/dev/pts",
        kind,
        nix::mount::MsFlags::empty(),
        options,
    )
    .unwrap();
    let stdin = std::io::stdin();
    println!("ready");
    let mut line = Vec::new();
    loop {
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, ROUND).unwrap_or(0) == 0 {
            continue;
        }
        let mut byte = [0];
        // Unbuffered: nothing may be left in a buffer when the next round polls.
        match nix::unistd::read(stdin.as_fd(), &mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(1) => {
                let request = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                println!("{}", start(&request));
                std::io::stdout().flush().unwrap();
            }
            _ => return,
        }
    }
}

/// Starts a program as leader of a session of its own.
#[expect(clippy::zombie_processes, reason = "the loop waits for all children")]
fn start(request: &str) -> u32 {
    let words: Vec<&str> = request.split('\t').collect();
    let [log, program @ ..] = words.as_slice() else {
        return 0;
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    // setsid(1) does not fork when it leads no group, so the pid is the program's.
    let child = Command::new("setsid")
        .args(program)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    child.id()
}
