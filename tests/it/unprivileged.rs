//! Without root: processes of one's own are dumped, and the demo shows all of it in namespaces of its
//! own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::{Need, Run, Sandbox, require};

const USER: &str = "12345";

/// A sandbox, a directory in it that everybody may write to, and icecore where everybody may run it.
fn open() -> Option<(Sandbox, PathBuf, PathBuf)> {
    if !require(&[Need::Root]) {
        return None;
    }
    let sandbox = Sandbox::new();
    let (dir, icecore) = open_to_all(&sandbox);
    Some((sandbox, dir, icecore))
}

fn open_to_all(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let dir = sandbox.path("open");
    fs::create_dir(&dir).unwrap();
    for path in [sandbox.path("."), dir.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let icecore = dir.join("icecore");
    fs::copy(env!("CARGO_BIN_EXE_icecore"), &icecore).unwrap();
    (dir, icecore)
}

/// The words that run the rest as a user without any right.
fn as_user(words: &[&str]) -> Vec<String> {
    let user = [&format!("--reuid={USER}"), &format!("--regid={USER}")].map(String::clone);
    let nothing = [
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--",
    ];
    let rest = nothing.iter().chain(words).map(|word| (*word).to_owned());
    user.into_iter().chain(rest).collect()
}

fn run_as_user(sandbox: &Sandbox, words: &[&str]) -> Run {
    let words = as_user(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    sandbox.run("setpriv", &words)
}

#[test]
fn the_demo_runs_without_root_in_namespaces_of_its_own() {
    let Some((sandbox, dir, icecore)) = open() else {
        return;
    };
    if run_as_user(&sandbox, &["unshare", "-Urpf", "--mount-proc", "true"]).code != 0 {
        eprintln!("skipped: users may not have namespaces of their own here");
        return;
    }
    let tmp = dir.join("tmp");
    fs::create_dir(&tmp).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
    let temporary = format!("TMPDIR={}", tmp.display());
    let icecore = icecore.to_str().unwrap();
    let unset = ["-u", "ICECORE_RUNTIME_DIR", "-u", "XDG_RUNTIME_DIR"];
    let mut words = vec!["env"];
    words.extend(unset);
    words.extend([temporary.as_str(), icecore, "demo", "--plain"]);
    let said = run_as_user(&sandbox, &words).ok().stdout;
    assert!(said.contains("none wrong"), "{said}");
    assert_eq!(
        fs::read_dir(&tmp).unwrap().count(),
        0,
        "something is left behind"
    );
}

#[test]
fn a_process_of_ones_own_is_dumped_without_any_right() {
    let Some((mut sandbox, dir, icecore)) = open() else {
        return;
    };
    let words = as_user(&["sleep", "1000"]);
    let mut program = vec!["setpriv"];
    program.extend(words.iter().map(String::as_str));
    let pid = sandbox.start("sleeper", &program);
    crate::support::wait_until("sleep runs", || {
        let comm = fs::read_to_string(sandbox.proc(&format!("{pid}/comm"))).ok()?;
        (comm == "sleep\n").then_some(())
    });
    let layer = dir.join("1");
    let (layer, target) = (layer.to_str().unwrap(), pid.to_string());
    let icecore = icecore.to_str().unwrap();
    run_as_user(&sandbox, &[icecore, "dump", "-t", &target, "-D", layer]).ok();
    sandbox.wait_gone(&[pid]);
    sandbox.icecore(&format!("restore -D {layer} -d")).ok();
    let status = fs::read_to_string(sandbox.proc(&format!("{pid}/status"))).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t")), "{status}");
}

#[test]
fn the_configuration_of_somebody_else_is_passed_over_and_named() {
    let Some((sandbox, dir, icecore)) = open() else {
        return;
    };
    let home = dir.join("home");
    fs::create_dir_all(home.join(".config/icecore")).unwrap();
    fs::write(home.join(".config/icecore/config.toml"), "nonsense").unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let home = format!("HOME={}", home.display());
    let icecore = icecore.to_str().unwrap();
    let words = [
        "env",
        "-u",
        "ICECORE_CONFIG",
        "-u",
        "XDG_CONFIG_HOME",
        &home,
    ];
    let words = [&words[..], &[icecore, "config"]].concat();
    let said = run_as_user(&sandbox, &words).ok().stdout;
    assert!(said.contains(".config/icecore may not be read"), "{said}");
    assert!(said.contains("theme   auto"), "{said}");
    // A file that was asked for is another matter.
    let named = home.replace("HOME=", "ICECORE_CONFIG=") + "/.config/icecore/config.toml";
    let run = run_as_user(&sandbox, &["env", &named, icecore, "config"]);
    assert_eq!(run.code, 6, "{}", run.stderr);
}

#[test]
fn a_user_restores_a_process_of_ones_own_in_a_user_namespace_that_keeps_the_ids() {
    let Some((mut sandbox, dir, icecore)) = open() else {
        return;
    };
    let keeping = ["unshare", "--map-current-user", "--keep-caps"];
    if run_as_user(&sandbox, &[&keeping[..], &["true"]].concat()).code != 0 {
        eprintln!("skipped: users may not have namespaces of their own here");
        return;
    }
    let words = as_user(&["sleep", "1000"]);
    let mut program = vec!["setpriv"];
    program.extend(words.iter().map(String::as_str));
    let pid = sandbox.start("sleeper", &program);
    crate::support::wait_until("sleep runs", || {
        let comm = fs::read_to_string(sandbox.proc(&format!("{pid}/comm"))).ok()?;
        (comm == "sleep\n").then_some(())
    });
    // Its output is a file of its own.
    fs::set_permissions(sandbox.path("sleeper"), fs::Permissions::from_mode(0o666)).unwrap();
    let (layer, target) = (dir.join("1"), pid.to_string());
    let (layer, icecore) = (layer.to_str().unwrap(), icecore.to_str().unwrap());
    run_as_user(&sandbox, &[icecore, "dump", "-t", &target, "-D", layer]).ok();
    sandbox.wait_gone(&[pid]);
    let restore = [icecore, "restore", "-D", layer, "-d"];
    // Everywhere it is said what would do, before anything is tried.
    let refused = run_as_user(&sandbox, &restore);
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&keeping.join(" ")),
        "{}",
        refused.stderr
    );
    let others_ids = run_as_user(&sandbox, &[&keeping[..], &restore[..]].concat());
    assert_eq!(others_ids.code, 6, "{}", others_ids.stderr);
    assert!(
        others_ids.stderr.contains("--new-pid-namespace"),
        "{}",
        others_ids.stderr
    );
    let apart = [&restore[..], &["--new-pid-namespace"]].concat();
    let as_root = run_as_user(&sandbox, &[&["unshare", "-r"], &apart[..]].concat());
    assert_eq!(as_root.code, 6, "{}", as_root.stderr);
    let unknown = format!("user id {USER}, which this user namespace does not know");
    assert!(as_root.stderr.contains(&unknown), "{}", as_root.stderr);
    let runs = run_as_user(&sandbox, &[&keeping[..], &apart[..], &["--json"]].concat()).ok();
    let told: serde_json::Value = serde_json::from_str(&runs.stdout).unwrap();
    assert_eq!(told["root_inside"], pid);
    let root = told["root"].as_i64().unwrap();
    let status = fs::read_to_string(sandbox.proc(&format!("{root}/status"))).unwrap();
    assert!(status.contains("Name:\tsleep\n"), "{status}");
    assert!(status.contains(&format!("Uid:\t{USER}\t")), "{status}");
    let first = told["first_process"].as_i64().unwrap();
    sandbox.run("kill", &["-9", &first.to_string()]).ok();
    let gone = [root, first].map(|pid| i32::try_from(pid).unwrap());
    sandbox.wait_gone(&gone);
}

#[test]
fn a_user_restores_a_ping_whose_socket_has_larger_buffers_than_usual() {
    if !require(&[Need::Root, Need::Program("ip"), Need::Program("ping")]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    let keeping = ["unshare", "--map-current-user", "--keep-caps"];
    if run_as_user(&sandbox, &[&keeping[..], &["true"]].concat()).code != 0 {
        eprintln!("skipped: users may not have namespaces of their own here");
        return;
    }
    let (dir, icecore) = open_to_all(&sandbox);
    // A copy has none of the rights that the file of the system may have.
    let ping = dir.join("ping");
    sandbox.sh(&format!("cp $(command -v ping) {}", ping.display()));
    let words = as_user(&[
        ping.to_str().unwrap(),
        "-i",
        "0.2",
        "-S",
        "100000",
        "127.0.0.1",
    ]);
    let mut program = vec!["setpriv"];
    program.extend(words.iter().map(String::as_str));
    let pid = sandbox.start("said", &program);
    let said = sandbox.path("said");
    let answers = || {
        fs::read_to_string(&said)
            .unwrap()
            .matches("icmp_seq")
            .count()
    };
    crate::support::wait_until("there are answers", || (answers() > 2).then_some(()));
    fs::set_permissions(&said, fs::Permissions::from_mode(0o666)).unwrap();
    let (layer, target) = (dir.join("1"), pid.to_string());
    let (layer, icecore) = (layer.to_str().unwrap(), icecore.to_str().unwrap());
    run_as_user(&sandbox, &[icecore, "dump", "-t", &target, "-D", layer]).ok();
    sandbox.wait_gone(&[pid]);
    let before = answers();
    let restore = [icecore, "restore", "-D", layer, "-d", "--new-pid-namespace"];
    run_as_user(&sandbox, &[&keeping[..], &restore].concat()).ok();
    crate::support::wait_until("there are more", || (answers() > before + 2).then_some(()));
}

#[test]
fn what_is_refused_names_the_capability_and_the_command_that_has_it() {
    let Some((mut sandbox, dir, icecore)) = open() else {
        return;
    };
    let theirs = sandbox.start("sleeper", &["sleep", "1000"]).to_string();
    let shut = dir.join("shut");
    sandbox
        .icecore(&format!("dump -t {theirs} -R -D {}/1", shut.display()))
        .ok();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(shut.join("1"), fs::Permissions::from_mode(0o700)).unwrap();
    let shut = shut.to_str().unwrap().to_owned();
    let one = format!("{shut}/1");
    // One that everybody may read, and nobody without rights may restore.
    let open = dir.join("open").to_str().unwrap().to_owned();
    sandbox
        .icecore(&format!("dump -t {theirs} -R -D {open}"))
        .ok();
    sandbox.run("chmod", &["-R", "a+rX", &open]).ok();
    let new = dir.join("new").to_str().unwrap().to_owned();
    let icecore = icecore.to_str().unwrap();
    let asked: &[&[&str]] = &[
        &["check", "-t", &theirs],
        &["dump", "-t", &theirs, "-R", "-D", &new],
        &["watch", &theirs],
        &["restore", "-D", &one, "-d"],
        &["restore", "-D", &open, "--dry-run"],
        &["show", &one],
        &["verify", &shut],
        &["adopt", &shut],
        &["dedup", "-D", &one, "--dry-run"],
    ];
    for words in asked {
        let run = run_as_user(&sandbox, &[&[icecore], *words].concat());
        assert_eq!(run.code, 6, "{words:?}: {}", run.stderr);
        let command = format!("as root: sudo {icecore} {}", words.join(" "));
        assert!(run.stderr.contains(&command), "{words:?}: {}", run.stderr);
        assert!(run.stderr.contains("CAP_"), "{words:?}: {}", run.stderr);
    }
    // What can be listed is, beside what cannot.
    let listed = run_as_user(&sandbox, &[icecore, "stacks", &shut])
        .ok()
        .stdout;
    assert!(
        listed.contains(&format!("as root: sudo {icecore} stacks {shut}")),
        "{listed}"
    );
    assert!(listed.contains("CAP_DAC_OVERRIDE"), "{listed}");
}
