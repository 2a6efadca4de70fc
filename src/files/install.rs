//! Puts descriptors in their places in a new process that has inherited all of the engine's.

use std::os::fd::RawFd;

use super::Opened;
use crate::error::{Error, Result};
use crate::image::proto::FdinfoEntry;
use crate::inject::{Call, Remote};

/// Duplicates each description to its number in the process, with its close-on-exec flag, and
/// closes every other descriptor. Whatever else needs descriptors of the engine (mappings, cwd,
/// root, exe) comes before.
///
/// # Errors
/// When the process died or the kernel refuses.
pub fn install(remote: &mut Remote, entries: &[FdinfoEntry], opened: &Opened) -> Result<()> {
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let number = entry.fd.cast_signed();
        let source = opened.number_in(remote, entry.id)?.ok_or_else(|| {
            Error::corrupt(format!(
                "Descriptor {number} is of file {}, which is not open",
                entry.id
            ))
        })?;
        places.push((
            source,
            number,
            entry.flags & libc::FD_CLOEXEC.cast_unsigned() != 0,
        ));
    }
    places.sort_unstable_by_key(|(_, number, _)| *number);
    let mut calls: Vec<Call> = places
        .iter()
        .map(|&(source, number, cloexec)| {
            let flags = if cloexec {
                libc::O_CLOEXEC.cast_unsigned()
            } else {
                0
            };
            let numbers = [source.cast_unsigned(), number.cast_unsigned(), flags];
            Call::new(libc::SYS_dup3, &numbers.map(u64::from))
        })
        .collect();
    calls.extend(
        gaps(places.iter().map(|(_, number, _)| *number))
            .into_iter()
            .map(|(first, last)| {
                Call::new(
                    libc::SYS_close_range,
                    &[u64::from(first), u64::from(last), 0],
                )
            }),
    );
    remote.run(&mut calls)?;
    for (index, call) in calls.iter().enumerate() {
        call.value().map_err(|e| {
            let what = places.get(index).map_or_else(
                || "close what it inherited".to_owned(),
                |(_, number, _)| format!("put descriptor {number} in place"),
            );
            Error::os(format!("Process {} cannot {what}", remote.tid()), e)
        })?;
    }
    opened.settle(entries, remote)
}

/// The ranges of numbers between and after `used`, which ascend.
fn gaps(used: impl Iterator<Item = RawFd>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for number in used.map(i32::cast_unsigned) {
        if next < number {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_what_is_not_used() {
        assert_eq!(gaps([0, 1, 2].into_iter()), [(3, u32::MAX)]);
        assert_eq!(gaps([1, 4].into_iter()), [(0, 0), (2, 3), (5, u32::MAX)]);
        assert_eq!(gaps([].into_iter()), [(0, u32::MAX)]);
    }

    proptest! {
        #[test]
        fn every_number_is_either_used_or_in_one_gap(
            used in prop::collection::btree_set(0..50, 0..20)
        ) {
            let gaps = gaps(used.iter().copied());
            for number in 0..60 {
                let of = |(first, last): &&(u32, u32)| {
                    (*first..=*last).contains(&i32::cast_unsigned(number))
                };
                let within = gaps.iter().filter(of).count();
                prop_assert_eq!(within, usize::from(!used.contains(&number)));
            }
        }
    }
}
