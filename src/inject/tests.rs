//! Live: a child of our own is infected, works for us, and goes on as if nothing had happened.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use super::{Call, Infected};
use crate::task::Frozen;
use crate::units::Pid;

/// A `cat` that echoes what it gets; killed on drop.
struct Echo(Child);

impl Echo {
    fn start() -> Self {
        Self::of(&mut Command::new("cat"))
    }

    fn of(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Infects it, lets it ask for its pid, and cures it.
    fn works_for_us(&mut self) {
        // Only then has it started its program and made its preparations.
        assert!(self.answers());
        let frozen = Frozen::freeze(self.pid()).unwrap();
        let mut infected = Infected::new(self.pid(), &[self.pid()]).unwrap();
        infected
            .with(self.pid(), |remote| {
                let pid = remote.call("getpid", libc::SYS_getpid, &[])?;
                assert_eq!(pid, u64::from(self.0.id()));
                Ok(())
            })
            .unwrap();
        assert!(infected.cure().unwrap().is_empty());
        frozen.thaw();
        assert!(self.answers());
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    fn answers(&mut self) -> bool {
        self.0
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"hello\n")
            .unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        line == "hello\n"
    }

    fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn an_infected_process_runs_our_calls_and_goes_on_unharmed() {
    let mut echo = Echo::start();
    assert!(echo.answers());
    let maps = echo.maps();
    for _ in 0..20 {
        let frozen = Frozen::freeze(echo.pid()).unwrap();
        let threads = frozen.processes()[0].threads.clone();
        let mut infected = Infected::new(echo.pid(), &threads).unwrap();
        infected
            .with(echo.pid(), |remote| {
                let pid = remote.call("getpid", libc::SYS_getpid, &[])?;
                assert_eq!(pid, u64::from(echo.0.id()));
                let path = remote.put(0, b"/nowhere\0")?;
                let mut calls = [
                    Call::new(libc::SYS_gettid, &[]),
                    Call::new(libc::SYS_chdir, &[path]),
                    Call::new(libc::SYS_getppid, &[]),
                ];
                remote.run(&mut calls)?;
                assert_eq!(calls[1].value(), Err(nix::errno::Errno::ENOENT));
                assert_eq!(calls[2].value().unwrap(), u64::from(std::process::id()));
                Ok(())
            })
            .unwrap();
        assert!(infected.cure().unwrap().is_empty());
        frozen.thaw();
        assert!(echo.answers());
    }
    assert_eq!(echo.maps(), maps);
}

#[test]
fn dropping_the_guards_cures_and_thaws() {
    let mut echo = Echo::start();
    // Only then has it loaded all that it will.
    assert!(echo.answers());
    let maps = echo.maps();
    {
        let frozen = Frozen::freeze(echo.pid()).unwrap();
        let threads = frozen.processes()[0].threads.clone();
        let _infected = Infected::new(echo.pid(), &threads).unwrap();
    }
    assert!(echo.answers());
    assert_eq!(echo.maps(), maps);
}

#[test]
fn a_process_without_room_for_signals_works_for_us() {
    // The kernel then delivers a signal without saying who sent it.
    let mut command = Command::new("prlimit");
    Echo::of(command.args(["--sigpending=0", "cat"])).works_for_us();
}

#[test]
fn a_process_that_handles_every_harmless_signal_works_for_us_and_handles_none_of_ours() {
    let script = "trap 'exit 3' URG WINCH CHLD CONT HUP; while read -r l; do echo \"$l\"; done";
    Echo::of(Command::new("bash").args(["-c", script])).works_for_us();
}

#[test]
fn a_call_that_never_returns_is_given_up_and_the_process_goes_on() {
    let mut echo = Echo::start();
    assert!(echo.answers());
    let maps = echo.maps();
    let frozen = Frozen::freeze(echo.pid()).unwrap();
    let mut infected = Infected::new(echo.pid(), &[echo.pid()]).unwrap();
    let result = infected.with(echo.pid(), |remote| {
        remote.set_patience(std::time::Duration::from_millis(50));
        remote.call("pause", libc::SYS_pause, &[])
    });
    let error = result.unwrap_err().to_string();
    assert!(error.contains("did not come back"), "{error}");
    infected.cure().unwrap();
    frozen.thaw();
    assert!(echo.answers());
    assert_eq!(echo.maps(), maps);
}
