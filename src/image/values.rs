//! Decoded records as text: short ones on one line, long ones as indented lines; addresses and
//! masks in hexadecimal, the flag words of memory in words.

use serde_json::{Map, Value};

/// Widest line that holds a whole record.
const WIDTH: usize = 110;

/// Names of the bits of `vma_entry.status`.
const STATUS: &[(u64, &str)] = &[
    (1 << 0, "regular"),
    (1 << 1, "stack"),
    (1 << 2, "vsyscall"),
    (1 << 3, "vdso"),
    (1 << 5, "heap"),
    (1 << 6, "file-private"),
    (1 << 7, "file-shared"),
    (1 << 8, "anon-shared"),
    (1 << 9, "anon-private"),
    (1 << 10, "sysv-ipc"),
    (1 << 11, "socket"),
    (1 << 12, "vvar"),
    (1 << 13, "aio-ring"),
    (1 << 14, "memfd"),
    (1 << 15, "shadow-stack"),
    (1 << 16, "guard"),
    (1 << 17, "uprobes"),
];

/// Names of the bits of `pagemap_entry.flags`.
const PLACES: &[(u64, &str)] = &[(1, "parent"), (2, "lazy"), (4, "present")];

/// Appends a record and ends its line; further lines are indented by `indent`.
pub(super) fn entry(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if has_lists(value) || one_line(value).len() + indent > WIDTH => {
            lines(out, fields, indent);
        }
        _ => {
            out.push_str(&one_line(value));
            out.push('\n');
        }
    }
}

/// Fields, as many on a line as fit; the first line stands where the caller is.
fn lines(out: &mut String, fields: &Map<String, Value>, indent: usize) {
    let mut blocks: Vec<String> = Vec::new();
    let mut line = String::new();
    for (key, value) in fields {
        let short = !has_lists(value) && (!value.is_object() || one_line(value).len() < WIDTH / 2);
        if short {
            let pair = pair(fields, key, value);
            if !line.is_empty() && line.len() + 2 + pair.len() + indent > WIDTH {
                blocks.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(&pair);
            continue;
        }
        if !line.is_empty() {
            blocks.push(std::mem::take(&mut line));
        }
        blocks.push(block(key, value, indent));
    }
    blocks.push(line);
    blocks.retain(|block| !block.is_empty());
    let separator = format!("\n{:indent$}", "");
    out.push_str(&blocks.join(&separator));
    out.push('\n');
}

/// A field that takes lines of its own, without the end of the last.
fn block(key: &str, value: &Value, indent: usize) -> String {
    let mut out = format!("{key}:");
    match value {
        Value::Array(items) => {
            for same in items.chunk_by(|a, b| a == b) {
                let times = match same.len() {
                    1 => String::new(),
                    n => format!("{n} times "),
                };
                out.push_str(&format!("\n{:indent$}  - {times}", ""));
                same.iter()
                    .take(1)
                    .for_each(|item| entry(&mut out, item, indent + 4));
                out.truncate(out.trim_end().len());
            }
        }
        _ => {
            out.push_str(&format!("\n{:indent$}  ", ""));
            entry(&mut out, value, indent + 2);
            out.truncate(out.trim_end().len());
        }
    }
    out
}

/// True where there are lists of messages inside.
fn has_lists(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(Value::is_object),
        Value::Object(fields) => fields.values().any(has_lists),
        _ => false,
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let pairs: Vec<_> = fields
                .iter()
                .map(|(key, value)| pair(fields, key, value))
                .collect();
            pairs.join("  ")
        }
        _ => scalar("", value),
    }
}

/// A field by name and value.
fn pair(fields: &Map<String, Value>, key: &str, value: &Value) -> String {
    let words = match (key, value.as_u64()) {
        ("flags", Some(bits)) if fields.contains_key("vaddr") => Some(names(PLACES, bits)),
        ("status", Some(bits)) if fields.contains_key("shmid") => Some(names(STATUS, bits)),
        ("prot", Some(bits)) if fields.contains_key("shmid") => Some(protection(bits)),
        _ => None,
    };
    match value {
        Value::Object(inner) if inner.is_empty() => format!("{key} {{}}"),
        Value::Object(_) => format!("{key} {{ {} }}", one_line(value)),
        _ => format!("{key} {}", words.unwrap_or_else(|| scalar(key, value))),
    }
}

fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(n) if n > 9 && is_hex(key) => format!("{n:#x}"),
            Some(u64::MAX) if matches!(key, "cur" | "max") => "unlimited".to_owned(),
            Some(n) if key == "mode" => format!("{n:#o}"),
            _ => number.to_string(),
        },
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => array(key, items),
        Value::Object(_) => format!("{{ {} }}", one_line(value)),
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

/// A list; of many equal values only one.
fn array(key: &str, items: &[Value]) -> String {
    match items {
        [first, rest @ ..] if rest.len() > 2 && rest.iter().all(|item| item == first) => {
            format!("[{} times {}]", items.len(), scalar(key, first))
        }
        _ => {
            let items: Vec<_> = items.iter().map(|item| scalar(key, item)).collect();
            format!("[{}]", items.join(" "))
        }
    }
}

fn names(table: &[(u64, &str)], bits: u64) -> String {
    let mut words: Vec<String> = table
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let unknown = table.iter().fold(bits, |bits, (bit, _)| bits & !bit);
    if unknown != 0 || bits == 0 {
        words.push(format!("{unknown:#x}"));
    }
    words.join("|")
}

fn protection(bits: u64) -> String {
    let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
    [letter(1, 'r'), letter(2, 'w'), letter(4, 'x')]
        .into_iter()
        .collect()
}

/// Fields whose values are addresses, registers or masks.
fn is_hex(key: &str) -> bool {
    const WORDS: &[&str] = &[
        "vaddr",
        "start",
        "end",
        "pgoff",
        "flags",
        "prot",
        "madv",
        "mask",
        "events",
        "sigaction",
        "restorer",
        "fs_base",
        "gs_base",
        "bp",
        "bx",
        "ax",
        "cx",
        "dx",
        "si",
        "di",
        "orig_ax",
        "ip",
        "sp",
        "ss_sp",
        "rip",
        "rdp",
        "futex_rla",
        "sival_ptr",
        "mxcsr",
        "mxcsr_mask",
        "xstate_bv",
        "signature",
        "handle",
        "personality",
        "seals",
        "mm_saved_auxv",
    ];
    const PARTS: &[&str] = &[
        "sigset", "sigmask", "_addr", "pointer", "cap_", "_space", "zmm",
    ];
    WORDS.contains(&key)
        || PARTS.iter().any(|part| key.contains(part))
        || key.starts_with("mm_")
        || (key.starts_with('r') && key[1..].parse::<u8>().is_ok())
}

/// Raw bytes: how many, and the first of them.
pub(super) fn blob(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(48)];
    let dots = if head.len() < bytes.len() { "..." } else { "" };
    format!("{} bytes: \"{}\"{dots}", bytes.len(), head.escape_ascii())
}
