//! What objects of System V IPC there are in our ipc namespace: the tables below `/proc/sysvipc`
//! (proc_sysvipc(5)). Pids are those that we see; 0 for who is not in our pid namespace.

use std::collections::HashMap;
use std::fs;

use super::proc::unreadable;
use crate::error::{Error, Result};

/// One object, as a row of its table: numbers by the names of their columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object(HashMap<String, i64>);

impl Object {
    /// The number in the column `name`, 0 where there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0).cast_unsigned()
    }

    /// The same, for what has 32 bits.
    pub fn small(&self, name: &str) -> u32 {
        u32::try_from(self.number(name) & u64::from(u32::MAX)).unwrap_or(0)
    }
}

/// All segments of shared memory, by their ids.
///
/// # Errors
/// When the table cannot be read.
pub fn segments() -> Result<HashMap<u32, Object>> {
    table("shm", "shmid")
}

/// All sets of semaphores.
///
/// # Errors
/// As [`segments`].
pub fn semaphores() -> Result<HashMap<u32, Object>> {
    table("sem", "semid")
}

/// All message queues.
///
/// # Errors
/// As [`segments`].
pub fn queues() -> Result<HashMap<u32, Object>> {
    table("msg", "msqid")
}

/// Ids whose lowest bits are the same are never there together (the kernel's IPCMNI).
const SLOTS: u32 = 1 << 15;

/// Why no object can be made with this id and key (0: none) beside those `there`, and which one is in
/// the way.
pub fn taken(id: u32, key: u32, there: &HashMap<u32, Object>) -> Option<(&'static str, u32)> {
    let same_slot = there.keys().find(|other| **other % SLOTS == id % SLOTS);
    let same_key = |(_, object): &(&u32, &Object)| key != 0 && object.small("key") == key;
    let found = same_slot.map(|other| ("its place is taken", *other));
    found.or_else(|| {
        let other = there.iter().find(same_key);
        other.map(|(other, _)| ("its key is taken", *other))
    })
}

/// A table by its column `id`; empty in a kernel without System V IPC.
fn table(name: &str, id: &str) -> Result<HashMap<u32, Object>> {
    let path = format!("/proc/sysvipc/{name}");
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(HashMap::new()),
        read => read.map_err(|e| Error::path("read", &path, e))?,
    };
    let rows = parse(&text).ok_or_else(|| unreadable(&path, "not a table of numbers"))?;
    Ok(rows.into_iter().map(|row| (row.small(id), row)).collect())
}

fn parse(text: &str) -> Option<Vec<Object>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let row = |line: &str| {
        let mut row = HashMap::new();
        for (name, word) in names.iter().zip(line.split_whitespace()) {
            let number = match *name {
                "perms" => i64::from_str_radix(word, 8),
                _ => word.parse(),
            };
            row.insert((*name).to_owned(), number.ok()?);
        }
        Some(Object(row))
    };
    lines.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_the_names_of_its_columns() {
        let text = "       key      shmid perms                  size  cpid   uid\n\
                    \x20-559038737     32770  1600   4096  77 4000000000\n";
        let rows = parse(text).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].small("key"), 0xdead_beef);
        assert_eq!(rows[0].small("perms"), 0o1600);
        assert_eq!(rows[0].number("uid"), 4_000_000_000);
        assert_eq!(rows[0].number("nattch"), 0);
        assert_eq!(parse("a\nx\n"), None);
    }

    #[test]
    fn an_object_needs_its_place_and_its_key() {
        let rows = parse("key shmid\n7 32771\n0 5\n").unwrap();
        let there = rows
            .into_iter()
            .map(|row| (row.small("shmid"), row))
            .collect();
        assert_eq!(taken(3, 0, &there), Some(("its place is taken", 32771)));
        assert_eq!(taken(4, 7, &there), Some(("its key is taken", 32771)));
        assert_eq!(taken(4, 0, &there), None);
    }

    #[test]
    fn the_tables_of_this_machine_can_be_read() {
        segments()
            .and_then(|_| semaphores())
            .and_then(|_| queues())
            .unwrap();
    }
}
