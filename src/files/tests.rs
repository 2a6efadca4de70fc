//! The survey on live children.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use super::survey::survey;
use crate::units::Pid;

/// A child that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Self {
        // Test runners leak descriptors of theirs into tests.
        crate::sys::descriptor::close_on_exec_from(3).unwrap();
        let mut command = Command::new("sleep");
        command
            .arg("300")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        // spawn returns after the exec, so the child has no descriptor of ours by now.
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

#[test]
fn a_child_on_files_and_null_has_no_obstacle() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let child = Sleeper::start(Stdio::null(), log.reopen().unwrap());
    let survey = survey(&[child.pid()]).unwrap();
    assert_eq!(survey.obstacles, []);
    assert!(survey.descriptors >= 3);
}

#[test]
fn a_pipe_inside_of_the_tree_is_fine_and_one_to_an_outsider_is_named_with_its_pid() {
    let (read, write) = pipe();
    let left = Sleeper::start(Stdio::null(), write);
    let right = Sleeper::start(read, Stdio::null());
    assert_eq!(survey(&[left.pid(), right.pid()]).unwrap().obstacles, []);

    let alone = survey(&[right.pid()]).unwrap();
    assert_eq!(alone.obstacles.len(), 1);
    let text = alone.obstacles[0].to_string();
    assert!(text.contains("descriptor 0"), "{text}");
    assert!(
        text.contains(&format!("shared with sleep (pid {})", left.pid())),
        "{text}"
    );
    assert!(text.contains("< /dev/null"), "{text}");
}

#[test]
fn a_pipe_whose_other_end_nobody_holds_is_fine() {
    let (read, write) = pipe();
    let child = Sleeper::start(read, Stdio::null());
    drop(write);
    assert_eq!(survey(&[child.pid()]).unwrap().obstacles, []);
}

#[test]
fn sockets_and_deleted_files_are_named() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let gone = tempfile::tempfile().unwrap();
    let child = Sleeper::start(OwnedFd::from(socket), File::from(OwnedFd::from(gone)));
    let survey = survey(&[child.pid()]).unwrap();
    let whats: Vec<&str> = survey.obstacles.iter().map(|o| o.what.as_str()).collect();
    assert_eq!(whats.len(), 2, "{whats:?}");
    assert!(whats.iter().any(|w| w.contains("a socket")), "{whats:?}");
    assert!(
        whats.iter().any(|w| w.contains("the deleted file")),
        "{whats:?}"
    );
}

#[test]
fn a_gone_process_is_an_empty_survey() {
    let survey = survey(&[Pid::from_raw(i32::MAX - 1)]).unwrap();
    assert_eq!((survey.obstacles.len(), survey.descriptors), (0, 0));
}
