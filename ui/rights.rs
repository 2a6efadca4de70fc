//! What gives the rights that are missing: the same command, as root.

use std::path::Path;

use icecore::{Error, Kind};

/// The command line of this run with `sudo` in front, for an error that rights would have prevented;
/// nothing for root, who is not helped by it.
pub(crate) fn command(error: &Error) -> Option<String> {
    (error.kind() == Kind::Permission).then(as_root).flatten()
}

/// The command line of this run with `sudo` in front; nothing for root.
pub(crate) fn as_root() -> Option<String> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    Some(format!("sudo {}", this_run()?))
}

/// The command line of this run in a user namespace that keeps the ids (unshare(1)): a tree of one's own can be
/// restored there, in a pid namespace of its own.
pub(crate) fn rootless() -> Option<String> {
    let keeping = "unshare --map-current-user --keep-caps";
    Some(format!("{keeping} {}", this_run()?))
}

fn this_run() -> Option<String> {
    // sudo has a search path of its own.
    let program = std::env::current_exe().ok()?;
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| word.to_string_lossy().into_owned());
    Some(line(&program, words))
}

fn line(program: &Path, words: impl Iterator<Item = String>) -> String {
    let program = std::iter::once(program.to_string_lossy().into_owned());
    let words: Vec<String> = program.chain(words).map(quoted).collect();
    words.join(" ")
}

/// A word as a shell takes it for one.
fn quoted(word: String) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted_into_a_shell() {
        let words = ["restore", "-D", "my layers/it's", "", "$HOME"];
        let line = line(
            Path::new("/usr/bin/icecore"),
            words.iter().map(ToString::to_string),
        );
        assert_eq!(
            line,
            r"/usr/bin/icecore restore -D 'my layers/it'\''s' '' '$HOME'"
        );
    }
}
