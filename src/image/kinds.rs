//! The table of all kinds of images: file name, magic numbers, message, raw bytes after records.
//!
//! A kind is found by its file name, and by its magic where a file has another name. Kinds of old
//! CRIU versions, which newer ones fold into `files.img` and `core-N.img`, are readable too.

use prost::{DecodeError, Message};
use serde::Serialize;
use serde_json::Value;

use super::blobs;
use super::frame::{COMMON_MAGIC, SERVICE_MAGIC};
use super::proto::*;

/// Decodes one record into JSON; also tells how many of its bytes the message explains.
type Decode = fn(&[u8]) -> Result<(Value, usize), DecodeError>;

/// Tells how many raw bytes follow record number `.0` with the bytes `.1`, when the rest of the
/// file is `.2`; `None` when that cannot be told.
type Extra = fn(usize, &[u8], &[u8]) -> Option<usize>;

/// What stands before the first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The magic of the kind alone.
    Own,
    /// [`COMMON_MAGIC`] and the magic of the kind.
    Common,
    /// [`SERVICE_MAGIC`] and the magic of the kind.
    Service,
}

/// One kind of image.
#[derive(Clone, Copy, Debug)]
pub struct ImageKind {
    /// File name; `*` stands for a number, decimal or hexadecimal.
    pub pattern: &'static str,
    /// What CRIU calls the magic, e.g. `PAGEMAP`.
    pub name: &'static str,
    magic: u32,
    framing: Framing,
    head: Decode,
    body: Decode,
    extra: Extra,
}

impl ImageKind {
    const fn new(pattern: &'static str, name: &'static str, magic: u32, body: Decode) -> Self {
        let framing = Framing::Common;
        Self {
            pattern,
            name,
            magic,
            framing,
            head: body,
            body,
            extra: blobs::none,
        }
    }

    const fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    const fn headed(mut self, head: Decode) -> Self {
        self.head = head;
        self
    }

    const fn followed(mut self, extra: Extra) -> Self {
        self.extra = extra;
        self
    }

    /// The words before the first record.
    pub(super) fn header(&self) -> Vec<u8> {
        let own = self.magic.to_le_bytes();
        match self.framing {
            Framing::Own => own.to_vec(),
            Framing::Common => [COMMON_MAGIC.to_le_bytes(), own].concat(),
            Framing::Service => [SERVICE_MAGIC.to_le_bytes(), own].concat(),
        }
    }

    /// Record number `index` as JSON, and how many of its bytes are known fields.
    pub(super) fn json(&self, index: usize, bytes: &[u8]) -> Result<(Value, usize), DecodeError> {
        if index == 0 {
            (self.head)(bytes)
        } else {
            (self.body)(bytes)
        }
    }

    /// How many raw bytes follow record number `index`; `None` when the record is damaged.
    pub(super) fn extra(&self, index: usize, bytes: &[u8], rest: &[u8]) -> Option<usize> {
        (self.extra)(index, bytes, rest)
    }

    /// The kind of a file with this name.
    pub fn of(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| matches(kind.pattern, name))
    }

    /// The kind of a file that begins with these bytes.
    pub(super) fn of_content(data: &[u8]) -> Option<&'static Self> {
        KINDS.iter().find(|kind| data.starts_with(&kind.header()))
    }
}

/// True for images without magic and records: pages, and what other programs write.
pub(super) fn is_raw(name: &str) -> bool {
    RAW.iter().any(|pattern| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn json<M: Message + Default + Serialize>(bytes: &[u8]) -> Result<(Value, usize), DecodeError> {
    let message = M::decode(bytes)?;
    // A message is a plain tree: writing it as JSON cannot fail.
    let value = serde_json::to_value(&message).unwrap_or(Value::Null);
    Ok((value, message.encoded_len()))
}

/// Images without magic and records.
const RAW: &[&str] = &[
    "pages-*.img",
    "saved-file-*.img",
    "ifaddr-*.img",
    "route-*.img",
    "route6-*.img",
    "rule-*.img",
    "iptables-*.img",
    "ip6tables-*.img",
    "nftables-*.img",
    "netns-ct-*.img",
    "netns-exp-*.img",
    "tmpfs-*.tar.gz",
    "tmpfs-*.tar.gz.img",
    "tmpfs-dev-*.tar.gz",
    "tmpfs-dev-*.tar.gz.img",
];

const fn kind(pattern: &'static str, name: &'static str, magic: u32, body: Decode) -> ImageKind {
    ImageKind::new(pattern, name, magic, body)
}

/// All kinds with records. Of several kinds with one magic, the first is taken for unknown names.
#[rustfmt::skip] // a table
pub static KINDS: &[ImageKind] = &[
    kind("inventory.img", "INVENTORY", 0x5831_3116, json::<InventoryEntry>).framed(Framing::Own),
    kind("pstree.img", "PSTREE", 0x5027_3030, json::<PstreeEntry>),
    kind("core-*.img", "CORE", 0x5505_3847, json::<CoreEntry>),
    kind("ids-*.img", "IDS", 0x5443_2030, json::<TaskKobjIdsEntry>),
    kind("mm-*.img", "MM", 0x5749_2820, json::<MmEntry>),
    kind("fs-*.img", "FS", 0x5140_3912, json::<FsEntry>),
    kind("fdinfo-*.img", "FDINFO", 0x5621_3732, json::<FdinfoEntry>),
    kind("files.img", "FILES", 0x5630_3138, json::<FileEntry>),
    kind("seccomp.img", "SECCOMP", 0x6441_3049, json::<SeccompEntry>),
    kind("timens-*.img", "TIMENS", 0x4311_4433, json::<TimensEntry>),
    // Memory
    kind("pagemap-*.img", "PAGEMAP", 0x5608_4025, json::<PagemapEntry>).headed(json::<PagemapHead>),
    kind("pagemap-shmem-*.img", "PAGEMAP", 0x5608_4025, json::<PagemapEntry>).headed(json::<PagemapHead>),
    kind("memfd.img", "MEMFD_INODE", 0x4845_3499, json::<MemfdInodeEntry>),
    // Contents of descriptors
    kind("pipes-data.img", "PIPES_DATA", 0x5645_3709, json::<PipeDataEntry>).followed(blobs::pipe),
    kind("fifo-data.img", "FIFO_DATA", 0x5933_3054, json::<PipeDataEntry>).followed(blobs::pipe),
    kind("sk-queues.img", "SK_QUEUES", 0x5626_4026, json::<SkPacketEntry>).followed(blobs::packet),
    kind("tcp-stream-*.img", "TCP_STREAM", 0x5146_5506, json::<TcpStreamEntry>).followed(blobs::tcp),
    kind("tty-info.img", "TTY_INFO", 0x5945_3036, json::<TtyInfoEntry>),
    kind("tty-data.img", "TTY_DATA", 0x5941_3026, json::<TtyDataEntry>),
    kind("bpfmap-data.img", "BPFMAP_DATA", 0x6432_4033, json::<BpfmapDataEntry>).followed(blobs::bpf),
    // Files and names
    kind("remap-fpath.img", "REMAP_FPATH", 0x5913_3954, json::<RemapFilePathEntry>),
    kind("ghost-file-*.img", "GHOST_FILE", 0x5258_3605, json::<GhostChunkEntry>)
        .headed(json::<GhostFileEntry>).followed(blobs::ghost),
    kind("filelocks.img", "FILE_LOCKS", 0x5432_3616, json::<FileLockEntry>),
    kind("filelocks-*.img", "FILE_LOCKS", 0x5432_3616, json::<FileLockEntry>),
    kind("irmap-cache", "IRMAP_CACHE", 0x5700_4059, json::<IrmapCacheEntry>).framed(Framing::Service),
    // Namespaces and the host
    kind("utsns-*.img", "UTSNS", 0x5447_3203, json::<UtsnsEntry>),
    kind("ipcns-var-*.img", "IPC_VAR", 0x5311_5007, json::<IpcVarEntry>),
    kind("ipcns-shm-*.img", "IPCNS_SHM", 0x4628_3044, json::<IpcShmEntry>).followed(blobs::shm),
    kind("ipcns-msg-*.img", "IPCNS_MSG", 0x5545_3737, json::<IpcMsgEntry>).followed(blobs::messages),
    kind("ipcns-sem-*.img", "IPCNS_SEM", 0x5957_3019, json::<IpcSemEntry>).followed(blobs::semaphores),
    kind("mountpoints-*.img", "MNTS", 0x5556_3928, json::<MntEntry>),
    kind("netdev-*.img", "NETDEV", 0x5737_3951, json::<NetDeviceEntry>),
    kind("netns-*.img", "NETNS", 0x5593_3752, json::<NetnsEntry>),
    kind("userns-*.img", "USERNS", 0x5547_4906, json::<UsernsEntry>),
    kind("pidns-*.img", "PIDNS", 0x6115_7326, json::<PidnsEntry>),
    kind("cgroup.img", "CGROUP", 0x5938_3330, json::<CgroupEntry>),
    kind("cpuinfo.img", "CPUINFO", 0x6140_4013, json::<CpuinfoEntry>),
    kind("apparmor.img", "APPARMOR", 0x5942_3047, json::<ApparmorEntry>),
    kind("autofs-*.img", "AUTOFS", 0x4935_3943, json::<AutofsEntry>),
    kind("binfmt-misc.img", "BINFMT_MISC", 0x6734_3323, json::<BinfmtMiscEntry>),
    kind("binfmt-misc-*.img", "BINFMT_MISC", 0x6734_3323, json::<BinfmtMiscEntry>),
    // Figures
    kind("stats-dump", "STATS", 0x5709_3306, json::<StatsEntry>).framed(Framing::Service),
    kind("stats-restore", "STATS", 0x5709_3306, json::<StatsEntry>).framed(Framing::Service),
    // Ours
    kind("icecore.img", "ICECORE", 0x4943_4543, json::<icecore::Sidecar>),
    // Layouts of old versions: a file for each kind of descriptor, and for parts of the core
    kind("reg-files.img", "REG_FILES", 0x5036_3636, json::<RegFileEntry>),
    kind("ext-files.img", "EXT_FILES", 0x5925_5641, json::<ExtFileEntry>),
    kind("ns-files.img", "NS_FILES", 0x6139_4011, json::<NsFileEntry>),
    kind("pipes.img", "PIPES", 0x5651_3555, json::<PipeEntry>),
    kind("fifo.img", "FIFO", 0x5836_4939, json::<FifoEntry>),
    kind("unixsk.img", "UNIXSK", 0x5437_3943, json::<UnixSkEntry>),
    kind("inetsk.img", "INETSK", 0x5644_3851, json::<InetSkEntry>),
    kind("packetsk.img", "PACKETSK", 0x6045_4618, json::<PacketSockEntry>),
    kind("netlinksk.img", "NETLINK_SK", 0x5800_5614, json::<NetlinkSkEntry>),
    kind("eventfd.img", "EVENTFD_FILE", 0x4452_3722, json::<EventfdFileEntry>),
    kind("eventpoll.img", "EVENTPOLL_FILE", 0x4502_3858, json::<EventpollFileEntry>),
    kind("eventpoll-tfd.img", "EVENTPOLL_TFD", 0x4443_3746, json::<EventpollTfdEntry>),
    kind("signalfd.img", "SIGNALFD", 0x5732_3820, json::<SignalfdEntry>),
    kind("timerfd.img", "TIMERFD", 0x5049_3712, json::<TimerfdEntry>),
    kind("inotify.img", "INOTIFY_FILE", 0x4842_4431, json::<InotifyFileEntry>),
    kind("inotify-wd.img", "INOTIFY_WD", 0x5456_2009, json::<InotifyWdEntry>),
    kind("fanotify.img", "FANOTIFY_FILE", 0x5509_6122, json::<FanotifyFileEntry>),
    kind("fanotify-mark.img", "FANOTIFY_MARK", 0x5650_6035, json::<FanotifyMarkEntry>),
    kind("tty.img", "TTY_FILES", 0x5943_3025, json::<TtyFileEntry>),
    kind("tunfile.img", "TUNFILE", 0x5714_3751, json::<TunfileEntry>),
    kind("bpfmap-file.img", "BPFMAP_FILE", 0x5750_6142, json::<BpfmapFileEntry>),
    kind("pidfd.img", "PIDFD", 0x5443_5556, json::<PidfdEntry>),
    kind("vmas-*.img", "VMAS", 0x5412_3737, json::<VmaEntry>),
    kind("creds-*.img", "CREDS", 0x5402_3547, json::<CredsEntry>),
    kind("sigacts-*.img", "SIGACT", 0x5534_4201, json::<SaEntry>),
    kind("itimers-*.img", "ITIMERS", 0x5746_4056, json::<ItimerEntry>),
    kind("posix-timers-*.img", "POSIX_TIMERS", 0x5260_3957, json::<PosixTimerEntry>),
    kind("rlimit-*.img", "RLIMIT", 0x5711_3925, json::<RlimitEntry>),
    kind("signal-s-*.img", "SIGNAL", 0x5925_5647, json::<SiginfoEntry>),
    kind("signal-p-*.img", "PSIGNAL", 0x5925_5647, json::<SiginfoEntry>),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_name_has_at_most_one_kind() {
        for kind in KINDS {
            let name = kind.pattern.replace('*', "1f");
            let all: Vec<_> = KINDS.iter().filter(|k| matches(k.pattern, &name)).collect();
            assert_eq!(all.len(), 1, "{name}: {all:?}");
            assert!(!is_raw(&name));
        }
    }

    #[test]
    fn kinds_with_one_magic_have_one_message() {
        for a in KINDS {
            for b in KINDS.iter().filter(|b| b.header() == a.header()) {
                let same = a.json(1, &[]).is_ok() == b.json(1, &[]).is_ok();
                assert!(same, "{} {}", a.pattern, b.pattern);
            }
        }
    }

    #[test]
    fn a_number_is_part_of_the_name() {
        assert_eq!(
            ImageKind::of("pagemap-12.img").unwrap().pattern,
            "pagemap-*.img"
        );
        assert_eq!(
            ImageKind::of("pagemap-shmem-12.img").unwrap().pattern,
            "pagemap-shmem-*.img"
        );
        assert!(ImageKind::of("pagemap-.img").is_none());
        assert!(ImageKind::of("pagemap-x.img").is_none());
        assert!(ImageKind::of("files.img.new").is_none());
    }
}
