//! icecore is killed at whatever instant: the target goes on as if nothing had been, no half layer is
//! taken for a whole one, no half process stays behind, and the same command works the next time.

use crate::support::{Need, Sandbox, Target, require};

/// How long icecore lives, in milliseconds: the phases of a dump of a small process, several times.
const LIVES: std::ops::Range<u32> = 1..40;

/// Runs icecore and kills it after `life` milliseconds; true when it was still running then.
fn killed(sandbox: &Sandbox, life: u32, words: &str) -> bool {
    let seconds = format!("0.{life:03}");
    let mut args = vec!["-s", "KILL", &seconds, env!("CARGO_BIN_EXE_icecore")];
    args.extend(words.split_whitespace());
    let run = sandbox.run("timeout", &args);
    assert!(matches!(run.code, 0 | 137), "{run:?}");
    run.code == 137
}

fn sandbox(kind: &str) -> Option<(Sandbox, Target)> {
    require(&[Need::Root]).then(|| {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, &[]);
        (sandbox, target)
    })
}

#[test]
fn a_target_survives_the_death_of_its_dumper_at_any_instant() {
    let Some((sandbox, target)) = sandbox("threads") else {
        return;
    };
    let mut killed_early = 0;
    for life in LIVES {
        let words = format!("dump -t {} -D {life} -R --track-mem", target.pid);
        let early = killed(&sandbox, life, &words);
        killed_early += u32::from(early);
        target.wait_running();
        target.check();
        if early {
            // Whatever is there now is complete, or in nobody's way.
            if !sandbox.path(life.to_string()).exists() {
                sandbox.icecore(&words).ok();
            }
            sandbox.icecore(&format!("show {life}")).ok();
        }
    }
    assert!(killed_early > 3, "icecore is too quick for this test");
    sandbox.kill(&target);
    sandbox.icecore("restore -D 39 -d").ok();
    target.check();
}

#[test]
fn an_incremental_stack_survives_the_death_of_a_dumper() {
    let Some((sandbox, target)) = sandbox("writer") else {
        return;
    };
    sandbox
        .icecore(&format!("dump -t {} -D 0 -R --track-mem", target.pid))
        .ok();
    let mut parent = 0;
    for life in LIVES.step_by(3) {
        target.ask(&format!("dirty 0 30 {life}"));
        let words = format!(
            "dump -t {} -D {life} -R --track-mem --prev-images-dir ../{parent}",
            target.pid
        );
        killed(&sandbox, life, &words);
        target.wait_running();
        // The dead one may have armed the tracker for a layer that never came to be.
        if !sandbox.path(life.to_string()).exists() {
            sandbox.icecore(&words).ok();
        }
        parent = life;
    }
    sandbox.kill(&target);
    sandbox.icecore(&format!("restore -D {parent} -d")).ok();
    target.check();
}

#[test]
fn a_restore_that_dies_leaves_no_process() {
    let Some((sandbox, target)) = sandbox("tree") else {
        return;
    };
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    for life in LIVES {
        killed(&sandbox, life, "restore -D 1 -d");
        // Killed before the last step, nothing is there; after it, everything.
        if target.check_unless_gone() {
            assert_eq!(target.members().len(), pids.len());
            sandbox.kill(&target);
        } else {
            sandbox.wait_gone(&pids);
        }
    }
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}
