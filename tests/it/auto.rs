//! `watch --rule` makes the layers that its rule asks for, one after the other, and no others; what a
//! dump was expected to be is kept beside what it was.

use std::fs;

use serde_json::Value;

use crate::support::{Need, Sandbox, Target, require, wait_until};

/// A rule that is followed in the background.
struct Following {
    shell: i32,
    log: String,
}

impl Following {
    /// Starts to follow, looking often.
    fn start(sandbox: &mut Sandbox, rule: &str, words: &str, target: &Target) -> Self {
        let log = "following.log".to_owned();
        let icecore = env!("CARGO_BIN_EXE_icecore");
        let pid = target.pid.to_string();
        let runtime = format!("ICECORE_RUNTIME_DIR={}", sandbox.path("run").display());
        let store = format!("--store={}", sandbox.path("store").display());
        let mut program = vec![
            "sh",
            "-c",
            "\"$@\"; echo \"exit $?\"",
            "sh",
            "env",
            &runtime,
        ];
        program.extend([icecore, "watch", &pid, "--json", "--interval=0.02", &store]);
        program.extend(["--rule", rule]);
        program.extend(words.split_whitespace());
        let shell = sandbox.start(&log, &program);
        let following = Self { shell, log };
        wait_until("the rule is followed", || {
            following
                .text(sandbox)
                .contains("follows process")
                .then_some(())
        });
        following
    }

    fn text(&self, sandbox: &Sandbox) -> String {
        fs::read_to_string(sandbox.path(&self.log)).unwrap_or_default()
    }

    /// The lines about dumps, when there are `count`.
    #[track_caller]
    fn dumps(&self, sandbox: &Sandbox, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} dumps:\n{}", self.text(sandbox)), || {
            let text = self.text(sandbox);
            let lines: Vec<Value> = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n') && line.starts_with('{'))
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    fn signal(&self, sandbox: &Sandbox, signal: &str) {
        let children = sandbox.proc(&format!("{0}/task/{0}/children", self.shell));
        let pid = fs::read_to_string(children).unwrap();
        sandbox.run("kill", &[signal, pid.trim()]).ok();
    }

    /// Waits for its end; the exit code.
    fn code(&self, sandbox: &Sandbox) -> i32 {
        wait_until("the rule is followed no more", || {
            let text = self.text(sandbox);
            let code = text.lines().find_map(|line| line.strip_prefix("exit "));
            code.map(|code| code.parse().unwrap())
        })
    }
}

#[test]
fn a_rule_makes_layers_that_restore_and_says_what_it_expected() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["2000"]);
    let rule = "every 1 h, when dirty > 300 pages";
    let following = Following::start(&mut sandbox, rule, "", &target);
    for _ in 0..2 {
        target.ask("dirty 0 600 7");
    }
    let first = following.dumps(&sandbox, 1).remove(0);
    assert_eq!(first["because"], "when dirty > 300 pages", "{first}");
    assert_eq!(first["pages_in_parent"], 0);
    assert_eq!(first["predicted"]["mode"], "full");
    assert_eq!(
        first["predicted"]["freeze"],
        Value::Null,
        "nothing is known yet"
    );
    target.ask("map 500 5");
    let second = following.dumps(&sandbox, 2).remove(1);
    let predicted = &second["predicted"];
    assert_eq!(predicted["mode"], "tracked", "{second}");
    let pages = |value: &Value| value.as_u64().unwrap();
    let off = pages(&predicted["pages"]).abs_diff(pages(&second["pages_stored"]));
    assert!(off <= pages(&second["pages_stored"]) / 5, "{second}");
    assert!(
        predicted["freeze"]["expected_us"].as_u64() > Some(0),
        "{second}"
    );
    following.signal(&sandbox, "-TERM");
    assert_eq!(following.code(&sandbox), 0);
    assert_eq!(following.dumps(&sandbox, 2).len(), 2, "no other");
    target.runs();
    target.check();
    let layer = second["layer"].as_str().unwrap();
    let catalog = sandbox.icecore("stacks store --json").ok().stdout;
    assert!(catalog.contains("predicted_freeze_ns"), "{catalog}");
    sandbox.kill(&target);
    sandbox.icecore(&format!("restore -D {layer} -d")).ok();
    target.runs();
    target.check();
}

#[test]
fn a_freeze_budget_holds_dumps_back_and_the_exit_code_tells() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["500"]);
    let budget = "--freeze-budget 0.001";
    let following = Following::start(&mut sandbox, "when dirty > 20 pages", budget, &target);
    target.ask("map 100 5");
    let first = following.dumps(&sandbox, 1).remove(0);
    assert_eq!(
        first["budget_exceeded"], true,
        "unknown, so it was made: {first}"
    );
    target.ask("map 100 6");
    let second = following.dumps(&sandbox, 2).remove(1);
    assert_eq!(second["layer"], Value::Null);
    assert_eq!(second["code"], 11, "{second}");
    let said = second["error"].as_str().unwrap();
    assert!(
        said.contains("would freeze") && said.contains("budget"),
        "{said}"
    );
    let again = following.dumps(&sandbox, 3).remove(2);
    assert!(
        again["again_in_s"].as_u64() > second["again_in_s"].as_u64(),
        "{again}"
    );
    target.runs();
    // The tree ends, and so does following it.
    sandbox.kill(&target);
    assert_eq!(following.code(&sandbox), 11);
    assert!(following.text(&sandbox).contains("has ended"));
}

#[test]
fn a_watch_says_what_a_dump_made_now_would_be() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["800"]);
    let store = sandbox.path("store").display().to_string();
    let watch = |what: &str| -> Value {
        let run = sandbox.icecore(&format!("watch {what} --store {store} -n 1 --json"));
        serde_json::from_str(&run.ok().stdout).unwrap()
    };
    let pid = target.pid.to_string();
    let before = watch(&pid);
    assert_eq!(before["predictions"][0]["mode"], "full", "{before}");
    sandbox
        .icecore(&format!("snap {pid} web --store {store}"))
        .ok();
    target.ask("map 50 3");
    let after = watch("web");
    let predictions = after["predictions"].as_array().unwrap();
    let modes: Vec<&Value> = predictions.iter().map(|p| &p["mode"]).collect();
    assert_eq!(modes, ["tracked", "full"], "{after}");
    assert!(predictions[0]["pages"].as_u64() < predictions[1]["pages"].as_u64());
    assert!(predictions[0]["freeze"]["learned_from"] == 1, "{after}");
    // The new mapping came after the tracker was armed.
    assert!(after["not_tracked_pages"].as_u64() >= Some(50), "{after}");
    let said = sandbox.icecore(&format!("watch nosuch --store {store}"));
    assert!(said.fails(3).stderr.contains("no stack"));
    let said = sandbox.run(
        env!("CARGO_BIN_EXE_icecore"),
        &["watch", &pid, "--rule", "often"],
    );
    assert!(said.fails(2).stderr.contains("begins no clause"));
}
