//! Files without a name: deleted, replaced, never named, mapped only; a deleted working directory;
//! with the argument `link`, one that only another name leads to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::stat::Mode;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{Region, child, unread};

const PAGE: usize = 4096;
/// Length of the sparse file, most of it a hole.
const LONG: u64 = 64 << 20;

struct Nameless {
    /// Open twice, at different offsets; the child has both too.
    deleted: File,
    again: File,
    /// Its name leads to another file by now.
    replaced: File,
    unnamed: File,
    sparse: File,
    read_only: File,
    path_only: File,
    symlink: File,
    fifo: File,
    linked: Option<File>,
    shared: Region,
    private: Region,
    posix: Region,
    directory: String,
    /// What the contents are derived from; told by `write` and `expect`.
    seed: u64,
}

/// Builds it and serves; the child at the desk `child`. `modest`: without what CRIU cannot do.
pub fn run(mut desk: Desk, args: &[String]) {
    let has = |word: &str| args.iter().any(|a| a == word);
    let dir = desk.dir().to_owned();
    let make = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        options.mode(0o640).open(dir.join(name)).unwrap()
    };
    let opened = |name: &str, flags: i32| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(flags)
            .open(dir.join(name))
            .unwrap()
    };
    let remove = |name: &str| fs::remove_file(dir.join(name)).unwrap();

    let deleted = make("deleted");
    std::os::unix::fs::fchown(&deleted, Some(1234), Some(4321)).unwrap();
    deleted
        .set_permissions(fs::Permissions::from_mode(0o4711))
        .unwrap();
    let again = File::options()
        .append(true)
        .open(dir.join("deleted"))
        .unwrap();
    let (read_only, path_only) = (opened("deleted", 0), opened("deleted", libc::O_PATH));
    remove("deleted");
    let replaced = make("replaced");
    remove("replaced");
    make("replaced").write_all(b"the new one").unwrap();
    let unnamed = if has("modest") {
        let file = make("unnamed");
        remove("unnamed");
        file
    } else {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(&dir)
            .unwrap()
    };
    let sparse = make("sparse");
    sparse.set_len(LONG).unwrap();
    sparse.write_all_at(b"far out", LONG / 2).unwrap();
    remove("sparse");
    std::os::unix::fs::symlink("nowhere", dir.join("symlink")).unwrap();
    let symlink = if has("modest") {
        0
    } else {
        libc::O_PATH | libc::O_NOFOLLOW
    };
    let symlink = if symlink == 0 {
        opened("replaced", 0)
    } else {
        opened("symlink", symlink)
    };
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut fifo = File::options()
        .read(true)
        .write(true)
        .open(dir.join("fifo"))
        .unwrap();
    fifo.write_all(b"unread").unwrap();
    remove("fifo");
    let region = |path: &Path, how: i32| {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(3 * PAGE as u64).unwrap();
        file.write_all_at(b"from the file", 2 * PAGE as u64)
            .unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let region = Region::map(3, prot, how, Some((&file, 0)), None).unwrap();
        fs::remove_file(path).unwrap();
        region
    };
    let posix = format!(
        "/dev/shm/icecore-{}",
        dir.to_string_lossy().replace('/', "-")
    );
    let linked = has("link").then(|| {
        let mut file = make("lost");
        fs::hard_link(dir.join("lost"), dir.join("kept")).unwrap();
        remove("lost");
        file.write_all(b"kept").unwrap();
        file
    });
    let shared = region(&dir.join("shared"), libc::MAP_SHARED);
    let private = region(&dir.join("private"), libc::MAP_PRIVATE);
    let posix = region(Path::new(&posix), libc::MAP_SHARED);
    let gone = dir.join("gone/deep");
    fs::create_dir_all(&gone).unwrap();
    std::env::set_current_dir(&gone).unwrap();
    fs::remove_dir_all(dir.join("gone")).unwrap();
    let directory = cwd();
    let mut state = Nameless {
        deleted,
        again,
        replaced,
        unnamed,
        sparse,
        read_only,
        path_only,
        symlink,
        fifo,
        linked,
        shared,
        private,
        posix,
        directory,
        seed: 0,
    };
    state.write(1).unwrap();
    state.deleted.seek(SeekFrom::Start(5)).unwrap();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

fn cwd() -> String {
    fs::read_link("/proc/self/cwd")
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

impl Nameless {
    fn write(&mut self, seed: u64) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        self.seed = seed;
        let bytes = seed.to_le_bytes().repeat(700);
        for file in [&self.deleted, &self.replaced, &self.unnamed] {
            file.write_all_at(&bytes, 0).map_err(text)?;
        }
        self.sparse
            .write_all_at(&bytes, LONG - 7000)
            .map_err(text)?;
        self.shared.set_word(0, seed);
        self.private.set_word(0, seed + 1);
        self.posix.set_word(0, seed + 2);
        Ok(())
    }
}

impl Program for Nameless {
    fn check(&mut self) -> Answer {
        let text = |e: std::io::Error| e.to_string();
        let should = self.seed.to_le_bytes().repeat(700);
        let mut bytes = vec![0; should.len()];
        for (name, file) in [
            ("deleted", &self.deleted),
            ("replaced", &self.replaced),
            ("unnamed", &self.unnamed),
            ("read-only", &self.read_only),
        ] {
            file.read_exact_at(&mut bytes, 0).map_err(text)?;
            same(name, &(bytes == should), &true)?;
        }
        self.sparse
            .read_exact_at(&mut bytes, LONG - 7000)
            .map_err(text)?;
        same("end of the sparse file", &(bytes == should), &true)?;
        self.sparse
            .read_exact_at(&mut bytes[..7], LONG / 2)
            .map_err(text)?;
        same("middle of the sparse file", &&bytes[..7], &&b"far out"[..])?;
        let of = |file: &File| {
            file.metadata().map(|m| {
                (
                    m.dev(),
                    m.ino(),
                    m.nlink(),
                    m.len(),
                    m.mode(),
                    m.uid(),
                    m.gid(),
                )
            })
        };
        let deleted = of(&self.deleted).map_err(text)?;
        same(
            "mode and owner",
            &(deleted.4 & 0o7777, deleted.5, deleted.6),
            &(0o4711, 1234, 4321),
        )?;
        same("links", &deleted.2, &0)?;
        for other in [&self.again, &self.read_only, &self.path_only] {
            same("one file", &of(other).map_err(text)?, &deleted)?;
        }
        let sparse = self.sparse.metadata().map_err(text)?;
        same("length", &sparse.len(), &LONG)?;
        same("holes", &(sparse.blocks() < 2048), &true)?;
        same("offset", &self.deleted.stream_position().map_err(text)?, &5)?;
        same("fifo", &unread(&self.fifo), &6)?;
        let link = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let name = link(&self.deleted).map_err(text)?;
        same(
            "name",
            &name.to_string_lossy().ends_with("/deleted (deleted)"),
            &true,
        )?;
        if let Some(linked) = &mut self.linked {
            same(
                "links",
                &(linked.metadata().map_err(text)?.nlink() > 0),
                &true,
            )?;
            let mut kept = String::new();
            linked.seek(SeekFrom::Start(0)).map_err(text)?;
            linked.read_to_string(&mut kept).map_err(text)?;
            same("kept", &kept.as_str(), &"kept")?;
        }
        same("symlink", &self.symlink.metadata().is_ok(), &true)?;
        same("shared", &self.shared.word(0), &self.seed)?;
        same("private", &self.private.word(0), &(self.seed + 1))?;
        same("posix", &self.posix.word(0), &(self.seed + 2))?;
        let from_file = u64::from_le_bytes(*b"from the");
        for region in [&self.shared, &self.private, &self.posix] {
            same("untouched page", &region.word(2 * PAGE / 8), &from_file)?;
        }
        same("working directory", &cwd(), &self.directory)?;
        same("a file in it", &File::create("x").is_err(), &true)?;
        Ok(self.seed.to_string())
    }

    /// `write SEED` changes all contents; `expect SEED` after another process did.
    fn command(&mut self, words: &[&str]) -> Answer {
        let number = |word: &str| word.parse::<u64>().map_err(|_| "not a number".to_owned());
        match words {
            ["write", seed] => self.write(number(seed)?)?,
            ["expect", seed] => {
                self.seed = number(seed)?;
                self.private.set_word(0, self.seed + 1);
            }
            _ => return Err("write SEED | expect SEED".into()),
        }
        Ok(String::new())
    }
}
