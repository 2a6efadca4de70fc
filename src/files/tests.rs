//! Both halves on live children: what they have open is surveyed, dumped, and opened again here.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::descriptor::Descriptor;
use super::{Allow, Dumper, Opened, install, open_all, preflight, survey};
use crate::error::{Kind, Obstacle, Result};
use crate::image::proto::{FdinfoEntry, FileEntry, PstreeEntry, TaskKobjIdsEntry};
use crate::image::{Images, LayerWriter, SIDECAR, Sidecar};
use crate::inject::{Infected, Remote};
use crate::sys::clone::fork_idle;
use crate::sys::descriptor::duplicate_above;
use crate::sys::events::{self, Timing};
use crate::sys::ptrace::{self, Stop};
use crate::units::Pid;

/// A child that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Self {
        Self::start_with(stdin, stdout, Stdio::null())
    }

    fn start_with(
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let mut command = Command::new("sleep");
        command
            .arg("300")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        loop {
            // Test runners leak descriptors of theirs into tests.
            crate::sys::descriptor::close_on_exec_from(3).unwrap();
            let child = Self(command.spawn().unwrap());
            // spawn returns after the exec. Meanwhile another test may have made a descriptor that
            // programs inherit.
            if super::descriptor::numbers(child.pid()).unwrap() == [0, 1, 2] {
                return child;
            }
        }
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

/// Dumps the descriptors of `children` (tables 2, 3, …) into a layer in `dir`.
fn layer(dir: &Path, children: &[&Sleeper]) -> Images {
    layer_with(dir, children, Dumper::default())
}

fn layer_with(dir: &Path, children: &[&Sleeper], dumper: Dumper) -> Images {
    let pids: Vec<Pid> = children.iter().map(|child| child.pid()).collect();
    layer_of(dir, &pids, dumper)
}

fn layer_of(dir: &Path, pids: &[Pid], mut dumper: Dumper) -> Images {
    let dir = dir.join("layer");
    let writer = LayerWriter::create(&dir).unwrap();
    let mut tree = Vec::new();
    for (files_id, pid) in (2..).zip(pids) {
        dumper.dump_task(*pid, files_id).unwrap();
        let ids = TaskKobjIdsEntry {
            files_id,
            ..TaskKobjIdsEntry::default()
        };
        writer.one(&format!("ids-{pid}.img"), &ids).unwrap();
        let pid = pid.as_raw().cast_unsigned();
        tree.push(PstreeEntry {
            pid,
            ..PstreeEntry::default()
        });
    }
    writer.all("pstree.img", &tree).unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let created = u64::try_from(now.as_nanos()).ok();
    let sidecar = Sidecar {
        created,
        ..Sidecar::default()
    };
    writer.one(SIDECAR, &sidecar).unwrap();
    dumper.finish(&writer).unwrap();
    writer.commit().unwrap();
    Images::open(dir).unwrap()
}

/// File id of descriptor `fd` in table `files_id`.
fn id(images: &Images, files_id: u32, fd: u32) -> u32 {
    let table: Vec<FdinfoEntry> = images.all(&format!("fdinfo-{files_id}.img")).unwrap();
    table.iter().find(|entry| entry.fd == fd).unwrap().id
}

/// The description of a file id, as a file of ours.
fn reopened(opened: &Opened, id: u32) -> File {
    let fd: RawFd = opened.fd(id).unwrap();
    // A duplicate by way of the process's own descriptor table shares the description.
    let process = crate::sys::pidfd::open(Pid::this()).unwrap();
    File::from(crate::sys::pidfd::get_fd(&process, fd).unwrap())
}

fn flags(file: &File) -> i32 {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap()
}

/// The obstacles of `children` as soon as they are `as_wanted`. Other tests fork this process, and
/// for a moment those forks hold our pipes, too.
fn obstacles(children: &[&Sleeper], as_wanted: impl Fn(&[Obstacle]) -> bool) -> Vec<Obstacle> {
    let pids: Vec<Pid> = children.iter().map(|child| child.pid()).collect();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let obstacles = surveyed(&pids).obstacles;
        if as_wanted(&obstacles) || Instant::now() > end {
            return obstacles;
        }
        std::thread::yield_now();
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

fn surveyed(pids: &[Pid]) -> super::Survey {
    survey(pids, &[], &[], &Allow::default()).unwrap()
}

#[test]
fn a_child_on_files_and_null_has_no_obstacle() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let child = Sleeper::start(Stdio::null(), log.reopen().unwrap());
    let survey = surveyed(&[child.pid()]);
    assert_eq!(survey.obstacles, []);
    assert!(survey.judged.len() >= 3);
}

#[test]
fn a_pipe_inside_of_the_tree_is_fine_and_one_to_an_outsider_is_named_with_its_pid() {
    let (read, write) = pipe();
    let left = Sleeper::start(Stdio::null(), write);
    let right = Sleeper::start(read, Stdio::null());
    assert_eq!(obstacles(&[&left, &right], <[_]>::is_empty), []);

    let outsider = format!("shared with sleep (pid {})", left.pid());
    let alone = obstacles(&[&right], |o| o.iter().any(|o| o.what.contains(&outsider)));
    assert_eq!(alone.len(), 1);
    let text = alone[0].to_string();
    assert!(text.contains("descriptor 0"), "{text}");
    assert!(text.contains(&outsider), "{text}");
    assert!(text.contains("< /dev/null"), "{text}");
}

#[test]
fn a_pipe_whose_other_end_nobody_holds_is_fine() {
    let (read, write) = pipe();
    let child = Sleeper::start(read, Stdio::null());
    drop(write);
    assert_eq!(obstacles(&[&child], <[_]>::is_empty), []);
}

#[test]
fn sockets_and_large_deleted_files_are_named() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let gone = tempfile::tempfile().unwrap();
    (&gone).write_all(&vec![1; 2 << 20]).unwrap();
    let child = Sleeper::start(OwnedFd::from(socket), File::from(OwnedFd::from(gone)));
    let survey = surveyed(&[child.pid()]);
    let whats: Vec<&str> = survey.obstacles.iter().map(|o| o.what.as_str()).collect();
    assert_eq!(whats.len(), 2, "{whats:?}");
    assert!(
        whats.iter().any(|w| w.contains("a unix socket")),
        "{whats:?}"
    );
    assert!(
        whats.iter().any(|w| w.contains("the deleted file")),
        "{whats:?}"
    );
}

#[test]
fn a_gone_process_is_an_empty_survey() {
    let survey = surveyed(&[Pid::from_raw(i32::MAX - 1)]);
    assert_eq!((survey.obstacles.len(), survey.judged.len()), (0, 0));
}

#[test]
fn a_pipe_between_two_processes_keeps_its_contents_and_who_shares_which_end() {
    let dir = tempfile::tempdir().unwrap();
    let (read, write) = pipe();
    File::from(write.try_clone().unwrap())
        .write_all(b"in flight")
        .unwrap();
    let left = Sleeper::start_with(Stdio::null(), write.try_clone().unwrap(), write);
    let right = Sleeper::start(read, Stdio::null());
    let images = layer(dir.path(), &[&left, &right]);
    assert_eq!(
        id(&images, 2, 1),
        id(&images, 2, 2),
        "a duplicate is one description"
    );
    assert_ne!(
        id(&images, 2, 0),
        id(&images, 3, 1),
        "two opens of /dev/null are two"
    );
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );

    // The dump took nothing out: the second one is the same.
    let again = tempfile::tempdir().unwrap();
    let second = layer(again.path(), &[&left, &right]);
    assert_eq!(
        images.records("pipes-data.img").unwrap(),
        second.records("pipes-data.img").unwrap()
    );

    let opened = open_all(&images, 500, &Allow::default()).unwrap();
    let (write, read) = (id(&images, 2, 1), id(&images, 3, 0));
    assert!(opened.fd(write).unwrap() >= 500 && opened.fd(read).unwrap() >= 500);
    let mut reader = reopened(&opened, read);
    let mut got = [0; 9];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"in flight");
    reopened(&opened, write).write_all(b"more").unwrap();
    drop(opened);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(
        rest, b"more",
        "no writer is left once the engine has let go"
    );
}

#[test]
fn a_half_open_pipe_ends_after_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let (read, write) = pipe();
    File::from(write).write_all(b"last").unwrap();
    let child = Sleeper::start(read, Stdio::null());
    let images = layer(dir.path(), &[&child]);
    let opened = open_all(&images, 500, &Allow::default()).unwrap();
    let mut all = Vec::new();
    reopened(&opened, id(&images, 2, 0))
        .read_to_end(&mut all)
        .unwrap();
    assert_eq!(all, b"last");
}

#[test]
fn files_keep_offset_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    std::fs::write(&data, "0123456789").unwrap();
    let mut open = OpenOptions::new();
    let mut data = open
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(data)
        .unwrap();
    data.seek(SeekFrom::Start(4)).unwrap();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let child = Sleeper::start(data, log);
    let images = layer(dir.path(), &[&child]);
    let entries: Vec<FileEntry> = images.all("files.img").unwrap();
    let sizes: Vec<Option<u64>> = entries
        .iter()
        .filter_map(|e| e.reg.as_ref())
        .map(|reg| reg.size)
        .collect();
    assert!(sizes.contains(&Some(10)), "{sizes:?}");
    assert!(!sizes.contains(&Some(0)), "a log has no size: {sizes:?}");

    let opened = open_all(&images, 0, &Allow::default()).unwrap();
    let mut data = reopened(&opened, id(&images, 2, 0));
    assert_eq!(data.stream_position().unwrap(), 4);
    assert_eq!(flags(&data) & libc::O_ACCMODE, libc::O_RDWR);
    assert_ne!(flags(&data) & libc::O_NONBLOCK, 0);
    assert_ne!(
        flags(&reopened(&opened, id(&images, 2, 1))) & libc::O_APPEND,
        0
    );
}

#[test]
fn a_changed_or_missing_file_is_an_obstacle_and_a_longer_log_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    for name in ["read", "gone"] {
        std::fs::write(path(name), "0123456789").unwrap();
    }
    let log = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("log"))
            .unwrap()
    };
    let output = File::create(path("output")).unwrap();
    let reader = Sleeper::start_with(File::open(path("read")).unwrap(), output, log());
    let other = Sleeper::start(File::open(path("gone")).unwrap(), Stdio::null());
    let images = layer(dir.path(), &[&reader, &other]);
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );

    log().write_all(b"a line").unwrap();
    std::fs::write(path("read"), "short").unwrap();
    std::fs::write(path("output"), "written on").unwrap();
    std::fs::remove_file(path("gone")).unwrap();
    let (obstacles, warnings) = preflight(&images, &Allow::default()).unwrap();
    let kinds: Vec<Kind> = obstacles.iter().map(|o| o.kind).collect();
    assert_eq!(kinds.len(), 2, "{obstacles:?}");
    assert!(
        kinds.contains(&Kind::Differs) && kinds.contains(&Kind::NotFound),
        "{obstacles:?}"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].what.contains("output"), "{warnings:?}");
}

#[test]
fn a_file_of_the_same_size_that_was_written_to_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("read");
    std::fs::write(&path, "0123456789").unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let child = Sleeper::start(file.try_clone().unwrap(), Stdio::null());
    let images = layer(dir.path(), &[&child]);
    let later = SystemTime::now() + Duration::from_secs(1);
    file.set_modified(later).unwrap();
    let (obstacles, warnings) = preflight(&images, &Allow::default()).unwrap();
    assert_eq!(obstacles, []);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].what.contains("was written to"), "{warnings:?}");
}

#[test]
fn a_fifo_keeps_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut both = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    both.write_all(b"queued").unwrap();
    let child = Sleeper::start(File::open(&path).unwrap(), OwnedFd::from(both));
    assert_eq!(obstacles(&[&child], <[_]>::is_empty), []);
    let images = layer(dir.path(), &[&child]);
    drop(child);
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );
    let opened = open_all(&images, 0, &Allow::default()).unwrap();
    let mut got = [0; 6];
    reopened(&opened, id(&images, 2, 0))
        .read_exact(&mut got)
        .unwrap();
    assert_eq!(&got, b"queued");
}

#[test]
fn a_memfd_keeps_name_size_and_seals_and_its_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let memfd = memfd_create(
        c"cells",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .unwrap();
    let memfd = File::from(memfd);
    memfd.set_len(8192).unwrap();
    memfd.write_all_at(b"ice", 5000).unwrap();
    let seals = nix::fcntl::SealFlag::F_SEAL_SHRINK;
    nix::fcntl::fcntl(&memfd, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).unwrap();
    let own = OpenOptions::new()
        .read(true)
        .open(format!("/proc/self/fd/{}", memfd.as_raw_fd()));
    let child = Sleeper::start(own.unwrap(), memfd);

    let mut dumper = Dumper::default();
    dumper.dump_task(child.pid(), 9).unwrap();
    let [segment] = dumper.segments() else {
        panic!("one segment: {:?}", dumper.segments())
    };
    assert_eq!(
        (segment.entry.name.as_str(), segment.entry.size),
        ("cells", 8192)
    );
    let mut got = [0; 3];
    segment.file.read_exact_at(&mut got, 5000).unwrap();
    assert_eq!(&got, b"ice");

    let mut dumper = Dumper::default();
    dumper.name_segment(segment.inode, 77);
    let images = layer_with(dir.path(), &[&child], dumper);
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );
    let opened = open_all(&images, 0, &Allow::default()).unwrap();
    let shmids: Vec<u32> = opened
        .segments()
        .map(|segment| segment.entry.shmid)
        .collect();
    assert_eq!(shmids, [77]);
    let one = reopened(&opened, id(&images, 2, 1));
    one.write_all_at(b"new", 5000).unwrap();
    opened.complete(&|id| id).unwrap();
    assert!(one.set_len(100).is_err(), "sealed against shrinking");
    let mut got = [0; 3];
    let two = reopened(&opened, id(&images, 2, 0));
    two.read_exact_at(&mut got, 5000).unwrap();
    assert_eq!(&got, b"new", "both descriptions are of one segment");
    assert!(two.write_all_at(b"x", 0).is_err(), "opened read-only");
}

#[test]
fn the_same_path_with_the_same_flags_is_one_file_and_programs_have_a_build_id() {
    let dir = tempfile::tempdir().unwrap();
    let child = Sleeper::start(Stdio::null(), Stdio::null());
    let link = PathBuf::from(format!("/proc/{}/exe", child.pid()));
    let mut dumper = Dumper::default();
    let first = dumper.register_path(child.pid(), &link, 0).unwrap();
    assert_eq!(dumper.register_path(child.pid(), &link, 0).unwrap(), first);
    assert_ne!(dumper.register_path(child.pid(), &link, 2).unwrap(), first);
    let images = layer_with(dir.path(), &[&child], dumper);
    let entries: Vec<FileEntry> = images.all("files.img").unwrap();
    let program = entries
        .iter()
        .find(|entry| entry.id == first)
        .unwrap()
        .reg
        .as_ref()
        .unwrap();
    assert!(!program.build_id.is_empty(), "{program:?}");
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );
}

#[test]
fn connections_that_lead_out_of_the_tree_are_refused_by_the_dump_too() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = Sleeper::start(OwnedFd::from(socket), Stdio::null());
    let mut dumper = Dumper::default();
    dumper.dump_task(child.pid(), 2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(dir.path().join("layer")).unwrap();
    let error = dumper.finish(&writer).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let what = &error.obstacles()[0].what;
    assert!(what.contains("outside of the tree"), "{error:?}");
}

/// A fork of this process, stopped under our control; killed on drop.
struct Fork(Pid);

impl Fork {
    fn new() -> Self {
        let pid = fork_idle(None).unwrap();
        let fork = Self(pid);
        ptrace::seize(pid, libc::PTRACE_O_EXITKILL).unwrap();
        ptrace::interrupt(pid).unwrap();
        while !matches!(ptrace::wait(pid).unwrap(), Stop::Interrupt) {
            ptrace::cont(pid, 0).unwrap();
        }
        fork
    }
}

impl Fork {
    /// Runs `work` in it.
    fn run<T>(&self, work: impl FnOnce(&mut Remote) -> Result<T>) -> T {
        let mut infected = Infected::new(self.0, &[self.0]).unwrap();
        let result = infected.with(self.0, work).unwrap();
        infected.cure().unwrap();
        result
    }

    /// What fdinfo tells of its descriptor, without the offset of time.
    fn details(&self, number: RawFd) -> (u32, Vec<(String, String)>) {
        let seen = Descriptor::read(self.0, "", number).unwrap().unwrap();
        let telling = |name: &str| !["ino", "mnt_id", "it_value", "eventfd-id"].contains(&name);
        let details = seen.details.into_iter().filter(|(name, _)| telling(name));
        // The kernel lists watches in the order of addresses of its own.
        let mut details: Vec<_> = details.collect();
        details.sort();
        (seen.flags, details)
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGKILL).unwrap();
        while !matches!(ptrace::wait(self.0), Ok(Stop::Gone(_)) | Err(_)) {}
    }
}

#[test]
fn a_new_process_gets_exactly_the_descriptors_of_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (read, write) = pipe();
    File::from(write.try_clone().unwrap())
        .write_all(b"in flight")
        .unwrap();
    let log = File::create(dir.path().join("log")).unwrap();
    let child = Sleeper::start_with(read, log, write);
    let images = layer(dir.path(), &[&child]);
    drop(child);
    let opened = open_all(&images, 100, &Allow::default()).unwrap();
    let mut table: Vec<FdinfoEntry> = images.all("fdinfo-2.img").unwrap();
    // A duplicate with close-on-exec, with a gap below it.
    let mut extra = table[1].clone();
    (extra.fd, extra.flags) = (9, 1);
    table.push(extra);

    let fork = Fork::new();
    fork.run(|remote| install(remote, &table, &opened));
    drop(opened);

    assert_eq!(
        super::descriptor::numbers(fork.0).unwrap(),
        [0, 1, 2, 9],
        "and nothing of the engine's"
    );
    let read = |number| Descriptor::read(fork.0, "", number).unwrap().unwrap();
    assert!(!read(1).cloexec && read(9).cloexec);
    let compare = |a, b| crate::sys::kcmp::compare_files((fork.0, a), (fork.0, b)).unwrap();
    assert_eq!(compare(1, 9), std::cmp::Ordering::Equal);

    let again = tempfile::tempdir().unwrap();
    let writer = LayerWriter::create(again.path().join("layer")).unwrap();
    let mut dumper = Dumper::default();
    dumper.dump_task(fork.0, 2).unwrap();
    dumper.finish(&writer).unwrap();
    writer.commit().unwrap();
    let second = Images::open(again.path().join("layer")).unwrap();
    let contents = |images: &Images| images.records("pipes-data.img").unwrap()[0].extra.clone();
    assert_eq!(contents(&images), contents(&second));
    let table_again: Vec<FdinfoEntry> = second.all("fdinfo-2.img").unwrap();
    assert_eq!(table_again, table, "dumped again, the table is the same");
    let flags = |images: &Images| -> Vec<u32> {
        let entries: Vec<FileEntry> = images.all("files.img").unwrap();
        let pipe = |e: &FileEntry| e.pipe.as_ref().map(|pipe| pipe.flags);
        let flags = |e: &FileEntry| pipe(e).or_else(|| Some(e.reg.as_ref()?.flags));
        entries.iter().filter_map(flags).collect()
    };
    assert_eq!(flags(&images), flags(&second));
}

#[test]
fn event_descriptors_come_back_as_they_were() {
    let lift = |file| duplicate_above(file, 300).unwrap();
    let event = lift(events::eventfd(libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK).unwrap());
    File::from(event.try_clone().unwrap())
        .write_all(&7u64.to_le_bytes())
        .unwrap();
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86400));
    let once = lift(events::timerfd(libc::CLOCK_MONOTONIC).unwrap());
    events::set_timer(
        &once,
        0,
        Timing {
            value: day,
            ..Timing::default()
        },
    )
    .unwrap();
    let moment = lift(events::timerfd(libc::CLOCK_REALTIME).unwrap());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let timing = Timing {
        value: now + day,
        interval: minute,
    };
    events::set_timer(&moment, libc::TFD_TIMER_ABSTIME, timing).unwrap();
    events::set_ticks(&moment, 3).unwrap();
    let signal = lift(events::signalfd(1 << (libc::SIGUSR1 - 1)).unwrap());
    let epoll = lift(events::epoll().unwrap());
    let all = [event, once, moment, signal, epoll];
    let numbers: Vec<u64> = all
        .iter()
        .map(|fd| u64::try_from(fd.as_raw_fd()).unwrap())
        .collect();

    let fork = Fork::new();
    fork.run(|remote| {
        for (index, watched) in numbers[..4].iter().enumerate() {
            let events = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
            let data = 0xabc0_0000_0000 + u64::try_from(index).unwrap();
            let word = [&events.to_le_bytes()[..], &data.to_le_bytes()].concat();
            let at = remote.put(0, &word)?;
            let add = [
                numbers[4],
                u64::try_from(libc::EPOLL_CTL_ADD).unwrap(),
                *watched,
                at,
            ];
            remote.call("epoll_ctl", libc::SYS_epoll_ctl, &add)?;
        }
        remote.call("close", libc::SYS_close_range, &[0, 299, 0])?;
        let last = numbers.iter().max().unwrap() + 1;
        remote.call(
            "close",
            libc::SYS_close_range,
            &[last, u64::from(u32::MAX), 0],
        )?;
        for gap in (300..last).filter(|number| !numbers.contains(number)) {
            remote.call("close", libc::SYS_close_range, &[gap, gap, 0])?;
        }
        Ok(())
    });
    assert_eq!(surveyed(&[fork.0]).obstacles, []);
    let dir = tempfile::tempdir().unwrap();
    let images = layer_of(dir.path(), &[fork.0], Dumper::default());
    assert_eq!(
        preflight(&images, &Allow::default()).unwrap(),
        (vec![], vec![])
    );
    let opened = open_all(&images, 0, &Allow::default()).unwrap();
    let second = Fork::new();
    let table: Vec<FdinfoEntry> = images.all("fdinfo-2.img").unwrap();
    second.run(|remote| install(remote, &table, &opened));
    opened.complete(&|id| id).unwrap();
    drop(opened);
    for number in numbers
        .iter()
        .map(|number| RawFd::try_from(*number).unwrap())
    {
        assert_eq!(
            second.details(number),
            fork.details(number),
            "descriptor {number}"
        );
    }
    let (flags, details) = second.details(all[4].as_raw_fd());
    assert_eq!(
        details.iter().filter(|(name, _)| name == "tfd").count(),
        4,
        "{flags} {details:?}"
    );
    let left = |fork: &Fork, fd: &OwnedFd| -> u64 {
        let seen = Descriptor::read(fork.0, "", fd.as_raw_fd())
            .unwrap()
            .unwrap();
        let value = seen.detail("it_value").unwrap().to_owned();
        value
            .trim_start_matches('(')
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    for timer in &all[1..3] {
        assert!(
            left(&second, timer).abs_diff(left(&fork, timer)) <= 60,
            "time left"
        );
    }
}
