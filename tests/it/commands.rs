//! What the commands beside dump and restore say.

use serde_json::Value;

use crate::support::{Need, Sandbox, require};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in:\n{text}"))
}

#[test]
fn figures_come_as_json_too() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["300"]);
    let dump = |words: &str| {
        let run = sandbox
            .icecore(&format!("dump -t {} --json {words}", target.pid))
            .ok();
        json(&run.stdout)
    };
    let first = dump("-D img/1 -R --track-mem");
    assert!(first["pages_stored"].as_u64() > Some(300), "{first}");
    assert_eq!(first["pages_in_parent"], 0);
    target.ask("dirty 0 5 3");
    let second = dump("-D img/2 --track-mem --prev-images-dir ../1");
    assert!(second["pages_in_parent"].as_u64() > Some(200), "{second}");
    assert!(second["pages_stored"].as_u64() < Some(200), "{second}");
    sandbox.wait_gone(&[target.pid]);
    let restored = json(&sandbox.icecore("restore -D img/2 -d --json").ok().stdout);
    assert_eq!(restored["root"], target.pid);
    let processes = json(&sandbox.icecore("ps --json").ok().stdout);
    assert!(processes["trees"].is_array());
    assert!(processes.to_string().contains("specimen"), "{processes}");
    let stacks = json(&sandbox.icecore("stacks img --json").ok().stdout);
    assert!(stacks.to_string().contains("img/2"), "{stacks}");
    let label = json(&sandbox.icecore("label img/2 warm --json").ok().stdout);
    assert_eq!(label["label"], "warm");
    let pin = json(&sandbox.icecore("pin img/2 --json").ok().stdout);
    assert_eq!(pin["changed"], true);
    let branch = json(&sandbox.icecore("branch img/2 img/3 --json").ok().stdout);
    let drop = json(&sandbox.icecore("drop img/3 --dry-run --json").ok().stdout);
    let files = json(&sandbox.icecore("show --json img/1").ok().stdout);
    let verified = json(&sandbox.icecore("verify --json img").ok().stdout);
    let adopted = json(&sandbox.icecore("adopt --json img").ok().stdout);
    for value in [
        &first, &restored, &processes, &stacks, &label, &pin, &branch, &drop, &files, &verified,
        &adopted,
    ] {
        assert_eq!(value["schema"], "icecore/v1", "{value}");
    }
    let shown = json(&sandbox.icecore("show --json img/1 pstree.img").ok().stdout);
    assert_eq!(shown["entries"][0]["pid"], target.pid);
    let error = sandbox.icecore("restore -D img/1 -d --json").fails(7);
    assert_eq!(json(&error.stderr)["code"], 7);
}

#[test]
fn a_check_tells_what_the_dump_would() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let plain = sandbox.specimen("writer", &["20"]);
    let said = sandbox.icecore(&format!("check -t {}", plain.pid)).ok();
    for words in ["supported        1  process\n", "can be dumped"] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
    let locked = sandbox.specimen("locks", &[]);
    let check = format!("check -t {} --json", locked.pid);
    let said = json(&sandbox.icecore(&check).fails(5).stdout);
    assert_eq!(said["schema"], "icecore/v1");
    assert_eq!(said["dumpable"], false);
    let first = &said["lines"][0];
    assert_eq!(first["verdict"], "with-option", "{said}");
    assert!(first["hint"].to_string().contains("--file-locks"), "{said}");
    let said = json(&sandbox.icecore(&format!("{check} -l")).ok().stdout);
    assert_eq!(said["dumpable"], true);
    let ring = sandbox.specimen("holder", &["io_uring"]);
    let run = sandbox.icecore(&format!("check -t {} --all", ring.pid));
    let said = run.fails(5).stdout;
    for words in ["no  ", "io_uring", "try: ", "cannot be dumped", "thread "] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
    let queues = sandbox.specimen("queues", &[]);
    let check = format!("check -t {}", queues.pid);
    let said = sandbox.icecore(&check).ok().stdout;
    for words in ["set of System V semaphores", "System V message queue"] {
        assert!(said.contains(words), "no {words} in:\n{said}");
    }
    for target in [&plain, &locked, &ring, &queues] {
        target.runs();
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["20"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1 --dry-run", target.pid))
        .ok();
    let words = format!("dump -t {} -D 1 --dry-run --json", target.pid);
    let plan = json(&sandbox.icecore(&words).ok().stdout);
    assert_eq!(
        (&plan["dry_run"], &plan["tasks"]),
        (&true.into(), &1.into())
    );
    assert!(plan["resident_pages"].as_u64() > Some(20), "{plan}");
    assert!(!sandbox.path("1").exists());
    target.runs();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d --dry-run").ok();
    for apart in ["", " --new-pid-namespace"] {
        let words = format!("restore -D 1 -d --dry-run --json{apart}");
        let plan = json(&sandbox.icecore(&words).ok().stdout);
        assert_eq!(
            (&plan["dry_run"], &plan["layers"]),
            (&true.into(), &1.into())
        );
        assert_eq!(plan["root"], target.pid, "{plan}");
    }
    assert!(!sandbox.exists(target.pid));
}

#[test]
fn a_pidfile_tells_the_root() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["20"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d --pidfile pid").ok();
    let said = std::fs::read_to_string(sandbox.path("pid")).unwrap();
    assert_eq!(said.trim(), target.pid.to_string());
}

#[test]
fn the_doctor_says_what_works_here() {
    if !require(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new();
    let said = sandbox.icecore("doctor").ok().stdout;
    for topic in ["Kernel", "Rights", "Tracking", "PAGEMAP_SCAN"] {
        assert!(said.contains(topic), "no {topic} in:\n{said}");
    }
}

#[test]
fn watching_counts_written_pages_without_stopping_anything() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["300"]);
    let said = sandbox
        .icecore(&format!("watch -t {} -n 2 --json", target.pid))
        .ok()
        .stdout;
    assert_eq!(said.lines().count(), 2, "{said}");
    let first = json(said.lines().next().unwrap());
    let resident = first["resident_pages"].as_u64();
    assert!(resident > Some(300), "{first}");
    let sum = |key| -> u64 {
        let mappings = first["mappings"].as_array().unwrap();
        mappings.iter().filter_map(|m| m[key].as_u64()).sum()
    };
    assert_eq!(Some(sum("dirty_pages")), first["dirty_pages"].as_u64());
    assert_eq!(Some(sum("resident_pages")), resident);
    target.runs();
    target.check();
}

#[test]
fn layers_in_the_store_are_made_and_found_by_name() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["50"]);
    let store = sandbox.path("store").display().to_string();
    let with_store = |words: &str| {
        let mut args = vec![
            format!("ICECORE_STORE={store}"),
            env!("CARGO_BIN_EXE_icecore").to_owned(),
        ];
        args.extend(words.split_whitespace().map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        sandbox.run("env", &args).ok().stdout
    };
    with_store(&format!("snap {} web", target.pid));
    target.ask("dirty 0 5 3");
    let second = json(&with_store(&format!("snap {} --json", target.pid)));
    assert!(
        second["layer"].as_str().unwrap().ends_with("web/2"),
        "{second}"
    );
    assert!(second["pages_in_parent"].as_u64() > Some(30), "{second}");
    target.runs();
    assert!(with_store("verify web/2").contains("2 layers"));
    assert!(with_store("stacks web").contains("2 layers"));
    sandbox.kill(&target);
    with_store("restore -d -D web/1");
    target.runs();
}

#[test]
fn a_configuration_is_printed_checked_and_complained_about() {
    let dir = tempfile::tempdir().unwrap();
    let icecore = |words: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(words)
            .env("ICECORE_CONFIG", dir.path().join("config.toml"))
            .output()
            .unwrap()
    };
    let said = |words: &[&str]| {
        let output = icecore(words);
        assert!(output.status.success(), "{words:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (option, file) in [
        ("--print-default", "config.toml"),
        ("--print-keys", "keys.toml"),
    ] {
        std::fs::write(dir.path().join(file), said(&["config", option])).unwrap();
    }
    let config = json(&said(&["config", "--json"]));
    assert_eq!(config["default_keys"], true, "{config}");
    assert_eq!(config["schema"], "icecore/v1");
    for words in [
        ["--theme", "light", "config", "--json"],
        ["config", "--theme", "light", "--json"],
    ] {
        assert_eq!(json(&said(&words))["theme"], "light", "{words:?}");
    }
    let refused = icecore(&["--root", "/tmp", "ps"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    std::fs::write(dir.path().join("keys.toml"), "# mine\nquit = 'd'\n").unwrap();
    let refused = icecore(&["config"]);
    assert_eq!(refused.status.code(), Some(2));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        error.contains("keys.toml:2:1: The key d of quit"),
        "{error}"
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(&["completions", shell]).contains("squash"), "{shell}");
    }
    said(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert!(dir.path().join("icecore-squash.1").exists());
}

#[test]
fn output_that_nobody_reads_to_its_end_is_no_reason_to_complain() {
    let commands = [
        "ps",
        "stacks tests/golden",
        "verify tests/golden",
        "owners tests/golden/criu-4.1",
        "show tests/golden/criu-4.1 pstree.img",
        "search tests/golden/criu-4.1 --regex [a-z]",
        "dedup -D tests/golden/criu-4.1-stack/3 --dry-run",
        "man",
        "completions bash",
        "doctor",
    ];
    for words in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(words.split(' '))
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(141), "{words}: {run:?}");
        assert!(run.stderr.is_empty(), "{words}: {run:?}");
    }
}
