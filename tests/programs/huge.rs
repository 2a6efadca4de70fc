//! Huge pages of 2 MiB: private and shared memory, a memfd mapped both ways, and one that is only open, a segment of System V;
//! with a directory as argument, a file on a hugetlbfs that is mounted there; with `modest`, no segment, which
//! CRIU saves of a whole IPC namespace only. A child has them too.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{Region, call, child};
use crate::pattern::{check, fill, word};

/// Small pages of a huge one.
const HUGE: usize = 512;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

struct Huge {
    private: Region,
    shared: Region,
    memfd: Region,
    /// A private mapping of the memfd: its second huge page is its own.
    own: Region,
    /// A segment of System V that goes with its last attachment.
    segment: Option<Region>,
    file: File,
    on_disk: Option<Region>,
    seed: u64,
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, args: &[String]) {
    let anonymous = |flags: i32| {
        let flags = flags | libc::MAP_HUGETLB | 21 << 26;
        Region::map(3 * HUGE, WRITE, flags, None, None).unwrap()
    };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let file = File::from(memfd_create("huge", flags).unwrap());
    file.set_len(4 << 20).unwrap();
    let of =
        |file: &File, flags| Region::map(2 * HUGE, WRITE, flags, Some((file, 0)), None).unwrap();
    let modest = args.iter().any(|arg| arg == "modest");
    let on_disk = args.first().filter(|_| !modest).map(|dir| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(format!("{dir}/file")).unwrap();
        file.set_len(4 << 20).unwrap();
        of(&file, libc::MAP_SHARED)
    });
    let mut state = Huge {
        private: anonymous(libc::MAP_PRIVATE),
        shared: anonymous(libc::MAP_SHARED),
        memfd: of(&file, libc::MAP_SHARED),
        own: of(&file, libc::MAP_PRIVATE),
        segment: (!modest).then(segment),
        file,
        on_disk,
        seed: 1,
    };
    fill(&state.own, HUGE + 3, 44);
    if let Some(region) = &state.on_disk {
        fill(region, HUGE + 7, 77);
    }
    state.write();
    child(|| {
        fill(&state.private, 2 * HUGE + 9, 99);
        desk.beside("child").serve(&mut state);
    });
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Huge {
    /// What both see, and a page of one's own.
    fn write(&self) {
        fill(&self.private, 5, self.seed);
        fill(&self.shared, HUGE + 6, self.seed);
        fill(&self.memfd, 7, self.seed);
        if let Some(segment) = &self.segment {
            fill(segment, HUGE + 8, self.seed);
        }
    }
}

/// Two huge pages, and not quite all of the second one.
fn segment() -> Region {
    let flags = libc::IPC_CREAT | libc::SHM_HUGETLB | 0o600;
    let flags = u64::from(flags.cast_unsigned()) | 21 << 26;
    let bytes = (2 * HUGE * 4096 - 8192) as u64;
    let id = call(libc::SYS_shmget, [0, bytes, flags, 0, 0, 0]).unwrap();
    let id = id.cast_unsigned();
    let at = call(libc::SYS_shmat, [id, 0, 0, 0, 0, 0]).unwrap();
    let remove = libc::IPC_RMID.cast_unsigned().into();
    call(libc::SYS_shmctl, [id, remove, 0, 0, 0, 0]).unwrap();
    Region::at(at.cast_unsigned(), 2 * HUGE)
}

impl Program for Huge {
    fn check(&mut self) -> Answer {
        check("shared", &self.shared, HUGE + 6, self.seed)?;
        check("shared, never written", &self.shared, 2 * HUGE, 0)?;
        check("memfd", &self.memfd, 7, self.seed)?;
        check("private mapping of it", &self.own, 7, self.seed)?;
        check("page of its own", &self.own, HUGE + 3, 44)?;
        if let Some(segment) = &self.segment {
            check("System V", segment, HUGE + 8, self.seed)?;
            check("System V, never written", segment, 3, 0)?;
        }
        check("not in the memfd", &self.memfd, HUGE + 3, 0)?;
        check("private, never written", &self.private, HUGE, 0)?;
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, 7 * 4096)
            .map_err(|e| e.to_string())?;
        same("by read", &u64::from_le_bytes(bytes), &word(self.seed, 0))?;
        if let Some(region) = &self.on_disk {
            check("file", region, HUGE + 7, 77)?;
        }
        Ok(format!("seed {}", self.seed))
    }

    /// `write SEED` and `expect SEED` as in `shared`; `private SEED` says what is in the private memory.
    fn command(&mut self, words: &[&str]) -> Answer {
        let [verb, seed] = words else {
            return Err("write SEED | expect SEED | private SEED".into());
        };
        let seed = seed.parse().map_err(|_| "not a number")?;
        match *verb {
            "private" => check("private", &self.private, 5, seed)?,
            "child" => check("the child's", &self.private, 2 * HUGE + 9, seed)?,
            "write" => {
                self.seed = seed;
                self.write();
            }
            _ => self.seed = seed,
        }
        Ok(String::new())
    }
}
