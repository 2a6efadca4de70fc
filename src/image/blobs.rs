//! Raw bytes after records: how many follow, for the kinds that have them.
//!
//! Each function gets the number of the record, its bytes, and the rest of the file; lengths come
//! from the file and may be anything, so nothing here may overflow.

use prost::Message as _;

use super::proto::*;

/// Nothing follows.
pub(super) fn none(_: usize, _: &[u8], _: &[u8]) -> Option<usize> {
    Some(0)
}

/// `pipes-data`, `fifo-data`: the bytes in the pipe.
pub(super) fn pipe(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    size(PipeDataEntry::decode(bytes).ok()?.bytes)
}

/// `sk-queues`: the packet.
pub(super) fn packet(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    size(SkPacketEntry::decode(bytes).ok()?.length)
}

/// `tcp-stream`: the queue of received bytes, then that of sent ones.
pub(super) fn tcp(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    let entry = TcpStreamEntry::decode(bytes).ok()?;
    size(entry.inq_len)?.checked_add(size(entry.outq_len)?)
}

/// `bpfmap-data`: keys, then values.
pub(super) fn bpf(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    let entry = BpfmapDataEntry::decode(bytes).ok()?;
    size(entry.keys_bytes)?.checked_add(size(entry.values_bytes)?)
}

/// `ipcns-sem`: a u16 for each semaphore, padded to 8 bytes.
pub(super) fn semaphores(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    padded(
        size(IpcSemEntry::decode(bytes).ok()?.nsems)?.checked_mul(2)?,
        8,
    )
}

/// `ipcns-shm`: the segment, padded to 4 bytes, unless a pagemap has it.
pub(super) fn shm(_: usize, bytes: &[u8], _: &[u8]) -> Option<usize> {
    let entry = IpcShmEntry::decode(bytes).ok()?;
    if entry.in_pagemaps() {
        return Some(0);
    }
    padded(usize::try_from(entry.size).ok()?, 4)
}

/// `ipcns-msg`: for each message of the queue a record of its own (length, `ipc_msg`) and the
/// message padded to 8 bytes.
pub(super) fn messages(_: usize, bytes: &[u8], rest: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    for _ in 0..IpcMsgEntry::decode(bytes).ok()?.qnum {
        let (len, after) = rest.get(at..)?.split_first_chunk::<4>()?;
        let len = size(u32::from_le_bytes(*len))?;
        let message = IpcMsg::decode(after.get(..len)?).ok()?;
        let payload = padded(size(message.msize)?, 8)?;
        at = at.checked_add(4)?.checked_add(len)?.checked_add(payload)?;
    }
    Some(at)
}

/// `ghost-file`: after the head the whole rest of the file, or else chunks with their bytes.
pub(super) fn ghost(index: usize, bytes: &[u8], rest: &[u8]) -> Option<usize> {
    if index > 0 {
        return usize::try_from(GhostChunkEntry::decode(bytes).ok()?.len).ok();
    }
    let chunks = GhostFileEntry::decode(bytes).ok()?.chunks();
    Some(if chunks { 0 } else { rest.len() })
}

fn size(value: u32) -> Option<usize> {
    usize::try_from(value).ok()
}

fn padded(len: usize, to: usize) -> Option<usize> {
    len.checked_next_multiple_of(to)
}
