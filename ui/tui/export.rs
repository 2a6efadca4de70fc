//! What is shown, as files for elsewhere: a table as CSV and JSON, the map and the chart of writes as SVG.
//! Pure; the files are written by a thread.

mod picture;

use std::time::{Duration, SystemTime};

use serde_json::{Map as Fields, Value, json};

use super::model::{Focus, Model};
use super::probe::Dumpable;
use crate::cli::schema::SCHEMA;

/// A file that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// Its name without what makes it another one than those that are there.
    pub(crate) stem: String,
    /// What follows that.
    pub(crate) extension: &'static str,
    /// Its contents.
    pub(crate) text: String,
}

/// The pane with the keyboard; nothing when it is empty.
pub(crate) fn export(model: &Model) -> Vec<Export> {
    match model.focus {
        Focus::Processes => table("processes", processes(model)),
        Focus::Stacks => table("layers", layers(model)),
        Focus::Jobs => [table("jobs", jobs(model)), table("log", log(model))].concat(),
        Focus::Map => picture("map", picture::map(model)),
        Focus::Watch => [
            picture("writes", picture::chart(model)),
            table("written", written(model)),
        ]
        .concat(),
        Focus::Dedup => table("ranges", ranges(model)),
    }
}

/// A table where there are rows of one, and the text as it is shown otherwise.
pub(crate) fn table_or_text(name: &str, rows: &[Value], text: String) -> Vec<Export> {
    match (rows, text.is_empty()) {
        ([], true) => Vec::new(),
        ([], false) => vec![file(name, "txt", text)],
        (rows, _) => table(name, rows.to_vec()),
    }
}

fn file(name: &str, extension: &'static str, text: String) -> Export {
    // What a tab is called may be more than one word.
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    Export {
        stem: format!("icecore-{name}"),
        extension,
        text,
    }
}

fn processes(model: &Model) -> Vec<Value> {
    let row = |row: &super::processes::ProcessRow| {
        let live = model.live.get(&row.pid.as_raw());
        let rate = live.and_then(super::live::Live::rate);
        let all = live.and_then(super::live::Live::all);
        let since = model.since_layer(row.pid, &row.comm);
        let dirty = live
            .and_then(|live| live.last.as_ref())
            .map(|count| count.dirty);
        // Known of those that were seen.
        let probe = model.probes.get(&row.pid.as_raw());
        let verdict = probe.and_then(|probe| probe.dump.as_ref());
        json!({
            "pid": row.pid.as_raw(),
            "name": row.comm,
            "command": row.text,
            "state": row.state.to_string(),
            "threads": row.threads,
            "resident_bytes": row.rss,
            "tracked": model.tracked.contains_key(&row.pid.as_raw()),
            "dirty_pages": dirty,
            "new_pages_per_second": rate,
            "all_pages_per_second": all.map(|set| set.pages),
            "all_pages_at_least": all.map(|set| set.at_least),
            "layers": model.layers_of(row.pid, &row.comm).len(),
            "last_layer_age_seconds": since.map(|since| since.as_secs()),
            "descriptors": probe.and_then(|probe| probe.descriptors),
            "dump": verdict.map(Dumpable::word),
            "why": verdict.and_then(Dumpable::why),
        })
    };
    model.processes.iter().map(row).collect()
}

fn layers(model: &Model) -> Vec<Value> {
    let shown = model
        .stacks
        .iter()
        .filter_map(super::stacks::StackRow::layer);
    let uses = |layer: &super::stacks::LayerRow| model.owned.get(&layer.dir).copied().flatten();
    let row = |layer: &super::stacks::LayerRow| {
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let ms = |freeze: Duration| freeze.as_secs_f64() * 1e3;
        json!({
            "name": layer.name,
            "directory": layer.dir.to_string_lossy(),
            "kind": layer.kind(),
            "parent": layer.parent.as_ref().map(|dir| dir.to_string_lossy()),
            "identity": layer.id,
            "label": layer.label,
            "state": layer.state.as_str(),
            "why": layer.reason,
            "incremental": layer.incremental,
            "squashed": layer.squashed,
            "pinned": layer.pinned,
            "live_process": model.standing_on(layer),
            "root_process": layer.root,
            "root_name": layer.comm,
            "pages_stored": layer.stored,
            "pages_in_parent": layer.in_parent,
            "disk_bytes": layer.bytes,
            "owned_bytes": uses(layer).map(|known| known.owned),
            "superseded_bytes": uses(layer).map(|known| known.superseded),
            "processes": layer.tasks,
            "freeze_ms": layer.freeze.map(Duration::from_nanos).map(ms),
            "predicted_pages": layer.figures.pages,
            "predicted_freeze_ms": layer.figures.freeze.map(ms),
            "created_unix": layer.created.and_then(since).map(|at| at.as_secs()),
        })
    };
    shown.map(row).collect()
}

fn ranges(model: &Model) -> Vec<Value> {
    let found = model.surplus.as_ref().and_then(|surplus| surplus.found());
    let Some(found) = found else {
        return Vec::new();
    };
    let row = |freed: &super::surplus::Freed| {
        json!({
            "strategy": found.plan.strategy,
            "layer": freed.layer,
            "process_or_segment": freed.whose,
            "mapping": freed.mapping,
            "start": format!("{:x}", freed.range.start),
            "end": format!("{:x}", freed.range.end),
            "pages": freed.range.pages(),
            "disk_bytes": freed.bytes,
        })
    };
    found.ranges.iter().map(row).collect()
}

/// The mappings that are written to, as the bars show them.
fn written(model: &Model) -> Vec<Value> {
    let live = model
        .target()
        .and_then(|(pid, _)| model.live.get(&pid.as_raw()));
    let Some(count) = live.and_then(|live| live.last.as_ref()) else {
        return Vec::new();
    };
    let row = |part: &super::message::Part| {
        json!({
            "process_and_mapping": part.name,
            "dirty_pages": part.dirty,
            "resident_pages": part.resident,
            "tracked": part.tracked,
        })
    };
    count.top.iter().map(row).collect()
}

/// The jobs that are over, the latest first.
fn jobs(model: &Model) -> Vec<Value> {
    let row = |job: &super::board::Ended| {
        json!({
            "job": job.id,
            "what": job.title,
            "end": format!("{:?}", job.end).to_lowercase(),
            "took_ms": u64::try_from(job.took.as_millis()).unwrap_or(u64::MAX),
            "result": job.text,
            "earlier_run_at": job.earlier,
        })
    };
    model.board.ended.iter().map(row).collect()
}

fn log(model: &Model) -> Vec<Value> {
    let row = |(second, mark, text): &(u64, super::popup::Mark, String)| json!({ "second_of_day": second, "kind": format!("{mark:?}").to_lowercase(), "text": text });
    model.log.iter().map(row).collect()
}

/// A table, as CSV with a head and as JSON with its version.
fn table(name: &str, rows: Vec<Value>) -> Vec<Export> {
    let Some(Value::Object(first)) = rows.first() else {
        return Vec::new();
    };
    let columns: Vec<String> = first.keys().cloned().collect();
    let mut csv = csv::Writer::from_writer(Vec::new());
    // Into memory: nothing can fail.
    let _written = csv.write_record(&columns);
    for row in rows.iter().filter_map(Value::as_object) {
        let cells: Vec<String> = columns.iter().map(|column| cell(row, column)).collect();
        let _written = csv.write_record(&cells);
    }
    let text = csv.into_inner().unwrap_or_default();
    let mut all = Fields::new();
    all.insert("schema".into(), SCHEMA.into());
    all.insert(name.into(), rows.into());
    vec![
        file(name, "csv", String::from_utf8_lossy(&text).into_owned()),
        file(name, "json", format!("{:#}\n", Value::Object(all))),
    ]
}

fn cell(row: &Fields<String, Value>, column: &str) -> String {
    match row.get(column) {
        None | Some(Value::Null) => String::new(),
        // A spreadsheet takes a text that begins so for a formula.
        Some(Value::String(text)) if text.starts_with(['=', '+', '-', '@']) => format!("'{text}"),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn picture(name: &str, text: Option<String>) -> Vec<Export> {
    text.map(|text| file(name, "svg", text))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_a_csv_with_a_head_and_json_with_its_version() {
        let rows = vec![
            json!({ "name": "a,\"b\"", "pages": 7, "label": null }),
            json!({ "name": "=1+1", "pages": 8, "label": "x" }),
        ];
        let files = table("layers", rows);
        assert_eq!(
            files[0].text,
            "name,pages,label\n\"a,\"\"b\"\"\",7,\n'=1+1,8,x\n"
        );
        assert!(files[1].text.contains("\"schema\": \"icecore/v1\""));
        assert_eq!(
            (files[1].stem.as_str(), files[1].extension),
            ("icecore-layers", "json")
        );
        assert!(table("layers", Vec::new()).is_empty());
    }

    #[test]
    fn what_is_no_table_is_a_text() {
        let files = table_or_text("process 7", &[], "line\n".into());
        assert_eq!(files[0].stem, "icecore-process-7");
        assert_eq!((files[0].extension, &*files[0].text), ("txt", "line\n"));
        assert_eq!(
            table_or_text("x", &[json!({ "a": 1 })], "line\n".into()).len(),
            2
        );
        assert!(table_or_text("x", &[], String::new()).is_empty());
    }
}
