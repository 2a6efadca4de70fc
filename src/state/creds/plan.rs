//! The way from the present credentials to other ones: which steps, in which order
//! (capabilities(7), "Effect of user ID changes on capabilities", "The securebits flags").

use super::Creds;
use crate::error::Result;
use crate::inject::{Call, Remote};
use crate::state::caps;
use crate::state::words::{halves, high, low};

const PR_SET_SECUREBITS: u64 = 28;
const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_LOWER: u64 = 3;
pub(super) const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Where groups lie in the scratch area, after the slots of the capability calls.
const GROUPS: u64 = 256;

/// One system call on the way to other credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Securebits(u32),
    Groups(Vec<u32>),
    /// Real, effective, saved.
    Gids([u32; 3]),
    FsGid(u32),
    Uids([u32; 3]),
    FsUid(u32),
    /// Effective, permitted, inheritable.
    Caps(u64, u64, u64),
    LowerAmbient(u64),
    RaiseAmbient(u64),
    DropBounding(u64),
    NoNewPrivs,
}

/// Steps from `present` to what of `wanted` can be had, and what cannot.
pub(super) fn plan(present: &Creds, wanted: &Creds) -> (Vec<Step>, Vec<(&'static str, u64)>) {
    // Sets only shrink; what we lack ourselves nobody can give.
    let bounding = wanted.bounding & present.bounding;
    let permitted = wanted.permitted & present.permitted;
    let effective = wanted.effective & permitted;
    let inheritable = wanted.inheritable & (present.inheritable | present.bounding);
    let ambient = wanted.ambient & permitted & inheritable;
    let lost = [
        ("bounding", wanted.bounding & !bounding),
        ("permitted", wanted.permitted & !permitted),
        ("effective", wanted.effective & !effective),
        ("inheritable", wanted.inheritable & !inheritable),
        ("ambient", wanted.ambient & !ambient),
    ];
    let mut steps = Vec::new();
    let mut securebits = present.securebits;
    if wanted.uids != present.uids && securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        securebits |= SECBIT_NO_SETUID_FIXUP;
        steps.push(Step::Securebits(securebits));
    }
    if wanted.groups != present.groups {
        steps.push(Step::Groups(wanted.groups.clone()));
    }
    let [rgid, egid, sgid, fsgid] = wanted.gids;
    if wanted.gids != present.gids {
        steps.push(Step::Gids([rgid, egid, sgid]));
        if fsgid != egid {
            steps.push(Step::FsGid(fsgid));
        }
    }
    let [ruid, euid, suid, fsuid] = wanted.uids;
    if wanted.uids != present.uids {
        steps.push(Step::Uids([ruid, euid, suid]));
        if fsuid != euid {
            steps.push(Step::FsUid(fsuid));
        }
    }
    if inheritable != present.inheritable {
        steps.push(Step::Caps(
            present.effective,
            present.permitted,
            inheritable,
        ));
    }
    // The kernel takes out of the ambient set what is no longer inheritable.
    let present_ambient = present.ambient & inheritable;
    steps.extend(caps::members(present_ambient & !ambient).map(Step::LowerAmbient));
    steps.extend(caps::members(ambient & !present_ambient).map(Step::RaiseAmbient));
    steps.extend(caps::members(present.bounding & !bounding).map(Step::DropBounding));
    if wanted.securebits != securebits {
        steps.push(Step::Securebits(wanted.securebits));
    }
    if (effective, permitted) != (present.effective, present.permitted) {
        steps.push(Step::Caps(effective, permitted, inheritable));
    }
    if wanted.no_new_privs && !present.no_new_privs {
        steps.push(Step::NoNewPrivs);
    }
    (
        steps,
        lost.into_iter().filter(|(_, set)| *set != 0).collect(),
    )
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Securebits(_) => "prctl(PR_SET_SECUREBITS)",
            Self::Groups(_) => "setgroups",
            Self::Gids(_) => "setresgid",
            Self::FsGid(_) => "setfsgid",
            Self::Uids(_) => "setresuid",
            Self::FsUid(_) => "setfsuid",
            Self::Caps(..) => "capset",
            Self::LowerAmbient(_) => "prctl(PR_CAP_AMBIENT_LOWER)",
            Self::RaiseAmbient(_) => "prctl(PR_CAP_AMBIENT_RAISE)",
            Self::DropBounding(_) => "prctl(PR_CAPBSET_DROP)",
            Self::NoNewPrivs => "prctl(PR_SET_NO_NEW_PRIVS)",
        }
    }

    /// The call; `slot` is a place of 64 bytes in the scratch area for this step alone.
    pub(super) fn call(&self, remote: &mut Remote, slot: u64) -> Result<Call> {
        let ids = |ids: &[u32; 3]| ids.map(u64::from);
        let prctl = |args: &[u64]| Call::new(libc::SYS_prctl, args);
        Ok(match self {
            Self::Securebits(bits) => prctl(&[PR_SET_SECUREBITS, u64::from(*bits)]),
            Self::Groups(groups) => {
                let place = remote.put(GROUPS, &halves(groups))?;
                Call::new(libc::SYS_setgroups, &[groups.len() as u64, place])
            }
            Self::Gids(gids) => Call::new(libc::SYS_setresgid, &ids(gids)),
            Self::FsGid(gid) => Call::new(libc::SYS_setfsgid, &[u64::from(*gid)]),
            Self::Uids(uids) => Call::new(libc::SYS_setresuid, &ids(uids)),
            Self::FsUid(uid) => Call::new(libc::SYS_setfsuid, &[u64::from(*uid)]),
            Self::Caps(effective, permitted, inheritable) => {
                let sets = [*effective, *permitted, *inheritable];
                let [e0, p0, i0] = sets.map(low);
                let [e1, p1, i1] = sets.map(high);
                let header = [CAPABILITY_VERSION, 0, e0, p0, i0, e1, p1, i1];
                let place = remote.put(slot, &halves(&header))?;
                Call::new(libc::SYS_capset, &[place, place + 8])
            }
            Self::LowerAmbient(cap) => prctl(&[PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, *cap]),
            Self::RaiseAmbient(cap) => prctl(&[PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, *cap]),
            Self::DropBounding(cap) => prctl(&[PR_CAPBSET_DROP, *cap]),
            Self::NoNewPrivs => prctl(&[PR_SET_NO_NEW_PRIVS, 1]),
        })
    }
}
