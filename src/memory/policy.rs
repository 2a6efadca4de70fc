//! The memory policy of single mappings (mbind(2)): on which nodes their pages are to be. CRIU's
//! images have no place for it; ours is in fields of our own (`vma_entry.memory_policy`).
//!
//! Sources: get_mempolicy(2) (`MPOL_F_ADDR` gives `MPOL_DEFAULT` where a mapping has the policy of its
//! thread), numa(7).

use std::collections::BTreeMap;

use super::mappings::{Backing, Mapping};
use crate::error::{Obstacle, Result};
use crate::image::proto::VmaEntry;
use crate::inject::{Call, Remote};
use crate::units::Vaddr;

const MPOL_F_ADDR: u64 = 2;
/// Words of a node mask: room for every node that a kernel can have (MAX_NUMNODES is 1024).
const NODE_WORDS: usize = 16;
const NODE_BITS: u64 = NODE_WORDS as u64 * 64;
const WORD: u64 = 8;

/// Policies by the start of their mappings.
pub type Policies = BTreeMap<Vaddr, Policy>;

/// What mbind(2) was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `MPOL_*` with its flags.
    pub mode: u32,
    /// The nodes as a bit mask.
    pub nodes: Vec<u64>,
}

/// Dump half, inside the process: the policies of those mappings that have their own.
///
/// # Errors
/// When the thread died.
pub fn dump(remote: &mut Remote, mappings: &[Mapping]) -> Result<Policies> {
    let starts: Vec<Vaddr> = mappings
        .iter()
        .filter(|m| !matches!(m.backing, Backing::Vdso | Backing::Vvar | Backing::Vsyscall))
        .map(|m| m.range.start)
        .collect();
    let mut found = Policies::new();
    let most = usize::try_from(remote.scratch().bytes() / WORD).unwrap_or(1);
    for part in starts.chunks(most) {
        // The kernel writes an int: nothing old may stand in the rest of the word.
        let modes = remote.put(0, &vec![0; part.len() * WORD as usize])?;
        let ask = |(place, start): (u64, &Vaddr)| {
            Call::new(libc::SYS_get_mempolicy, &[place, 0, 0, *start, MPOL_F_ADDR])
        };
        let mut calls: Vec<Call> = (modes..)
            .step_by(WORD as usize)
            .zip(part)
            .map(ask)
            .collect();
        remote.run(&mut calls)?;
        let modes = words(remote, part.len())?;
        for ((start, mode), call) in part.iter().zip(modes).zip(&calls) {
            // A kernel that fails here knows no policies.
            if mode != 0 && call.value().is_ok() {
                let mode = u32::try_from(mode).unwrap_or(0);
                found.insert(
                    *start,
                    Policy {
                        mode,
                        nodes: vec![],
                    },
                );
            }
        }
    }
    for (start, policy) in &mut found {
        let nodes = remote.put(0, &[0; NODE_WORDS * WORD as usize])?;
        let args = [0, nodes, NODE_BITS, *start, MPOL_F_ADDR];
        remote.call("get_mempolicy", libc::SYS_get_mempolicy, &args)?;
        let nodes = words(remote, NODE_WORDS)?;
        let used = nodes.iter().rposition(|word| *word != 0);
        policy.nodes = nodes[..used.map_or(0, |last| last + 1)].to_vec();
    }
    Ok(found)
}

/// The first `count` words of the scratch area.
fn words(remote: &Remote, count: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; count * WORD as usize];
    remote.get(0, &mut bytes)?;
    let words = bytes.as_chunks::<{ WORD as usize }>().0.iter();
    Ok(words.map(|word| u64::from_le_bytes(*word)).collect())
}

/// Restore half, inside the new process, when everything is mapped and before its pages are there:
/// they come to lie on their nodes. What cannot be is told; the program runs all the same.
///
/// # Errors
/// When the thread died.
pub fn restore(remote: &mut Remote, vmas: &[VmaEntry]) -> Result<Vec<Obstacle>> {
    let mut lost = Vec::new();
    for vma in vmas {
        let Some(mode) = vma.memory_policy else {
            continue;
        };
        let mask: Vec<u8> = vma
            .memory_nodes
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        let (mask, bits) = match vma.memory_nodes.len() as u64 {
            0 => (0, 0),
            // One more than the bits that count (mbind(2), BUGS of set_mempolicy(2)).
            n => (remote.put(0, &mask)?, n * 64 + 1),
        };
        let args = [vma.start, vma.end - vma.start, mode.into(), mask, bits, 0];
        let mut calls = [Call::new(libc::SYS_mbind, &args)];
        remote.run(&mut calls)?;
        if let Err(errno) = calls[0].value() {
            let what = format!(
                "The mapping of process {} at {:x} does not get back its memory policy ({errno})",
                remote.tid(),
                vma.start
            );
            lost.push(Obstacle::unsupported(
                what,
                "this machine may lack its nodes",
            ));
        }
    }
    Ok(lost)
}
