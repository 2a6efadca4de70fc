//! Looking into layers of a real process: what a view shows is what was in its memory.

use std::collections::BTreeMap;
use std::fs;

use icecore::PAGE_SIZE;
use icecore::inspect::{Source, View};

use crate::support::{Digest, Need, Sandbox, Target, assert_same_memory, digest, require};

/// The kernel's pages, which a digest of a process leaves out.
const KERNELS: &[&str] = &["[vvar]", "[vsyscall]", "[vdso]"];

/// The same digest of a layer as of a process; `live` loses the pages that are not in layers.
fn of_layer(view: &View, live: &mut Digest) -> Digest {
    let mut all = BTreeMap::new();
    for task in view.tasks().iter().filter(|task| task.alive) {
        let pid = i32::try_from(task.pid).unwrap();
        let space = view.space(task.pid).unwrap();
        for mapping in space.mappings() {
            if KERNELS.contains(&mapping.name.as_str()) {
                continue;
            }
            for part in space.parts(mapping.range) {
                for addr in (part.range.start..part.range.end).step_by(4096) {
                    match part.source {
                        Source::Zero => continue,
                        Source::File => {
                            live.remove(&(pid, addr));
                            continue;
                        }
                        _ => assert_eq!(part.source.absence(), None, "{part:?}"),
                    }
                    let mut bytes = [0; PAGE_SIZE as usize];
                    space.read(&part, addr, &mut bytes).unwrap();
                    if bytes.iter().any(|byte| *byte != 0) {
                        let hash = blake3::hash(&bytes);
                        all.insert((pid, addr), *hash.as_bytes().first_chunk().unwrap());
                    }
                }
            }
        }
    }
    all
}

/// A layer of the stopped target, and its memory.
fn dump(sandbox: &Sandbox, target: &Target, layer: usize) -> Digest {
    let parent = match layer {
        1 => String::new(),
        _ => format!("--prev-images-dir ../{}", layer - 1),
    };
    let pid = target.pid;
    let words = format!("dump -t {pid} -D {layer} --leave-stopped --track-mem {parent}");
    sandbox.icecore(&words).ok();
    target.wait_stopped();
    let memory = digest(target);
    for pid in target.members() {
        sandbox.run("kill", &["-CONT", &pid.to_string()]).ok();
    }
    memory
}

#[test]
fn memory_as_of_every_layer_is_what_was_there() {
    if !require(&[Need::Root]) {
        return;
    }
    for (kind, args) in [("writer", &["600"][..]), ("shared", &[]), ("memory", &[])] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        let mut layers = Vec::new();
        for layer in 1..=3 {
            layers.push(dump(&sandbox, &target, layer));
            if kind == "writer" {
                target.ask(&format!("dirty 0 40 {layer}"));
                target.ask(&format!("shared 7 {layer}"));
                target.ask(&format!("file 8 {layer}"));
            }
        }
        for (layer, mut live) in (1..).zip(layers) {
            let view = View::open(sandbox.path(layer.to_string())).unwrap();
            let shown = of_layer(&view, &mut live);
            assert_same_memory(&format!("{kind} {layer}"), &live, &shown);
        }
    }
}

#[test]
fn cat_and_search_agree_about_the_memory_of_a_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["100"]);
    target.ask("heap 50 7");
    let pid = target.pid;
    sandbox
        .icecore(&format!("dump -t {pid} -D 1 --track-mem"))
        .ok();
    let listed = sandbox.icecore(&format!("cat 1 {pid}")).ok().stdout;
    assert!(
        listed.contains("[heap]") && listed.contains("[stack]"),
        "{listed}"
    );
    // The specimen knows its own directory: the path is among its arguments.
    let path = target.dir().display().to_string();
    let found = sandbox.icecore(&format!("search 1 {path}")).ok().stdout;
    let line = found.lines().find(|line| line.contains("[stack]")).unwrap();
    let addr = line.split_whitespace().nth(1).unwrap();
    let len = format!("{:x}", path.len());
    sandbox
        .icecore(&format!("cat 1 {pid} {addr}+{len} -o piece"))
        .ok();
    assert_eq!(fs::read_to_string(sandbox.path("piece")).unwrap(), path);
    // A page that only its file has is said to be absent.
    let said = sandbox
        .icecore(&format!("cat 1 {pid} specimen -o piece"))
        .ok();
    assert!(said.stderr.contains("in a mapped file"), "{said:?}");
    sandbox
        .icecore("search 1 --bytes 00112233445566778899aabbccddeeff")
        .fails(3);
    sandbox.icecore("search 1 --regex a*").fails(2);
    sandbox.icecore(&format!("cat 1 {pid} 10+10")).fails(3);
    sandbox.icecore("cat 1 1 10+10").fails(3);
    let json = sandbox
        .icecore(&format!("search 1 {path} --json -n 1"))
        .ok()
        .stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pid"], pid);
}

#[test]
fn a_diff_names_what_changed_and_nothing_else() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["100"]);
    let pid = target.pid;
    dump(&sandbox, &target, 1);
    target.ask("dirty 0 10 5");
    target.ask("shared 3 5");
    target.ask("map 30 9");
    target.ask("thread");
    dump(&sandbox, &target, 2);
    let said = sandbox.icecore("diff 1 2 --json").fails(10);
    let diff: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let task = &diff["tasks"][0];
    assert_eq!(task["pid"], pid);
    assert_eq!(task["threads_appeared"].as_array().unwrap().len(), 1);
    let pages = task["pages"].as_array().unwrap();
    let first = pages
        .iter()
        .find(|p| p["bytes"].as_u64() > Some(9 * 2000))
        .unwrap();
    let pages = |set: &serde_json::Value| -> u64 {
        let ends = |text: &str| {
            let (a, b) = text.split_once('-').unwrap();
            [a, b].map(|n| u64::from_str_radix(n, 16).unwrap())
        };
        let each = set
            .as_array()
            .unwrap()
            .iter()
            .map(|r| ends(r.as_str().unwrap()));
        each.map(|[a, b]| (b - a) / 4096).sum()
    };
    // Ten writes to random pages of a hundred.
    assert!((5..=10).contains(&pages(&first["changed"])), "{first:#}");
    assert_eq!(diff["segments"].as_array().unwrap().len(), 1, "{diff:#}");
    let shared = &diff["segments"][0]["pages"][0];
    assert!((1..=3).contains(&pages(&shared["changed"])), "{shared:#}");
    let text = sandbox.icecore("diff 1 2").fails(10).stdout;
    assert!(
        text.contains("threads new") && text.contains("+ mapping"),
        "{text}"
    );
    let start = first["changed"][0]
        .as_str()
        .unwrap()
        .split('-')
        .next()
        .unwrap();
    let hex = sandbox
        .icecore(&format!("diff 1 2 --hex {start}"))
        .fails(10)
        .stdout;
    assert!(hex.lines().any(|line| line.starts_with("+ ")), "{hex}");
    let same = sandbox.icecore("diff 2 2").ok();
    assert_eq!(same.stdout, "");
    sandbox.icecore("diff 1 2 --hex 10").fails(3);
}

#[test]
fn gdb_reads_registers_memory_and_backtraces_of_a_core_file() {
    if !require(&[Need::Root, Need::Gdb]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("threads", &[]);
    let pid = target.pid;
    sandbox
        .icecore(&format!("dump -t {pid} -D 1 -R --track-mem"))
        .ok();
    target.check();
    let threads = target.threads(pid);
    let words = format!("dump -t {pid} -D 2 -R --track-mem --prev-images-dir ../1");
    sandbox.icecore(&words).ok();
    sandbox.icecore(&format!("core 2 {pid} -o core")).ok();
    let shown = sandbox
        .icecore(&format!("show 2 core-{pid} --json"))
        .ok()
        .stdout;
    let image: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let info = &image["entries"][0]["thread_info"];
    let register = |name: &str| info["gpregs"][name].as_u64().unwrap();
    let (ip, sp, fs_base) = (register("ip"), register("sp"), register("fs_base"));
    let word = |n: usize| info["fpregs"]["xmm_space"][n].as_u64().unwrap();
    let asked = [
        "info threads",
        "bt",
        "printf \"ip=%#lx sp=%#lx fs=%#lx xmm=%#x\\n\", $rip, $rsp, $fs_base, $xmm1.v4_int32[2]",
        "printf \"word=%#lx\\n\", *(unsigned long *)$rsp",
    ];
    let mut args = vec!["-batch", "-nx"];
    asked.iter().for_each(|line| args.extend(["-ex", line]));
    args.extend([env!("CARGO_BIN_EXE_specimen"), "core"]);
    let said = sandbox.run("gdb", &args).ok().stdout;
    let expected = format!(
        "ip={ip:#x} sp={sp:#x} fs={fs_base:#x} xmm={:#x}",
        word(4 + 2)
    );
    let zero = |text: &str| text.replace("=0x0", "=0");
    assert!(zero(&said).contains(&zero(&expected)), "{expected}\n{said}");
    let found = said
        .lines()
        .filter(|line| line.contains("(LWP ") && !line.contains("Current"));
    assert_eq!(found.count(), threads.len(), "{said}");
    assert!(
        said.contains("desk.rs") && said.contains("main ()"),
        "no backtrace:\n{said}"
    );
    // The same word by our own means.
    sandbox
        .icecore(&format!("cat 2 {pid} {sp:x}+8 -o word"))
        .ok();
    let bytes: [u8; 8] = fs::read(sandbox.path("word")).unwrap().try_into().unwrap();
    let expected = format!("word={:#x}", u64::from_le_bytes(bytes));
    assert!(zero(&said).contains(&zero(&expected)), "{expected}\n{said}");
    // Without holes, through a pipe, it is the same file.
    let piped = format!(
        "{} core 2 {pid} | cat > piped",
        env!("CARGO_BIN_EXE_icecore")
    );
    sandbox.run("sh", &["-c", &piped]).ok();
    let same = fs::read(sandbox.path("core")).unwrap() == fs::read(sandbox.path("piped")).unwrap();
    assert!(same);
}
