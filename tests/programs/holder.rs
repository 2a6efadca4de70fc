//! Holds one thing that is hard to checkpoint, named by the argument; `check` only counts, so that the
//! test sees that the process goes on undisturbed.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::CloneFlags;
use nix::sys::socket::{Backlog, SockaddrIn, bind, connect, getsockname, listen};

use crate::desk::{Answer, Desk, Program};
use crate::events::{READABLE, new, watch};
use crate::kernel::{self, Region};
use crate::options;

/// More than a layer takes of a deleted file unless it is allowed to.
const LARGE: usize = (1 << 20) + 4096;

/// Lets a child start its program (here: end).
static START: AtomicBool = AtomicBool::new(false);

struct Holder {
    ticks: u64,
    _held: Option<OwnedFd>,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, args: &[String]) {
    let what = args.first().map(String::as_str).unwrap_or_default();
    let descriptor = match what {
        "io_uring" => {
            // struct io_uring_params, 120 bytes, all zeros.
            let mut params = [0u64; 15];
            Some(kernel::call_with(
                libc::SYS_io_uring_setup,
                &[4],
                &mut params,
                &[],
            ))
        }
        "bpf" => {
            // BPF_MAP_CREATE of an array: type 2, key 4 bytes, value 8 bytes, 16 entries.
            let mut attributes = [0u32; 32];
            attributes[..4].copy_from_slice(&[2, 4, 8, 16]);
            Some(kernel::call_with(
                libc::SYS_bpf,
                &[0],
                &mut attributes,
                &[128],
            ))
        }
        // AF_XDP.
        "socket" => Some(kernel::call(libc::SYS_socket, [44, 3, 0, 0, 0, 0])),
        "mptcp" => {
            let new = || options::socket(libc::AF_INET, libc::SOCK_STREAM, 262).unwrap();
            let (listener, client) = (new(), new());
            let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
            bind(listener.as_raw_fd(), &any).unwrap();
            listen(&listener, Backlog::new(5).unwrap()).unwrap();
            let at = getsockname::<SockaddrIn>(listener.as_raw_fd()).unwrap();
            connect(client.as_raw_fd(), &at).unwrap();
            std::mem::forget((listener, client));
            None
        }
        "unaccepted" | "left-unaccepted" => {
            let name = SocketAddr::from_abstract_name(std::process::id().to_string()).unwrap();
            let listener = UnixListener::bind_addr(&name).unwrap();
            let mut client = UnixStream::connect_addr(&name).unwrap();
            if what == "unaccepted" {
                client.write_all(b"early").unwrap();
                std::mem::forget(client);
            } else {
                drop(client);
            }
            std::mem::forget(listener);
            None
        }
        "extended-filter" => {
            // BPF_PROG_LOAD of a filter of sockets: r0 = 0x7fff; exit.
            let code = [0x7fff_0000_00b7_u64, 0x95];
            let license = *b"GPL\0";
            let mut attributes = [0_u64; 16];
            attributes[0] = 1 | 2 << 32;
            attributes[1] = code.as_ptr().expose_provenance() as u64;
            attributes[2] = license.as_ptr().expose_provenance() as u64;
            let before = [5];
            let program = kernel::call_with(libc::SYS_bpf, &before, &mut attributes, &[128]);
            let program = kernel::owned(program.unwrap());
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            // SO_ATTACH_BPF.
            let number = program.as_raw_fd();
            options::set_int(&socket, libc::SOL_SOCKET, 50, number);
            std::mem::forget(socket);
            None
        }
        "ring" => {
            // PACKET_RX_RING: size and number of blocks, of frames.
            let made = kernel::call(libc::SYS_socket, [17, 3, 0, 0, 0, 0]).unwrap();
            let before = [made.cast_unsigned(), libc::SOL_PACKET as u64, 5];
            let mut ring = [4096_u32, 4, 2048, 8];
            kernel::call_with(libc::SYS_setsockopt, &before, &mut ring, &[16]).unwrap();
            Some(Ok(made))
        }
        "inotify" => {
            // It watches a file that has no name, but is open.
            let path = desk.dir().join("watched");
            std::mem::forget(File::create(&path).unwrap());
            let made = kernel::call(libc::SYS_inotify_init1, [0; 6]).unwrap();
            let name = format!("{}\0", path.display());
            let address = name.as_ptr().expose_provenance() as u64;
            let args = [made.cast_unsigned(), address, 2, 0, 0, 0];
            kernel::call(libc::SYS_inotify_add_watch, args).unwrap();
            fs::remove_file(path).unwrap();
            Some(Ok(made))
        }
        "fanotify" => Some(kernel::call(libc::SYS_fanotify_init, [0; 6])),
        "pidfd" => {
            let pid = std::os::unix::process::parent_id().into();
            Some(kernel::call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]))
        }
        "foreign-namespace" => {
            // Of a child that has left ours and then ends.
            let child = kernel::child(|| {
                nix::sched::unshare(namespace("net")).unwrap();
                kernel::sleep_for_ever();
            });
            let link = format!("/proc/{child}/ns/net");
            let ours = fs::read_link("/proc/self/ns/net").unwrap();
            while fs::read_link(&link).unwrap() == ours {
                std::thread::yield_now();
            }
            let file = File::open(link).unwrap();
            nix::sys::signal::kill(child, nix::sys::signal::SIGKILL).unwrap();
            nix::sys::wait::waitpid(child, None).unwrap();
            Some(Ok(file.into_raw_fd().into()))
        }
        "mounted-namespace" => {
            let place = desk.dir().parent().unwrap().join("mounted");
            Some(Ok(File::open(place).unwrap().into_raw_fd().into()))
        }
        "userfaultfd" => Some(kernel::call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0])),
        _ => None,
    };
    hold(what, &desk);
    desk.serve(&mut Holder {
        ticks: 0,
        _held: descriptor.map(|made| kernel::owned(made.unwrap())),
    });
}

/// Things that are no descriptors of their own.
fn hold(what: &str, desk: &Desk) {
    match what {
        "deleted-file" => {
            let path = desk.dir().join("deleted");
            fs::write(&path, vec![7; LARGE]).unwrap();
            std::mem::forget(File::open(&path).unwrap());
            fs::remove_file(path).unwrap();
        }
        "deleted-mapping" => {
            let path = desk.dir().join("deleted");
            fs::write(&path, vec![7; LARGE]).unwrap();
            let file = File::open(&path).unwrap();
            let prot = libc::PROT_READ;
            Region::map(2, prot, libc::MAP_PRIVATE, Some((&file, 0)), None).unwrap();
            fs::remove_file(path).unwrap();
        }
        "posix-queue" | "posix-queue-apart" => {
            if what.ends_with("apart") {
                nix::sched::unshare(namespace("ipc")).unwrap();
            }
            let name = format!("icecore-{}\0", std::process::id());
            let address = name.as_ptr().expose_provenance() as u64;
            let flags = (libc::O_CREAT | libc::O_RDWR) as u64;
            let args = [address, flags, 0o600, 0, 0, 0];
            let queue = kernel::owned(kernel::call(libc::SYS_mq_open, args).unwrap());
            if what == "posix-queue" {
                std::mem::forget(queue);
                kernel::call(libc::SYS_mq_unlink, [address, 0, 0, 0, 0, 0]).unwrap();
            }
        }
        "lost-name" => {
            let path = desk.dir().join("lost");
            fs::write(&path, "old").unwrap();
            std::mem::forget(File::open(&path).unwrap());
            fs::hard_link(&path, path.with_extension("kept")).unwrap();
            fs::remove_file(path).unwrap();
        }
        "watched-elsewhere" => {
            // The child has the file that its parent still watches and has closed.
            let epoll = new(libc::SYS_epoll_create1, [0; 6]);
            let counter = new(libc::SYS_eventfd2, [1, 0, 0, 0, 0, 0]);
            watch(&epoll, &counter, 1, READABLE);
            kernel::child(|| kernel::sleep_for_ever());
            drop(counter);
            std::mem::forget(epoll);
        }
        "file-lock" => {
            let path = desk.dir().join("locked");
            fs::write(&path, "mine").unwrap();
            let file = File::open(path).unwrap();
            file.lock().unwrap();
            std::mem::forget(file);
        }
        "supervised" => {
            // One instruction: SECCOMP_RET_USER_NOTIF to every call with a number that none has.
            let filter = [
                0x20u64,
                u64::from(u32::MAX) << 32 | 1 << 24 | 0x15,
                0x7fc0_0000 << 32 | 0x06,
                0x7fff_0000 << 32 | 0x06,
            ];
            let program = [4u64, (&raw const filter).expose_provenance() as u64];
            let address = (&raw const program).expose_provenance() as u64;
            kernel::prctl(libc::PR_SET_SECCOMP, [2, address, 0, 0]).unwrap();
        }
        "chroot" => {
            let root = desk.dir().join("root");
            fs::create_dir(&root).unwrap();
            // A process of its own: this one has to find its desk.
            kernel::child(|| {
                std::os::unix::fs::chroot(&root).unwrap();
                kernel::sleep_for_ever();
            });
        }
        "shared-with-sibling" | "shared-memory-sibling" => {
            // Both are children of this process, which does not share.
            kernel::child(|| {
                if what == "shared-memory-sibling" {
                    kernel::vm_child(libc::CLONE_PARENT);
                } else {
                    let flags = libc::CLONE_PARENT | libc::CLONE_FILES | libc::SIGCHLD;
                    kernel::child_with(flags, || kernel::sleep_for_ever());
                }
                kernel::sleep_for_ever();
            });
            let children = format!("/proc/self/task/{}/children", std::process::id());
            while fs::read_to_string(&children)
                .unwrap()
                .split_whitespace()
                .count()
                < 2
            {
                std::thread::yield_now();
            }
        }
        "shared-memory-child" => {
            // clone(CLONE_VM) without being a thread: as after vfork(2).
            kernel::vm_child(0);
        }
        "vfork" => {
            // A thread that waits for a child, until the root is told `start`.
            std::thread::spawn(|| kernel::wait_for_vm_child(&START));
            while !kernel::CHILD.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        "traced" => {
            // A child that this process traces (PTRACE_TRACEME, PTRACE_CONT).
            let child = kernel::child(|| {
                nix::sys::ptrace::traceme().unwrap();
                nix::sys::signal::raise(nix::sys::signal::SIGSTOP).unwrap();
                kernel::sleep_for_ever();
            });
            nix::sys::wait::waitpid(child, None).unwrap();
            nix::sys::ptrace::cont(child, None).unwrap();
        }
        "former-session" => {
            // A child that leads a session, whose own child is still in ours.
            kernel::child(|| {
                kernel::child(|| kernel::sleep_for_ever());
                nix::unistd::setsid().unwrap();
                kernel::sleep_for_ever();
            });
        }
        "dispatch" => {
            // A thread that makes no call, and whose calls would come back to it.
            std::thread::spawn(|| {
                let selector = crate::dispatch::begin();
                selector.store(1, Ordering::SeqCst);
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        "thread-net" => {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let left = nix::sched::unshare(CloneFlags::CLONE_NEWNET);
                tell.send(left).unwrap();
                loop {
                    std::thread::park();
                }
            });
            told.recv().unwrap().unwrap();
        }
        kind if kind.starts_with("namespace-") => {
            nix::sched::unshare(namespace(kind.rsplit_once("-").unwrap().1)).unwrap();
            if kind.ends_with("mnt") {
                let place = desk.dir().join("mounted");
                fs::create_dir(&place).unwrap();
                let (kind, none): (_, Option<&str>) = (Some("tmpfs"), None);
                nix::mount::mount(kind, &place, kind, nix::mount::MsFlags::empty(), none).unwrap();
            }
        }
        kind if kind.starts_with("child-") => {
            nix::sched::unshare(namespace(kind.rsplit_once("-").unwrap().1)).unwrap();
            kernel::child(|| kernel::sleep_for_ever());
        }
        "next-pids" => nix::sched::unshare(CloneFlags::CLONE_NEWPID).unwrap(),
        "ended-leader" => {
            let mut beside = desk.beside("thread");
            std::thread::spawn(move || {
                beside.serve(&mut Holder {
                    ticks: 0,
                    _held: None,
                });
            });
            desk.wait_for("thread");
            desk.announce();
            kernel::end_thread();
        }
        "tied-socket" | "tied-datagrams" => {
            // The other end is with a process that is no member of our tree.
            let other = desk.dir().parent().unwrap().join("other");
            if what == "tied-socket" {
                std::mem::forget(UnixStream::connect(other).unwrap());
            } else {
                let socket = UnixDatagram::unbound().unwrap();
                socket.connect(other).unwrap();
                std::mem::forget(socket);
            }
        }
        "server" => {
            let path = desk.dir().parent().unwrap().join("other");
            std::mem::forget(UnixListener::bind(&path).unwrap());
        }
        "syslog" => {
            let path = desk.dir().parent().unwrap().join("other");
            std::mem::forget(UnixDatagram::bind(&path).unwrap());
        }
        _ => {}
    }
}

/// The flag that makes a namespace.
fn namespace(kind: &str) -> CloneFlags {
    match kind {
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "mnt" => CloneFlags::CLONE_NEWNS,
        "net" => CloneFlags::CLONE_NEWNET,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        "user" => CloneFlags::CLONE_NEWUSER,
        "pid" => CloneFlags::CLONE_NEWPID,
        // CLONE_NEWTIME, which the library does not know.
        _ => CloneFlags::from_bits_retain(0x80),
    }
}

impl Program for Holder {
    fn check(&mut self) -> Answer {
        self.ticks += 1;
        Ok(self.ticks.to_string())
    }

    /// `start`: in a while, as another program would.
    fn command(&mut self, _: &[&str]) -> Answer {
        std::thread::spawn(|| {
            nix::poll::poll(&mut [], 200u8).unwrap();
            START.store(true, Ordering::SeqCst);
        });
        Ok(String::new())
    }
}
