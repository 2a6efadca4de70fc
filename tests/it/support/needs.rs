//! What a test needs of the machine. Where it is missing, the test says so and passes, unless
//! `ICECORE_TEST_STRICT=1`.

use std::io::Write as _;
use std::path::PathBuf;

use nix::sys::socket::sockopt;
use nix::unistd::geteuid;

use super::disk::Disk;
use super::sandbox::Tools;

/// One thing that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Root, who may checkpoint.
    Root,
    /// CRIU 4.x in the directory `ICECORE_TEST_CRIU`.
    Criu,
    /// `crit` of that directory.
    Crit,
    /// strace(1).
    Strace,
    /// Loop devices, and ext4 on them.
    Ext4,
    /// gdb(1).
    Gdb,
    /// CPython 3.
    Python,
    /// `CAP_SYS_RESOURCE`, which root may lack. Only the CRIU that tests compare with needs it, so its
    /// absence is no failure even when tests are strict.
    SysResource,
    /// A CRIU that can dump internet sockets on this kernel; as excusable.
    InternetByCriu,
    /// A server of PostgreSQL, and psql.
    Postgres,
    /// A program of the system.
    Program(&'static str),
}

/// True when everything is there; prints why not otherwise.
///
/// # Panics
/// When something is missing and `ICECORE_TEST_STRICT=1`.
#[must_use]
pub fn require(needs: &[Need]) -> bool {
    for need in needs {
        if let Err(reason) = need.check() {
            let strict = std::env::var_os("ICECORE_TEST_STRICT").is_some_and(|v| v == "1");
            let excusable = matches!(need, Need::SysResource | Need::InternetByCriu);
            assert!(!strict || excusable, "missing: {reason}");
            // Not by eprintln: of a test that passes, cargo shows nothing that goes through it.
            let test = std::thread::current().name().unwrap_or("?").to_owned();
            let line = format!("skipped {test}: {reason}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return false;
        }
    }
    true
}

impl Need {
    fn check(self) -> Result<(), String> {
        match self {
            Self::Root if !geteuid().is_root() => Err("this test needs root".into()),
            Self::Root => Tools::check(),
            Self::Criu => criu().map(drop),
            Self::Crit => {
                let there = criu()?.join("usr/bin/crit").exists();
                there
                    .then_some(())
                    .ok_or("there is no crit beside CRIU".to_owned())
            }
            Self::SysResource => {
                let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
                let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
                let bits = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
                let there = bits.is_some_and(|bits| bits & 1 << 24 != 0);
                there
                    .then_some(())
                    .ok_or("root lacks CAP_SYS_RESOURCE".to_owned())
            }
            Self::Strace => program("strace"),
            Self::Postgres => {
                let there = postgres()
                    .map(drop)
                    .ok_or("there is no PostgreSQL".to_owned());
                there.and_then(|()| Self::Program("psql").check())
            }
            Self::Ext4 => Disk::try_out(),
            Self::Gdb => program("gdb"),
            Self::Program(name) => {
                let there = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
                    .iter()
                    .any(|dir| std::path::Path::new(dir).join(name).exists());
                there.then_some(()).ok_or(format!("there is no {name}"))
            }
            Self::InternetByCriu => criu_of_internet().map(drop),
            Self::Python => python().map(drop).ok_or("there is no python3".to_owned()),
        }
    }
}

/// Where `.ci/run` puts it.
const USUAL_CRIU: &str = "/var/cache/icecore-test/criu";
const NEWER_CRIU: &str = "/var/cache/icecore-test/criu-newer";

/// Root directory of a Debian with criu in it.
///
/// # Errors
/// With what to do, when there is none.
pub fn criu() -> Result<PathBuf, String> {
    let hint = "make one: debootstrap --variant=minbase --include=criu,python3-pycriu trixie DIR, \
                then set ICECORE_TEST_CRIU=DIR (.ci/run does both)";
    let root = std::env::var_os("ICECORE_TEST_CRIU").unwrap_or_else(|| USUAL_CRIU.into());
    let root = PathBuf::from(root);
    if root.join("usr/sbin/criu").exists() {
        return Ok(root);
    }
    Err(format!("there is no CRIU in {}: {hint}", root.display()))
}

/// Root directory of a CRIU that can dump internet sockets here: those before 4.2 ask them for
/// SO_PASSCRED, which Linux 6.16 and later refuse.
///
/// # Errors
/// With what to do, when there is none.
pub fn criu_of_internet() -> Result<PathBuf, String> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    if nix::sys::socket::getsockopt(&socket, sockopt::PassCred).is_ok() {
        return criu();
    }
    let root = std::env::var_os("ICECORE_TEST_CRIU_NEWER").unwrap_or_else(|| NEWER_CRIU.into());
    let root = PathBuf::from(root);
    let hint = "on this kernel that takes CRIU 4.2 or newer: a Debian that has it, made by debootstrap, in \
                ICECORE_TEST_CRIU_NEWER (.ci/run does both)";
    let there = root.join("usr/sbin/criu").exists();
    there
        .then_some(root)
        .ok_or_else(|| format!("there is no CRIU that dumps internet sockets: {hint}"))
}

fn program(name: &str) -> Result<(), String> {
    let found = std::process::Command::new(name).arg("--version").output();
    let works = found.is_ok_and(|output| output.status.success());
    works.then_some(()).ok_or(format!("there is no {name}"))
}

/// The directory of PostgreSQL's server programs, which Debian keeps apart from others.
pub fn postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut all = versions.flatten().map(|version| version.path().join("bin"));
    all.find(|bin| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| bin.join(name).exists())
    })
}

/// CPython of the system.
pub fn python() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/python3");
    path.exists().then_some(path)
}
