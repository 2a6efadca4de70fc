//! Terminals: what the target made itself, and programs that live in one.

use std::fs::{self, File};
use std::io::Write as _;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use portable_pty::CommandBuilder;

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, Target, Term, require, wait_until};

#[test]
fn pseudo_terminals_come_back_with_sessions_settings_and_unread_bytes() {
    every_layer_comes_back("terminals", &[], "", &["leader", "foreground"]);
}

#[test]
fn unread_bytes_of_a_terminal_are_read_after_the_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("terminals", &[]);
    target.ask("write 3");
    target.ask_at("foreground", "expect 3");
    // Twice: what was put back after a look is what the second look finds.
    for layer in 1..=2 {
        let words = format!("dump -t {} -D {layer} -R", target.pid);
        sandbox.icecore(&words).ok();
    }
    target.check();
    target.ask_at("foreground", "check");
    sandbox.kill(&target);
    sandbox.icecore("restore -D 2 -d").ok();
    target.ask_at("foreground", "drain");
}

/// A program in the sandbox that is told what to do through its standard input, a FIFO.
fn start_with_input(sandbox: &mut Sandbox, command: &str) -> (i32, File) {
    let keys = sandbox.path("keys");
    mkfifo(&keys, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let dir = sandbox.path("");
    let command = format!("cd {} && exec {command} <> keys", dir.display());
    let pid = sandbox.start("log", &["env", "TERM=xterm", "sh", "-c", &command]);
    let keys = File::options().read(true).write(true).open(keys).unwrap();
    (pid, keys)
}

/// Dumps three layers of `pid`, with `step(N)` before each; then restores each and runs `ask(N)`.
fn three_layers(sandbox: &Sandbox, pid: i32, mut step: impl FnMut(u32), mut ask: impl FnMut(u32)) {
    let target = Target::silent(pid, sandbox.proc(""));
    let mut members = Vec::new();
    for layer in 1..=3u32 {
        step(layer);
        members = target.members();
        let parent = match layer {
            1 => "-R --track-mem".to_owned(),
            2 => "-R --track-mem --prev-images-dir ../1".to_owned(),
            _ => "--track-mem --prev-images-dir ../2".to_owned(),
        };
        let words = format!("dump -t {pid} -D {layer} {parent} --ghost-limit 8M");
        sandbox.icecore(&words).ok();
    }
    sandbox.wait_gone(&members);
    for layer in [2, 1, 3] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        ask(layer);
        sandbox.kill(&target);
        sandbox.wait_gone(&members);
    }
}

#[test]
fn vim_in_a_terminal_goes_on_from_any_of_three_layers() {
    if !require(&[Need::Root, Need::Program("vim"), Need::Program("script")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let vim = "script -qfc 'vim -u NONE -i NONE -n text' typescript";
    let (pid, mut keys) = start_with_input(&mut sandbox, vim);
    let saved = |name: &str, keys: &mut File| {
        keys.write_all(format!(":w! {name}\r").as_bytes()).unwrap();
        let path = sandbox.path(name);
        wait_until(name, || {
            fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))
        })
    };
    let mut other = keys.try_clone().unwrap();
    let step = |layer: u32| {
        keys.write_all(format!("oline {layer}\x1b").as_bytes())
            .unwrap();
        let text = saved(&format!("before-{layer}"), &mut keys);
        assert!(text.ends_with(&format!("line {layer}\n")), "{text}");
    };
    let ask = |layer: u32| {
        let text = saved(&format!("after-{layer}"), &mut other);
        assert!(text.ends_with(&format!("line {layer}\n")), "{text}");
        other.write_all(b"oone more\x1b").unwrap();
        let text = saved(&format!("more-{layer}"), &mut other);
        assert!(
            text.ends_with(&format!("line {layer}\none more\n")),
            "{text}"
        );
    };
    three_layers(&sandbox, pid, step, ask);
}

/// Sums what its coprocess is told, and logs ticks in a pipeline in the background: the log is open all the
/// time, since a file that is only there for a moment cannot be opened again.
const SHELL: &str = r#"
coproc sum { while read -r n; do s=$((s + n)); echo "$s"; done; }
{ while :; do echo tick; read -rt 0.01 < idle; done | while read -r tick; do
    echo "$tick"; done >> ticks; } &
while read -r word; do
    echo "$word" >&"${sum[1]}"
    read -r total <&"${sum[0]}"
    echo "$total" | cat | tr -d ' ' > "said-$word.partial"
    mv "said-$word.partial" "said-$word"
done
"#;

#[test]
fn bash_with_a_coprocess_and_a_pipeline_goes_on_from_any_of_three_layers() {
    if !require(&[Need::Root, Need::Program("bash")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path("shell"), SHELL).unwrap();
    mkfifo(&sandbox.path("idle"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let _idle = File::options()
        .read(true)
        .write(true)
        .open(sandbox.path("idle"))
        .unwrap();
    let (pid, mut keys) = start_with_input(&mut sandbox, "bash --norc shell");
    let said = |word: u32, keys: &mut File| {
        keys.write_all(format!("{word}\n").as_bytes()).unwrap();
        let path = sandbox.path(format!("said-{word}"));
        let text = wait_until("the shell answers", || fs::read_to_string(&path).ok());
        text.trim().parse::<u32>().unwrap()
    };
    let mut other = keys.try_clone().unwrap();
    let step = |layer: u32| {
        assert_eq!(said(layer, &mut keys), (1..=layer).sum::<u32>());
    };
    let ask = |layer: u32| {
        let told: u32 = (1..=layer).sum();
        assert_eq!(said(100 + layer, &mut other), told + 100 + layer);
        let ticks = || fs::metadata(sandbox.path("ticks")).unwrap().len();
        let before = ticks();
        wait_until("the pipeline goes on", || (ticks() != before).then_some(()));
    };
    three_layers(&sandbox, pid, step, ask);
}

#[test]
fn a_shell_job_goes_on_in_the_terminal_of_who_restores_it() {
    if !require(&[Need::Root, Need::Program("bash"), Need::Program("script")]) {
        return;
    }
    let sandbox = Sandbox::new();
    let inside = sandbox.inside();
    let mut command = CommandBuilder::new(&inside[0]);
    command.args(&inside[1..]);
    // Another terminal inside, as the one outside is unknown there.
    command.args(["script", "-qfc"]);
    command.args(["PS1='outer> ' bash --norc --noprofile -i", "typescript"]);
    let mut term = Term::start(command, 100, 24);
    term.wait_text("outer> ");
    term.press("PS1='inner> ' bash --norc --noprofile -i\r");
    term.wait_text("inner> ");
    term.press("value=1; echo pid-$$-\r");
    term.wait("its pid", |screen| pid_on(&screen.contents()).is_some());
    let pid = pid_on(&term.text()).unwrap();
    // Without the option it is refused.
    let refused = sandbox.icecore(&format!("dump -t {pid} -D 0")).fails(5);
    assert!(refused.stderr.contains("--shell-job"), "{}", refused.stderr);
    for layer in 1..=3 {
        term.press(&format!("value={layer}; echo set-$value-\r"));
        term.wait_text(&format!("set-{layer}-"));
        let parent = match layer {
            1 => "-R --track-mem".to_owned(),
            2 => "-R --track-mem --prev-images-dir ../1".to_owned(),
            _ => "--track-mem --prev-images-dir ../2".to_owned(),
        };
        let words = format!("dump -t {pid} -D {layer} --shell-job {parent}");
        sandbox.icecore(&words).ok();
    }
    term.wait_text("Killed");
    let icecore = env!("CARGO_BIN_EXE_icecore");
    for (layer, turn) in [(2, 1), (1, 2), (3, 3)] {
        term.press(&format!("{icecore} restore -D {layer} --shell-job\r"));
        term.wait_text("runs again");
        term.press(&format!("echo turn-{turn}-is-$value-; clear\r"));
        term.press(&format!("echo turn-{turn}-is-$value-\r"));
        term.wait_text(&format!("turn-{turn}-is-{layer}-"));
        // When it stops, so does the restore; the shell of the terminal goes on, then they do.
        term.press("suspend\r");
        term.wait_text("Stopped");
        term.press("fg\r");
        term.press(&format!("echo again-{turn}-$value-\r"));
        term.wait_text(&format!("again-{turn}-{layer}-"));
        // It has job control: a job of its own is interrupted by what is typed.
        term.press("sleep 1000\r");
        let shell = Target::silent(pid, sandbox.proc(""));
        wait_until("a job of the shell has the terminal", || {
            let job = *shell.members().get(1)?;
            let comm = fs::read_to_string(shell.proc(job, "comm")).ok()?;
            let stat = fs::read_to_string(shell.proc(job, "stat")).ok()?;
            let foreground: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
            (comm == "sleep\n" && foreground.get(5) == Some(&job.to_string().as_str()))
                .then_some(())
        });
        term.press("\x03");
        term.press("echo after-$?-; exit 7\r");
        term.wait_text("after-130-");
        term.press("clear; echo ended-$?-\r");
        term.wait_text("ended-");
        term.press("clear\r");
        sandbox.wait_gone(&[pid]);
    }
}

/// The pid that the shell has told.
fn pid_on(screen: &str) -> Option<i32> {
    let digits = |rest: &str| rest.split_once('-').and_then(|(pid, _)| pid.parse().ok());
    screen.split("pid-").find_map(digits)
}
