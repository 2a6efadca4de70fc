//! What no kind recognises: how it is called, and what to do about it.

use super::Refusal;
use super::descriptor::Descriptor;

/// Hint for whatever has no better one.
const CLOSE_IT: &str = "have the program close it before the dump, or run it without this feature";

/// Hint for terminals.
const NO_TERMINAL: &str =
    "start the program apart from the terminal: setsid PROGRAM < /dev/null > LOG 2>&1 &";

/// Anonymous inodes: the name in `/proc`, and in words.
const ANONYMOUS: &[(&str, &str)] = &[
    ("[fanotify]", "a fanotify group"),
    ("[io_uring]", "an io_uring instance"),
    ("[userfaultfd]", "a userfaultfd"),
    ("[perf_event]", "a perf event"),
    ("bpf-map", "a BPF map"),
    ("bpf-prog", "a BPF program"),
    ("bpf_link", "a BPF link"),
    ("seccomp notify", "a seccomp listener"),
    ("[landlock-ruleset]", "a landlock ruleset"),
    ("kvm-vm", "a KVM virtual machine"),
];

/// Names `file`, which no kind can dump.
pub(super) fn refusal(file: &Descriptor) -> Refusal {
    let text = file.shown();
    let (what, hint) = match (file.stat.file_type(), text.split_once(':')) {
        (libc::S_IFSOCK, _) => (
            format!("a socket{} ({text})", family(file)),
            CLOSE_IT.to_owned(),
        ),
        (libc::S_IFCHR, _) if is_terminal(file) => {
            (format!("the terminal {text}"), NO_TERMINAL.to_owned())
        }
        (libc::S_IFCHR | libc::S_IFBLK, _) => (format!("the device {text}"), CLOSE_IT.to_owned()),
        (libc::S_IFLNK, _) => (
            format!("the symbolic link {text} itself (O_PATH)"),
            CLOSE_IT.to_owned(),
        ),
        (_, Some(("anon_inode", name))) => {
            let known = ANONYMOUS.iter().find(|(tag, _)| *tag == name);
            let what = known.map_or("an anonymous inode", |(_, words)| *words);
            (format!("{what} ({text})"), CLOSE_IT.to_owned())
        }
        _ => (
            format!("a file of a kind that cannot be dumped ({text})"),
            CLOSE_IT.to_owned(),
        ),
    };
    Refusal { what, hint }
}

/// What is known of a socket, in words.
fn family(file: &Descriptor) -> String {
    let name = |nature: super::Nature| match nature.domain {
        libc::AF_INET | libc::AF_INET6 => "an internet protocol other than TCP and UDP".to_owned(),
        libc::AF_XDP => "XDP".to_owned(),
        libc::AF_VSOCK => "virtual machines".to_owned(),
        other => format!("family {other}"),
    };
    file.socket
        .map_or_else(String::new, |nature| format!(" of {}", name(nature)))
}

/// Terminals by the major numbers of `Documentation/admin-guide/devices.txt`: consoles and serial
/// lines (4), `/dev/tty`, `/dev/console` and `/dev/ptmx` (5), pseudo-terminals (128 to 143).
fn is_terminal(file: &Descriptor) -> bool {
    matches!(file.stat.device().0, 4 | 5 | 128..=143)
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::Stat;
    use super::super::testing::descriptor;
    use super::*;

    fn said(text: &str, stat: Stat) -> Refusal {
        refusal(&descriptor(text, stat))
    }

    #[test]
    fn a_terminal_is_named_with_the_way_around_it() {
        let stat = Stat {
            mode: libc::S_IFCHR | 0o620,
            rdev: libc::makedev(136, 3),
            ..Stat::default()
        };
        let refusal = said("/dev/pts/3", stat);
        assert_eq!(refusal.what, "the terminal /dev/pts/3");
        assert!(refusal.hint.contains("setsid"));
    }

    #[test]
    fn anonymous_inodes_are_named_in_words_and_by_their_link() {
        let refusal = said("anon_inode:[io_uring]", Stat::default());
        assert_eq!(refusal.what, "an io_uring instance (anon_inode:[io_uring])");
        let refusal = said("anon_inode:[never-heard-of]", Stat::default());
        assert_eq!(
            refusal.what,
            "an anonymous inode (anon_inode:[never-heard-of])"
        );
    }

    #[test]
    fn sockets_and_devices_are_told_apart() {
        let socket = Stat {
            mode: libc::S_IFSOCK | 0o777,
            ..Stat::default()
        };
        assert!(said("socket:[77]", socket).what.starts_with("a socket"));
        let kvm = Stat {
            mode: libc::S_IFCHR,
            rdev: libc::makedev(10, 232),
            ..Stat::default()
        };
        assert_eq!(said("/dev/kvm", kvm).what, "the device /dev/kvm");
    }
}
