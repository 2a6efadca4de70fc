//! The local descriptor table of a process: segments of its own (modify_ldt(2)), used by Wine and by
//! 16-bit programs. CRIU's images have no place for it; ours is in a field of our own (`tc.ldt`).
//!
//! Source: Intel SDM vol. 3, 3.4.5 (segment descriptors).

use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Error, Kind, Result};
use crate::inject::Call;

const READ: u64 = 0;
const WRITE: u64 = 0x11;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Bytes of the largest table.
const MOST: usize = 8192 * ENTRY;

/// See the module.
#[derive(Debug)]
pub(super) struct LocalDescriptors;

impl Resource for LocalDescriptors {
    fn name(&self) -> &'static str {
        "local descriptor table"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            let first = questions.room(ENTRY as u64);
            questions.call(libc::SYS_modify_ldt, &[READ, first, ENTRY as u64]);
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        // A process without a table, or a kernel without the call.
        if !task.leader || answers.value(0, "modify_ldt").unwrap_or(0) == 0 {
            return Ok(());
        }
        // What the kernel has no entry for, it fills with zeros.
        let place = task.remote.scratch().start;
        let args = [READ, place, MOST as u64];
        task.remote
            .call("modify_ldt", libc::SYS_modify_ldt, &args)?;
        let mut table = vec![0; MOST];
        task.remote.get(0, &mut table)?;
        let used = table.iter().rposition(|byte| *byte != 0);
        table.truncate(used.map_or(0, |last| (last + 1).next_multiple_of(ENTRY)));
        task.task().ldt = Some(table).filter(|table| !table.is_empty());
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let table = task.task().and_then(|t| t.ldt.as_deref());
        for (number, entry) in (0..).zip(table.unwrap_or_default().as_chunks::<ENTRY>().0) {
            if *entry == [0; ENTRY] {
                continue;
            }
            let wanted = user_desc(number, u64::from_le_bytes(*entry));
            let place = task.remote.put(0, &wanted.map(u32::to_le_bytes).concat())?;
            let args = [WRITE, place, size_of_val(&wanted) as u64];
            let mut calls = [Call::new(libc::SYS_modify_ldt, &args)];
            task.remote.run(&mut calls)?;
            // Its errors are 32 bits wide: they look like large values.
            if calls[0].result != 0 {
                let what = format!("{} cannot have entry {number} of its LDT", task.who());
                return Err(Error::new(Kind::Unsupported, what)
                    .hint("the kernel needs CONFIG_MODIFY_LDT_SYSCALL"));
            }
        }
        Ok(())
    }
}

/// `struct user_desc` of an entry: number, base, limit, and bits from low to high: 32-bit segment,
/// contents (two), read or execute only, limit in pages, not present, usable.
fn user_desc(number: u32, entry: u64) -> [u32; 4] {
    let bits = |at: u32, count: u32| super::words::low(entry >> at & ((1 << count) - 1));
    let base = bits(16, 24) | bits(56, 8) << 24;
    let limit = bits(0, 16) | bits(48, 4) << 16;
    let flags = bits(54, 1)
        | bits(42, 2) << 1
        | (bits(41, 1) ^ 1) << 3
        | bits(55, 1) << 4
        | (bits(47, 1) ^ 1) << 5
        | bits(52, 1) << 6;
    [number, base, limit, flags]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_taken_apart() {
        // A flat 32-bit data segment: limit 0xfffff pages, readable and writable, accessed.
        assert_eq!(
            user_desc(3, 0x00cf_f300_0000_ffff),
            [3, 0, 0xf_ffff, 0b01_0001]
        );
        // Base 0x12345678, limit 0xabc, not present, usable, execute only.
        assert_eq!(
            user_desc(0, 0x1250_7934_5678_0abc),
            [0, 0x1234_5678, 0xabc, 0b110_1101]
        );
    }
}
