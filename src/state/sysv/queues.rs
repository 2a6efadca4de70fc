//! Message queues: the messages that wait, and who used it last.
//!
//! CRIU: `ipc_msg_entry`, followed by the messages, each with an `ipc_msg` of its own. Sources: msgctl(2),
//! msgrcv(2) (`MSG_COPY` leaves a message where it is), proc_sysvipc(5).

use nix::errno::Errno;
use prost::Message as _;

use super::{In, Known, Sort, desc, used};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::Images;
use crate::image::proto::{IpcMsg, IpcMsgEntry};
use crate::inject::{Call, Remote};
use crate::memory::sysv::create_in;
use crate::sys::sysv::{Message, queue_capacity, receive, remove_queue, set_queue};
use crate::task::sysv::Object;
use crate::task::{Ids, Process};
use crate::units::Pid;

pub(super) fn image(number: u32) -> String {
    format!("ipcns-msg-{number}.img")
}

/// Longest message: a restore passes each through memory of its own. The kernel's limit is 8 KiB
/// unless somebody has raised it (`/proc/sys/kernel/msgmax`).
const LONGEST: usize = 64 * 1024;
/// Nobody sends this type.
const NOBODYS: i64 = i64::MAX - 0x1ce;

/// For messages and commands.
pub(super) static SORT: Sort = Sort {
    name: "Message queue",
    option: "-q",
    remove: remove_queue,
};

/// Messages (type, text), capacity, last sender and receiver.
#[derive(Debug)]
pub(super) struct Contents {
    messages: Vec<(i64, Vec<u8>)>,
    capacity: u32,
    sender: u32,
    receiver: u32,
}

/// A queue of a layer.
pub(super) type Wanted = Known<Contents>;

/// Who sent and who received last.
pub(super) fn last_users(_: u32, object: &Object) -> Vec<u32> {
    let users = [object.small("lspid"), object.small("lrpid")];
    users.into_iter().filter(|pid| *pid != 0).collect()
}

/// True when the tree uses the queue; an obstacle when others do, too.
pub(super) fn users(
    id: u32,
    object: &Object,
    tree: &[Process],
) -> std::result::Result<bool, Obstacle> {
    let changed = object.number("stime").max(object.number("rtime"));
    used(&SORT.called(id), &last_users(id, object), changed, tree)
}

/// Dump half.
pub(super) fn dump(id: u32, object: &Object, ids: &Ids) -> Result<(IpcMsgEntry, Vec<u8>)> {
    let cannot = |e| Error::os(format!("Cannot read {}", SORT.called(id)), e);
    let capacity = queue_capacity(id.cast_signed()).map_err(cannot)?;
    let mut bytes = Vec::new();
    let mut count = 0;
    loop {
        let (mtype, text) = match receive(id.cast_signed(), Message::Copy(count.into()), LONGEST) {
            Ok(message) => message,
            Err(Errno::ENOMSG) => break,
            Err(Errno::E2BIG) => {
                let what = format!(
                    "{} holds a message of more than {LONGEST} bytes",
                    SORT.called(id)
                );
                return Err(
                    Error::new(Kind::Unsupported, what).hint("let the program receive it first")
                );
            }
            Err(e) => return Err(cannot(e)),
        };
        let head = IpcMsg {
            mtype: mtype.cast_unsigned(),
            msize: u32::try_from(text.len()).unwrap_or(0),
        };
        let head = head.encode_to_vec();
        bytes.extend(u32::try_from(head.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(head);
        let padded = bytes.len() + text.len().next_multiple_of(8);
        bytes.extend(text);
        bytes.resize(padded, 0);
        count += 1u32;
    }
    let number = |name| ids.number(Pid::from_raw(object.small(name).cast_signed()));
    let entry = IpcMsgEntry {
        desc: desc(id, object),
        qbytes: u32::try_from(capacity).unwrap_or(u32::MAX),
        qnum: count,
        lspid: Some(number("lspid")).filter(|pid| *pid != 0),
        lrpid: Some(number("lrpid")).filter(|pid| *pid != 0),
    };
    Ok((entry, bytes))
}

pub(super) fn read(images: &Images, number: u32) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    let name = image(number);
    for record in images.records(&name)? {
        let entry = IpcMsgEntry::decode(&*record.bytes)
            .map_err(|e| Error::corrupt(format!("Cannot decode {name}")).because(e))?;
        let messages = parse(&record.extra, entry.qnum)
            .ok_or_else(|| Error::corrupt(format!("Messages of {name} are cut off")))?;
        all.push(Known {
            sort: &SORT,
            desc: entry.desc,
            size: ("", 0),
            contents: Contents {
                messages,
                capacity: entry.qbytes,
                sender: entry.lspid.unwrap_or(0),
                receiver: entry.lrpid.unwrap_or(0),
            },
        });
    }
    Ok(all)
}

/// The messages behind an entry.
fn parse(mut rest: &[u8], count: u32) -> Option<Vec<(i64, Vec<u8>)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (head, after) = after.split_at_checked(length)?;
        let head = IpcMsg::decode(head).ok()?;
        let size = usize::try_from(head.msize).ok()?;
        all.push((head.mtype.cast_signed(), after.get(..size)?.to_vec()));
        rest = after.get(size.checked_next_multiple_of(8)?..)?;
    }
    Some(all)
}

/// Makes an empty queue in the process given.
pub(super) fn create(queue: &Wanted, remote: &mut Remote) -> Result<()> {
    let key = queue.desc.key.into();
    let get = |flags| Call::new(libc::SYS_msgget, &[key, flags]);
    create_in(
        remote,
        &queue.desc,
        "msg",
        &SORT.called(queue.desc.id),
        SORT.remove,
        get,
    )
}

impl Wanted {
    /// Replaces what is in the queue by the messages of the layer.
    pub(super) fn fill(&self, within: &mut In<'_>) -> Result<()> {
        let Contents {
            messages,
            capacity,
            sender,
            receiver,
        } = &self.contents;
        let desc = &self.desc;
        let what = format!("Restoring {}", SORT.called(desc.id));
        let cannot = |e| Error::os(format!("Cannot restore {}", SORT.called(desc.id)), e);
        let id = desc.id.cast_signed();
        loop {
            match receive(id, Message::Take, LONGEST) {
                Ok(_) => {}
                Err(Errno::ENOMSG) => break,
                Err(e) => return Err(cannot(e)),
            }
        }
        set_queue(id, desc.uid, desc.gid, desc.mode, (*capacity).into()).map_err(cannot)?;
        // Who sent and who received last is told by doing so.
        if *receiver != 0 {
            within(*sender, &mut |remote| send(remote, id, &what, NOBODYS, &[]))?;
            within(*receiver, &mut |remote| {
                let at = remote.put(0, &[0; 8])?;
                let kind = NOBODYS.cast_unsigned();
                let args = [desc.id.into(), at, 0, kind, 0];
                remote.call(&what, libc::SYS_msgrcv, &args).map(drop)
            })?;
        }
        within(*sender, &mut |remote| {
            for (kind, text) in messages {
                send(remote, id, &what, *kind, text)?;
            }
            Ok(())
        })
    }
}

/// Lets a process send a message.
fn send(remote: &mut Remote, id: i32, what: &str, kind: i64, text: &[u8]) -> Result<()> {
    let message = [&kind.to_le_bytes(), text].concat();
    let at = remote.put(0, &message)?;
    let (id, wait) = (id.cast_unsigned().into(), libc::IPC_NOWAIT);
    let args = [id, at, text.len() as u64, wait.cast_unsigned().into()];
    remote.call(what, libc::SYS_msgsnd, &args).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_cut_off_are_noticed() {
        let head = IpcMsg { mtype: 7, msize: 3 }.encode_to_vec();
        let length = u32::try_from(head.len()).unwrap().to_le_bytes();
        let bytes = [&length[..], &head, b"abc\0\0\0\0\0"].concat();
        assert_eq!(parse(&bytes, 1), Some(vec![(7, b"abc".to_vec())]));
        assert_eq!(parse(&bytes, 2), None);
        assert_eq!(parse(&bytes[..bytes.len() - 1], 1), None);
    }
}
