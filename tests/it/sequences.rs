//! Random sequences of what people do with a stack of a live process: it writes, maps, unmaps, forks,
//! loses children; it is dumped, rolled back, its stack deduplicated, dropped, squashed, pruned. In
//! the end every layer that says it can be restored is, by us and by CRIU, bit for bit.
//!
//! `ICECORE_TEST_RESTORED` sets how many sequences. The stored side alone goes through many more of
//! them (`src/edit/tests.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use icecore::chain::{Catalog, State};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use crate::stack::STILL;
use crate::support::{Digest, Need, Sandbox, Target, assert_same_memory, digest, require};

#[derive(Clone, Copy, Debug)]
enum Step {
    Change(&'static str, u8),
    Fork(bool),
    EndChild,
    Dump,
    RollBack(Index),
    Dedup(Index, &'static str),
    Drop(Index),
    Squash(Index, Index),
    Flatten(Index, bool),
    Branch(Index),
    Prune(usize),
    Label(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    const KINDS: &[&str] = &["dirty", "shared", "heap", "map", "unmap", "drop", "move"];
    const STRATEGIES: &[&str] = &["unchanged", "zero", "superseded", "unneeded"];
    let change = (prop::sample::select(KINDS), 1u8..99);
    let step = prop_oneof![
        6 => change.prop_map(|(kind, n)| Step::Change(kind, n)),
        1 => any::<bool>().prop_map(Step::Fork),
        1 => Just(Step::EndChild),
        7 => Just(Step::Dump),
        2 => index().prop_map(Step::RollBack),
        2 => (index(), prop::sample::select(STRATEGIES)).prop_map(|(a, s)| Step::Dedup(a, s)),
        1 => index().prop_map(Step::Drop),
        1 => (index(), index()).prop_map(|(a, b)| Step::Squash(a, b)),
        1 => (index(), any::<bool>()).prop_map(|(a, b)| Step::Flatten(a, b)),
        1 => index().prop_map(Step::Branch),
        1 => (2usize..4).prop_map(Step::Prune),
        1 => index().prop_map(Step::Label),
    ];
    prop::collection::vec(step, 12..24)
}

/// A live process and its layers.
struct World {
    sandbox: Sandbox,
    target: Target,
    /// What was in memory, by layer.
    layers: BTreeMap<String, Digest>,
    /// The layer that the process stands on.
    at: Option<String>,
    made: usize,
    /// Mappings besides the first.
    maps: usize,
}

impl World {
    fn new() -> Self {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen_with(&[STILL], "writer", &["200"]);
        std::fs::create_dir(sandbox.path("img")).unwrap();
        Self {
            sandbox,
            target,
            layers: BTreeMap::new(),
            at: None,
            made: 0,
            maps: 0,
        }
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("{}", self.made)
    }

    fn pick(&self, index: Index) -> Option<String> {
        let count = self.layers.len();
        (count > 0).then(|| self.layers.keys().nth(index.index(count)).unwrap().clone())
    }

    /// Runs a command that may be refused (by name), and forgets what it was allowed to take.
    fn command(&mut self, words: &str, may_take: &BTreeSet<String>, may_consume: bool) {
        let run = self.sandbox.icecore(words);
        eprintln!("  {words}: {}", run.code);
        // 1: a layer without a parent has nothing that is superseded.
        let refusals: &[i32] = if may_consume { &[0, 1, 7] } else { &[0, 2, 7] };
        assert!(refusals.contains(&run.code), "{words}: {run:?}");
        let catalog = Catalog::scan(self.sandbox.path("img")).unwrap();
        let state: BTreeMap<String, State> = catalog
            .layers()
            .iter()
            .map(|layer| (layer.name.clone(), layer.state))
            .collect();
        let before: Vec<String> = self.layers.keys().cloned().collect();
        for name in before {
            match state.get(&name) {
                Some(State::Complete) => {}
                Some(State::Consumed) if may_consume => drop(self.layers.remove(&name)),
                None if may_take.contains(&name) => drop(self.layers.remove(&name)),
                other => panic!("{words}: layer {name} is {other:?}"),
            }
        }
    }

    fn take(&mut self, step: Step) {
        let nobody = BTreeSet::new();
        match step {
            Step::Change(kind, n) => self.change(kind, n),
            Step::Fork(writes) => {
                if self.target.members().len() < 3 {
                    let word = if writes { "fork-write" } else { "fork" };
                    self.target.ask(word);
                }
            }
            Step::EndChild => {
                if let [_, child, ..] = self.target.members()[..] {
                    self.sandbox
                        .run("kill", &["-KILL", &child.to_string()])
                        .ok();
                    self.target.ask("reap");
                }
            }
            Step::Dump => {
                let name = self.fresh();
                let memory = digest(&self.target);
                let parent = self.at.take().filter(|at| self.layers.contains_key(at));
                let parent =
                    parent.map_or_else(String::new, |at| format!("--prev-images-dir ../{at}"));
                let pid = self.target.pid;
                let words = format!("dump -t {pid} -D img/{name} -R --track-mem {parent}");
                eprintln!("  {words}");
                self.sandbox.icecore(&words).ok();
                self.layers.insert(name.clone(), memory);
                self.at = Some(name);
            }
            Step::RollBack(index) => {
                if let Some(name) = self.pick(index) {
                    eprintln!("  roll back to {name}");
                    self.sandbox.kill(&self.target);
                    self.restored(&name, &format!("restore -D img/{name} -d"), false);
                    // What was mapped then is not known here.
                    self.maps = 0;
                    self.at = Some(name);
                }
            }
            Step::Dedup(index, strategy) => {
                if let Some(name) = self.pick(index) {
                    let words = format!("dedup -D img/{name} --strategy {strategy} --yes");
                    let consumes = matches!(strategy, "superseded" | "unneeded");
                    self.command(&words, &nobody, consumes);
                }
            }
            Step::Drop(index) => {
                if let Some(name) = self.pick(index) {
                    self.command(&format!("drop img/{name} --yes"), &[name].into(), false);
                }
            }
            Step::Squash(a, b) => {
                if let (Some(a), Some(b)) = (self.pick(a), self.pick(b)) {
                    let others = self.layers.keys().filter(|name| **name != b);
                    let others = others.cloned().collect();
                    self.command(&format!("squash img/{a} img/{b} --yes"), &others, false);
                }
            }
            Step::Flatten(index, in_place) => {
                if let Some(name) = self.pick(index) {
                    let into = self.fresh();
                    if in_place {
                        self.command(&format!("flatten img/{name} --yes"), &nobody, false);
                    } else {
                        let words = format!("flatten img/{name} --into img/{into}");
                        self.sandbox.icecore(&words).ok();
                        self.layers.insert(into, self.layers[&name].clone());
                    }
                }
            }
            Step::Branch(index) => {
                if let Some(name) = self.pick(index) {
                    let into = self.fresh();
                    let words = format!("branch img/{name} img/{into}");
                    self.sandbox.icecore(&words).ok();
                    self.layers.insert(into, self.layers[&name].clone());
                }
            }
            Step::Prune(last) => {
                if !self.layers.is_empty() {
                    let all = self.layers.keys().cloned().collect();
                    let words = format!("prune img --keep-last {last} --yes");
                    self.command(&words, &all, false);
                }
            }
            Step::Label(index) => {
                if let Some(name) = self.pick(index) {
                    self.sandbox.icecore(&format!("label img/{name} x")).ok();
                }
            }
        }
    }

    fn change(&mut self, kind: &str, n: u8) {
        let n = usize::from(n);
        let words = match kind {
            "dirty" => format!("dirty 0 {n} {n}"),
            "shared" => format!("shared {n} {n}"),
            "heap" => format!("heap {} {n}", n * 10),
            "drop" => format!("drop 0 {n} {n}"),
            "map" => {
                let number = self.target.ask(&format!("map {n} {n}"));
                self.maps = number.parse().unwrap();
                return;
            }
            _ if self.maps == 0 => return,
            "move" => format!("move {} {}", self.maps, n + 20),
            _ => {
                let words = format!("unmap {}", self.maps);
                self.maps = 0;
                words
            }
        };
        self.target.ask(&words);
        self.target.check();
    }

    fn restored(&self, name: &str, words: &str, by_criu: bool) {
        let run = if by_criu {
            self.sandbox.criu(words)
        } else {
            self.sandbox.icecore(words)
        };
        run.ok();
        let what = format!("layer {name}, {words}");
        assert_same_memory(&what, &self.layers[name], &digest(&self.target));
        self.target.check();
    }

    /// Restores every layer by us and, where there is one, by CRIU.
    fn check(&self, criu: bool) {
        let root: PathBuf = self.sandbox.path("img");
        let catalog = Catalog::scan(root).unwrap();
        // A life may end without a layer: then there is nothing to verify.
        if !catalog.layers().is_empty() {
            self.sandbox.icecore("verify img").ok();
        }
        let whole = catalog
            .layers()
            .iter()
            .filter(|l| l.is_restorable())
            .count();
        assert_eq!(whole, self.layers.len());
        self.sandbox.kill(&self.target);
        for name in self.layers.keys() {
            self.restored(name, &format!("restore -D img/{name} -d"), false);
            self.sandbox.kill(&self.target);
            if criu {
                self.restored(name, &format!("restore -D img/{name} -d -v0"), true);
                self.sandbox.kill(&self.target);
            }
        }
    }
}

#[test]
fn every_layer_of_a_random_life_is_restored_bit_for_bit_by_us_and_by_criu() {
    if !require(&[Need::Root]) {
        return;
    }
    let criu = require(&[Need::Criu]);
    let wanted = std::env::var("ICECORE_TEST_RESTORED");
    let cases = wanted.ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 0, // each takes seconds
        failure_persistence: None,
        ..Config::default()
    });
    let all = runner.run(&steps(), |steps| {
        eprintln!("{steps:?}");
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        let layers = world.layers.len();
        world.check(criu);
        eprintln!("{layers} layers were restored");
        Ok(())
    });
    all.unwrap();
}
