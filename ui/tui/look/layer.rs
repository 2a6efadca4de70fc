//! A layer in tabs. Another one is a row of [`TABS`]; each is read when it is looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use icecore::image::proto::{CoreEntry, DumpStatsEntry, MmEntry, StatsEntry};
use icecore::image::{Sidecar, text};
use icecore::inspect::{self, Backing, Task, View};
use icecore::{PAGE_SIZE, PageRange, Result};
use serde_json::{Value, json};

use super::super::reader::{Look, Reader, Tab};
use super::super::text::{age, fit, size};
use crate::format::{self, plain};

/// Lines of an image that are shown.
const DECODED: usize = 500;
/// Bytes of an image that is not made text for the screen.
const LARGE: u64 = 1 << 20;
/// Bytes of an environment that are shown.
const ENVIRONMENT: u64 = 1 << 20;

/// One tab of a layer.
struct Topic {
    name: &'static str,
    head: &'static str,
    rows: fn(&View) -> Result<Vec<Row>>,
}

/// A line, and the same as a row of a file; null where it only explains.
type Row = (String, Value);

fn words(text: impl Into<String>) -> Row {
    (text.into(), Value::Null)
}

/// All tabs, in their order.
static TABS: &[Topic] = &[
    Topic {
        name: "figures",
        head: "",
        rows: figures,
    },
    Topic {
        name: "processes",
        head: "    PID    PPID    PGID     SID  THREADS  NAME",
        rows: processes,
    },
    Topic {
        name: "mappings",
        head: "  ADDRESSES                  PROT   SIZE    HERE   BELOW  NAME   (pages stored here, in layers below)",
        rows: mappings,
    },
    Topic {
        name: "files",
        head: "  OPEN  MAPPED  PATH   (descriptors and mappings of it)",
        rows: files,
    },
    Topic {
        name: "threads",
        head: "    TID  NAME             INSTRUCTION         STACK               BLOCKED SIGNALS",
        rows: threads,
    },
    Topic {
        name: "descriptors",
        head: "     FD  WHAT",
        rows: descriptors,
    },
    Topic {
        name: "environment",
        head: "",
        rows: environment,
    },
    Topic {
        name: "images",
        head: "",
        rows: images,
    },
    Topic {
        name: "statistics",
        head: "",
        rows: statistics,
    },
    Topic {
        name: "digests",
        head: " FILE                           BYTES  BLAKE3",
        rows: digests,
    },
];

/// The layer in `dir`, with what is on one of its tabs.
pub(super) fn layer(dir: &Path, wanted: usize) -> Result<Reader> {
    let view = View::open(dir)?;
    let mut tabs = Vec::new();
    for (n, topic) in TABS.iter().enumerate() {
        let read = n == wanted;
        let rows = if read {
            (topic.rows)(&view)?
        } else {
            Vec::new()
        };
        let (lines, mut cells): (Vec<String>, Vec<Value>) = rows.into_iter().unzip();
        cells.retain(|cells| !cells.is_null());
        tabs.push(Tab {
            name: topic.name.into(),
            head: topic.head.into(),
            lines,
            cells,
            marked: 0..0,
            read,
        });
    }
    let mut reader = super::reader(format!("Layer {}", super::name(dir)), tabs);
    reader.at = wanted;
    reader.layer = Some(dir.to_path_buf());
    let look = |dir| Look::Layer { dir, tab: wanted };
    reader.through = super::through(view.stack(), look);
    Ok(reader)
}

/// What each process that has memory has of something, under its name.
fn of_each(view: &View, mut what: impl FnMut(&Task) -> Result<Vec<Row>>) -> Result<Vec<Row>> {
    let mut lines = Vec::new();
    for task in view.tasks().iter().filter(|task| task.alive) {
        lines.push(words(format!(
            " process {} {}",
            task.pid,
            plain(&task.comm)
        )));
        lines.extend(what(task)?);
    }
    Ok(lines)
}

fn processes(view: &View) -> Result<Vec<Row>> {
    let line = |task: &Task| {
        let (pid, ppid, pgid, sid) = (task.pid, task.ppid, task.pgid, task.sid);
        let threads = task.threads.len();
        let state = if task.alive { "" } else { "  (zombie)" };
        let comm = plain(&task.comm);
        let cells = json!({
            "pid": pid, "ppid": ppid, "pgid": pgid, "sid": sid,
            "threads": threads, "name": comm, "alive": task.alive,
        });
        let text = format!("{pid:>7} {ppid:>7} {pgid:>7} {sid:>7} {threads:>8}  {comm}{state}");
        (text, cells)
    };
    Ok(view.tasks().iter().map(line).collect())
}

fn mappings(view: &View) -> Result<Vec<Row>> {
    of_each(view, |task| {
        let space = view.space(task.pid)?;
        let line = |m: &inspect::Mapping| {
            let (mut here, mut below) = (0, 0);
            for run in space.memory().ownership().within(m.range) {
                let pages = run.range.pages();
                *(if run.layer == 0 {
                    &mut here
                } else {
                    &mut below
                }) += pages;
            }
            let (range, length) = (m.range.to_string(), size(m.range.bytes()));
            let (bits, name) = (m.permissions(), plain(&m.name));
            let cells = json!({
                "process": task.pid,
                "start": format!("{:x}", m.range.start),
                "end": format!("{:x}", m.range.end),
                "permissions": bits,
                "pages_stored_here": here,
                "pages_stored_below": below,
                "name": name,
            });
            let text = format!("  {range:<26} {bits} {length:>6} {here:>7} {below:>7}  {name}");
            (text, cells)
        };
        Ok(space.mappings().iter().map(line).collect())
    })
}

/// Files by path, with who has them open or mapped.
fn files(view: &View) -> Result<Vec<Row>> {
    let mut files: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for task in view.tasks().iter().filter(|task| task.alive) {
        for (_, what) in view.descriptors(task.pid)? {
            // As `View::descriptors` says it: the kind, the path, where it stands.
            if let Some(file) = what.strip_prefix("reg ") {
                let path = file.rsplit_once(" at ").map_or(file, |(path, _)| path);
                files.entry(path.to_owned()).or_default().0 += 1;
            }
        }
        for mapping in view.space(task.pid)?.mappings() {
            if mapping.backing == Backing::File && !mapping.name.is_empty() {
                files.entry(mapping.name.clone()).or_default().1 += 1;
            }
        }
    }
    let line = |(path, (open, mapped)): (&String, &(usize, usize))| {
        let path = plain(path);
        let cells = json!({ "descriptors": open, "mappings": mapped, "path": path });
        (format!("{open:>6} {mapped:>7}  {path}"), cells)
    };
    let mut lines: Vec<Row> = files.iter().map(line).collect();
    let noted = view.stack().tip().sidecar();
    let saved = noted.map_or(&[][..], |noted| &noted.saved);
    if !saved.is_empty() {
        lines.push(words(""));
        lines.push(words(" Files whose contents are in the layer:"));
        lines.extend(saved.iter().map(|file| {
            let (bytes, path) = (size(file.bytes), plain(&file.path));
            words(format!(
                "  {bytes:>6}  saved-file-{}.img  {path}",
                file.number
            ))
        }));
    }
    Ok(lines)
}

fn threads(view: &View) -> Result<Vec<Row>> {
    let images = view.stack().tip().images();
    of_each(view, |task| {
        let mut lines = Vec::new();
        for tid in &task.threads {
            let core: CoreEntry = images.one(&format!("core-{tid}.img"))?;
            let own = core.thread_core.as_ref();
            let name = own.and_then(|thread| thread.comm.as_deref());
            let name = plain(name.unwrap_or(&task.comm));
            let blocked = own.and_then(|thread| thread.blk_sigset).unwrap_or(0);
            let at = core.thread_info.as_ref().map(|info| &info.gpregs);
            let (ip, sp) = at.map_or((0, 0), |regs| (regs.ip, regs.sp));
            let blocked = signals(blocked);
            let cells = json!({
                "process": task.pid,
                "tid": tid,
                "name": name,
                "instruction": format!("{ip:x}"),
                "stack": format!("{sp:x}"),
                "blocked_signals": blocked,
            });
            let name = fit(&name, 16);
            let text = format!("{tid:>7}  {name} {ip:<#18x}  {sp:<#18x}  {blocked}");
            lines.push((text, cells));
        }
        Ok(lines)
    })
}

/// The names of the signals of a set.
fn signals(set: u64) -> String {
    if set == 0 {
        return "none".into();
    }
    let names = (1..=64).filter(|n| set >> (n - 1) & 1 == 1).map(|n| {
        let known = nix::sys::signal::Signal::try_from(n).ok();
        known.map_or_else(
            || n.to_string(),
            |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
        )
    });
    names.collect::<Vec<String>>().join(" ")
}

fn descriptors(view: &View) -> Result<Vec<Row>> {
    of_each(view, |task| {
        let all = view.descriptors(task.pid)?.into_iter();
        let line = |(number, what): (u32, String)| {
            let what = plain(&what);
            let cells = json!({ "process": task.pid, "descriptor": number, "what": what });
            (format!("  {number:>5}  {what}"), cells)
        };
        Ok(all.map(line).collect())
    })
}

/// What each process was given as its environment, from its memory as of the layer: a program may have
/// written over it.
fn environment(view: &View) -> Result<Vec<Row>> {
    let images = view.stack().tip().images();
    of_each(view, |task| {
        let mm: MmEntry = images.one(&format!("mm-{}.img", task.pid))?;
        let end = mm.mm_env_end.min(mm.mm_env_start + ENVIRONMENT);
        if mm.mm_env_start >= end {
            return Ok(vec![words("   it has none")]);
        }
        let mut bytes = Vec::new();
        let range = PageRange::new(mm.mm_env_start, end);
        let read = inspect::cat(&view.space(task.pid)?, range, &mut bytes)?;
        if let Some(part) = read.absent.first() {
            let why = part.source.absence().unwrap_or_default();
            return Ok(vec![words(format!("   it cannot be read: {why}"))]);
        }
        let variables = bytes.split(|byte| *byte == 0);
        let variables = variables.filter(|bytes| !bytes.is_empty());
        let variable = |bytes: &[u8]| {
            let word = plain(&String::from_utf8_lossy(bytes));
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let cells = json!({ "process": task.pid, "variable": name, "value": value });
            (format!("   {word}"), cells)
        };
        let mut lines: Vec<Row> = variables.map(variable).collect();
        if lines.is_empty() {
            lines.push(words("   it is empty"));
        }
        if end < mm.mm_env_end {
            lines.push(words("   … and more: icecore cat shows all of it"));
        }
        Ok(lines)
    })
}

/// The files of the layer, then all of them as text, without the pages.
fn images(view: &View) -> Result<Vec<Row>> {
    let images = view.stack().tip().images();
    let listed = text::list_text(images)?;
    let mut lines: Vec<String> = listed
        .lines()
        .map(|line| format!(" {}", plain(line)))
        .collect();
    for name in images.names()? {
        if name.starts_with("pages-") || name == "parent" {
            continue;
        }
        lines.push(String::new());
        let bytes = images
            .dir()
            .join(&name)
            .metadata()
            .map_or(0, |meta| meta.len());
        if bytes > LARGE {
            let (bytes, name) = (size(bytes), plain(&name));
            lines.push(format!(
                " {name}: {bytes}, too much for here: icecore show DIR {name}"
            ));
            continue;
        }
        // What has no records, or is damaged, says so in its place.
        let text = text::text(images, &name).unwrap_or_else(|e| e.one_line());
        let mut all = text.lines();
        let shown = all.by_ref().take(DECODED);
        lines.extend(shown.map(|line| format!(" {}", plain(line))));
        if all.next().is_some() {
            lines.push(format!(
                "     … all of it: icecore show DIR {}",
                plain(&name)
            ));
        }
    }
    Ok(lines.into_iter().map(words).collect())
}

fn statistics(view: &View) -> Result<Vec<Row>> {
    let tip = view.stack().tip();
    let mut lines = Vec::new();
    let mut say = |what: &str, text: String| {
        let line = format!(" {what:<34} {text:>14}").trim_end().to_owned();
        let figure = (!text.is_empty()).then(|| json!({ "what": what, "figure": text }));
        lines.push((line, figure.unwrap_or_default()));
    };
    let noted = tip.sidecar().cloned().unwrap_or_default();
    let time = |ns: u64| format::duration(Duration::from_nanos(ns));
    let figures = [
        ("frozen", noted.freeze_ns.map(time)),
        ("the whole dump", noted.total_ns.map(time)),
        ("pages stored", noted.pages_stored.map(|n| n.to_string())),
        (
            "pages left to the parent",
            noted.pages_in_parent.map(|n| n.to_string()),
        ),
        ("bytes of all files", noted.bytes.map(|n| n.to_string())),
        (
            "pages, as predicted",
            noted.prediction.as_ref().map(|p| p.pages.to_string()),
        ),
        (
            "frozen, as predicted",
            noted.prediction.and_then(|p| p.freeze_ns).map(time),
        ),
    ];
    for (what, figure) in figures {
        if let Some(figure) = figure {
            say(what, figure);
        }
    }
    let stats: Option<StatsEntry> = tip.images().optional("stats-dump")?;
    if let Some(dump) = stats.and_then(|stats| stats.dump) {
        let micros = |n: u32| format::duration(Duration::from_micros(n.into()));
        say("", String::new());
        say("stats-dump, CRIU's figures", String::new());
        for (what, time) in times(&dump) {
            say(what, micros(time));
        }
        let counts = [
            ("pages looked at", Some(dump.pages_scanned)),
            ("pages left to the parent", Some(dump.pages_skipped_parent)),
            ("pages written", Some(dump.pages_written)),
            ("pages left for later", Some(dump.pages_lazy)),
            ("shared pages looked at", dump.shpages_scanned),
            (
                "shared pages left to the parent",
                dump.shpages_skipped_parent,
            ),
            ("shared pages written", dump.shpages_written),
        ];
        for (what, count) in counts {
            if let Some(count) = count {
                say(what, count.to_string());
            }
        }
    }
    if lines.is_empty() {
        lines.push(words(" this layer has no statistics"));
    }
    Ok(lines)
}

/// The times of a dump, in microseconds. Layers that were made before the pages were timed have zeros there.
fn times(dump: &DumpStatsEntry) -> impl Iterator<Item = (&'static str, u32)> {
    let times = [
        ("freezing", dump.freezing_time),
        ("frozen", dump.frozen_time),
        ("memory found out", dump.memdump_time),
        ("memory written", dump.memwrite_time),
    ];
    times.into_iter().filter(|(_, time)| *time > 0)
}

fn digests(view: &View) -> Result<Vec<Row>> {
    let Some(noted) = view.stack().tip().sidecar() else {
        return Ok(vec![words(
            " this layer has none: icecore adopt makes them",
        )]);
    };
    let mut lines = Vec::new();
    for file in &noted.files {
        let (bytes, digest) = (file.bytes, Sidecar::hex(&file.blake3));
        let name = plain(&file.name);
        let text = format!(" {} {bytes:>11}  {digest}", fit(&name, 24));
        lines.push((text, of_block(&name, None, &digest)));
    }
    for pages in &noted.pages {
        let name = format!("pages-{}.img", pages.pages_id);
        let bytes = pages.bytes;
        let blocks = pages.blake3.as_chunks::<32>().0;
        let sum = |extents: &[_]| -> u64 { extents.iter().map(extent).sum() };
        let (freed, zeros) = (sum(&pages.freed), sum(&pages.zeros));
        let mut what = format!(
            " {name:<24} {bytes:>11}  {} digests, one for every {} pages",
            blocks.len(),
            pages.block_pages
        );
        for (bytes, why) in [(freed, "freed"), (zeros, "zeros")] {
            if bytes > 0 {
                // Writing to a String cannot fail.
                let _infallible = write!(what, "; {} {why}", size(bytes));
            }
        }
        lines.push(words(what));
        for (n, digest) in blocks.iter().enumerate().take(DECODED) {
            let digest = Sidecar::hex(digest);
            let text = format!("   block {n:>28}  {digest}");
            lines.push((text, of_block(&name, Some(n), &digest)));
        }
        if blocks.len() > DECODED {
            let more = blocks.len() - DECODED;
            lines.push(words(format!("               … and {more} more")));
        }
    }
    if lines.is_empty() {
        lines.push(words(" this layer has none: icecore adopt makes them"));
    }
    Ok(lines)
}

/// The digest of a file, or of a block of pages.
fn of_block(name: &str, block: Option<usize>, digest: &str) -> Value {
    json!({ "file": name, "block": block, "blake3": digest })
}

/// Its bytes.
fn extent(extent: &icecore::image::proto::icecore::Extent) -> u64 {
    extent.bytes
}

fn figures(view: &View) -> Result<Vec<Row>> {
    let stack = view.stack();
    let tip = stack.tip();
    let mut lines = Vec::new();
    let mut say = |what: &str, text: String| {
        if !text.is_empty() {
            let text = plain(&text);
            let cells = json!({ "what": what, "figure": text });
            lines.push((format!(" {what:<16} {text}"), cells));
        }
    };
    say("directory", tip.dir().display().to_string());
    let noted = tip.sidecar().cloned().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    say("label", text(&noted.label));
    if !noted.id.is_empty() {
        say("identity", Sidecar::hex(&noted.id));
    }
    if let Some(created) = noted.created {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(created);
        let ago = SystemTime::now().duration_since(at).unwrap_or_default();
        say(
            "made",
            format!(
                "{} ago on {}, Linux {}",
                age(ago.as_secs()),
                text(&noted.host),
                text(&noted.kernel)
            ),
        );
    } else {
        say(
            "made",
            "by CRIU, or by an unknown hand: it has no notes".into(),
        );
    }
    say("command", noted.cmdline.join(" "));
    let frozen = |ns: Option<u64>| ns.map(Duration::from_nanos).map(format::duration);
    if let (Some(freeze), Some(total)) = (frozen(noted.freeze_ns), frozen(noted.total_ns)) {
        say("frozen", format!("{freeze} of {total}"));
    }
    say(
        "unchanged pages",
        format!("{} {}", text(&noted.tracker), text(&noted.tracker_reason)),
    );
    if let Some(by) = &noted.consumed {
        say(
            "consumed",
            format!("its pages were freed by dedup of {}", by.by),
        );
    }
    if noted.pinned == Some(true) {
        say("pinned", "dedup may not free what it needs".into());
    }
    lines.push(words(""));
    lines.push(words(" A restore of this layer takes its pages from"));
    let mut shares = vec![0u64; stack.levels().len()];
    let mut missing = 0;
    for id in tip.images().pagemaps()? {
        let ownership = stack.ownership(id)?;
        for run in ownership.runs() {
            if let Some(share) = shares.get_mut(run.layer) {
                *share += run.range.pages();
            }
        }
        missing += ownership
            .missing()
            .iter()
            .map(|gap| gap.range.pages())
            .sum::<u64>();
    }
    let all = (shares.iter().sum::<u64>() + missing).max(1);
    for (level, pages) in stack.levels().iter().zip(shares) {
        let bar = "█".repeat(usize::try_from(pages * 30 / all).unwrap_or(0));
        let bytes = size(pages * PAGE_SIZE);
        let name = plain(&level.name());
        let text = format!(
            "   {} {pages:>9} pages {bytes:>6} {:>3}% {bar}",
            fit(&name, 16),
            pages * 100 / all
        );
        let what = format!("pages from layer {name}");
        lines.push((text, json!({ "what": what, "figure": pages.to_string() })));
    }
    if missing > 0 {
        lines.push(words(format!(
            "   {:<16} {missing:>9} pages: it cannot be restored",
            "NOWHERE"
        )));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_nobody_measured_is_not_shown() {
        let mut dump = DumpStatsEntry {
            freezing_time: 5,
            frozen_time: 60,
            memwrite_time: 7,
            ..DumpStatsEntry::default()
        };
        let names = |dump: &DumpStatsEntry| times(dump).map(|(what, _)| what).collect::<Vec<_>>();
        assert_eq!(names(&dump), ["freezing", "frozen", "memory written"]);
        dump.memdump_time = 1;
        assert_eq!(names(&dump).len(), 4);
    }
}
