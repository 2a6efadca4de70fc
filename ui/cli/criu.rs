//! CRIU's commands and options that icecore does not have: whoever comes with a script for CRIU is
//! told what to do instead, not only that a word is unknown.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use icecore::{Error, Kind};

/// Commands of criu(8), and what to do instead.
const COMMANDS: &[(&str, &str)] = &[
    (
        "pre-dump",
        "use `icecore dump --leave-running --track-mem`: it freezes as briefly, and its layer can be restored",
    ),
    (
        "cpuinfo",
        "layers note the instruction sets of their CPU; `icecore restore --dry-run` compares them",
    ),
    (
        "page-server",
        "dump to a directory and copy it; layers are ordinary files (mind holes: cp --sparse=always)",
    ),
    (
        "lazy-pages",
        "`icecore restore` fills all pages before the tree runs",
    ),
    (
        "service",
        "start icecore for each dump and restore; `--json` gives figures to programs",
    ),
    (
        "swrk",
        "start icecore for each dump and restore; `--json` gives figures to programs",
    ),
];

/// Options of criu(8), and what to do instead.
const OPTIONS: &[(&str, &str)] = &[
    ("--ghost-fiemap", "leave it out: holes of files are kept"),
    (
        "--external",
        "leave it out: every resource has to belong to the tree, or to be reachable by its path",
    ),
    (
        "--inherit-fd",
        "leave it out: every descriptor has to belong to the tree, or to be reachable by its path",
    ),
    (
        "--evasive-devices",
        "leave it out: devices are opened again by their path",
    ),
    (
        "--force-irmap",
        "leave it out: paths are read from the kernel",
    ),
    (
        "--irmap-scan-path",
        "leave it out: paths are read from the kernel",
    ),
    (
        "--file-validation",
        "leave it out: size, time and build-id are compared always",
    ),
    ("--skip-file-rwx-check", "restore the file's mode first"),
    (
        "--root",
        "run icecore inside of that root, e.g. by chroot(8)",
    ),
    (
        "--join-ns",
        "run icecore inside of that namespace, by nsenter(1)",
    ),
    (
        "--empty-ns",
        "run icecore inside of the namespace, by nsenter(1)",
    ),
    (
        "--skip-mnt",
        "run icecore inside of the mount namespace, by nsenter(1)",
    ),
    (
        "--enable-fs",
        "run icecore inside of the mount namespace, by nsenter(1)",
    ),
    (
        "--manage-cgroups",
        "leave it out: each process goes back into its control groups, where they are there",
    ),
    (
        "--cgroup-root",
        "make the control groups of the layer (`icecore show LAYER core-PID.img`), and leave it out",
    ),
    (
        "--freeze-cgroup",
        "leave it out: icecore stops each thread by ptrace",
    ),
    ("--network-lock", "leave it out"),
    ("--lsm-profile", "start icecore under the wanted profile"),
    (
        "--lsm-mount-context",
        "run icecore inside of the mount namespace, by nsenter(1)",
    ),
    ("--weak-sysctls", "leave it out: icecore changes no sysctl"),
    (
        "--timeout",
        "leave it out: a tree that cannot be stopped is let go with an error",
    ),
    (
        "--pre-dump-mode",
        "leave it out: pages are read while the tree is frozen",
    ),
    (
        "--page-server",
        "dump to a directory and copy it; layers are ordinary files",
    ),
    (
        "--address",
        "dump to a directory and copy it; layers are ordinary files",
    ),
    (
        "--port",
        "dump to a directory and copy it; layers are ordinary files",
    ),
    ("--stream", "dump to a directory; layers are ordinary files"),
    (
        "--lazy-pages",
        "leave it out: all pages are filled before the tree runs",
    ),
    ("--action-script", "run the script before or after icecore"),
    (
        "--exec-cmd",
        "use `icecore restore` without -d: it waits for the tree and ends as it does",
    ),
    (
        "--restore-sibling",
        "leave it out: without -d the tree is a child of icecore, with -d of init",
    ),
    ("--daemon", "leave it out"),
    (
        "--status-fd",
        "read the line that icecore prints when it is done (`--json` for programs)",
    ),
    (
        "--display-stats",
        "leave it out: the figures are always printed (`--json` for programs)",
    ),
    ("--log-pid", "leave it out: there is one log"),
    ("--libdir", "leave it out: there are no plugins"),
    (
        "--unprivileged",
        "leave it out: `icecore doctor` tells what works with your rights",
    ),
    (
        "--no-default-config",
        "leave it out: CRIU's configuration files are not read",
    ),
    (
        "--config",
        "leave it out: CRIU's configuration files are not read",
    ),
];

/// What to tell about a command line that was not understood, when CRIU would understand it.
pub(crate) fn explain(error: &clap::Error) -> Option<Error> {
    let (key, table, what) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, OPTIONS, "option"),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, COMMANDS, "command"),
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(key) else {
        return None;
    };
    let word = word.split('=').next()?;
    let (_, hint) = table.iter().find(|(name, _)| *name == word)?;
    let text = format!("icecore does not have CRIU's {what} {word}");
    Some(Error::new(Kind::Usage, text).hint(*hint))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Cli;

    fn explained(words: &str) -> Option<String> {
        let error = Cli::try_parse_from(words.split(' ')).unwrap_err();
        explain(&error).map(|e| crate::error::as_text(&e))
    }

    #[test]
    fn no_row_is_about_something_that_icecore_has() {
        let cli = Cli::command();
        let known: Vec<&str> = ["dump", "restore"]
            .iter()
            .flat_map(|name| cli.find_subcommand(name).unwrap().get_arguments())
            .filter_map(clap::Arg::get_long)
            .collect();
        for (option, _) in OPTIONS {
            assert!(!known.contains(&&option[2..]), "{option}");
        }
        for (command, _) in COMMANDS {
            assert!(cli.find_subcommand(command).is_none(), "{command}");
        }
    }

    #[test]
    fn words_of_criu_get_a_hint_and_others_the_usual_message() {
        let text = explained("icecore dump -t 1 --timeout=5").unwrap();
        assert!(text.contains("--timeout\n  try: "), "{text}");
        assert!(
            explained("icecore pre-dump -t 1")
                .unwrap()
                .contains("--leave-running")
        );
        assert_eq!(explained("icecore dump -t 1 --nonsense"), None);
        assert_eq!(explained("icecore dump"), None);
    }
}
