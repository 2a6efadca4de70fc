//! What we may do: user, capabilities (capabilities(7)), Yama's rule on tracing, user namespace.

use std::fs;

use procfs::process::Process;

use super::{Area, Finding, State};
use crate::error::{Error, Result};

/// Our rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user.
    pub uid: u32,
    /// Effective capabilities, bit `n` for capability `n`.
    pub effective: u64,
    /// Yama's `kernel.yama.ptrace_scope`; `None` where there is no Yama.
    pub ptrace_scope: Option<u8>,
    /// True outside of the first user namespace: capabilities do not hold for all of the machine.
    pub in_user_namespace: bool,
}

/// A capability, what it is needed for, and what is lost without it.
#[derive(Debug)]
struct Right {
    /// Numbers and names; one of them is enough.
    any: &'static [(u8, &'static str)],
    needed_for: &'static str,
    without: State,
    consequence: &'static str,
}

const CHECKPOINT_RESTORE: (u8, &str) = (40, "CAP_CHECKPOINT_RESTORE");
const SYS_ADMIN: (u8, &str) = (21, "CAP_SYS_ADMIN");
const SYS_PTRACE: (u8, &str) = (19, "CAP_SYS_PTRACE");

/// All rights, the most needed first.
static RIGHTS: &[Right] = &[
    Right {
        any: &[CHECKPOINT_RESTORE, SYS_ADMIN],
        needed_for: "restoring with the same pids, dumping deleted files that are mapped",
        without: State::Missing,
        consequence: "processes of your own can be dumped, nothing can be restored",
    },
    Right {
        any: &[SYS_PTRACE],
        needed_for: "dumping processes of other users",
        without: State::Limited,
        consequence: "only processes of your own, without special rights, can be dumped",
    },
    Right {
        any: &[(7, "CAP_SETUID")],
        needed_for: "restoring processes of other users",
        without: State::Limited,
        consequence: "only processes of your own user can be restored",
    },
    Right {
        any: &[(6, "CAP_SETGID")],
        needed_for: "restoring group ids",
        without: State::Limited,
        consequence: "only processes with your own groups can be restored",
    },
    Right {
        any: &[(8, "CAP_SETPCAP")],
        needed_for: "restoring bounding sets and secure bits",
        without: State::Limited,
        consequence: "processes with reduced capabilities cannot be restored exactly",
    },
    Right {
        any: &[(1, "CAP_DAC_OVERRIDE")],
        needed_for: "opening files of other users again",
        without: State::Limited,
        consequence: "processes whose files you may not open cannot be restored",
    },
    Right {
        any: &[(18, "CAP_SYS_CHROOT")],
        needed_for: "restoring root directories",
        without: State::Limited,
        consequence: "processes with a root directory of their own cannot be restored",
    },
    Right {
        any: &[(23, "CAP_SYS_NICE")],
        needed_for: "restoring priorities",
        without: State::Limited,
        consequence: "nice values below 0 and real-time policies do not come back",
    },
    Right {
        any: &[(24, "CAP_SYS_RESOURCE")],
        needed_for: "restoring limits",
        without: State::Limited,
        consequence: "hard limits above our own and lowered OOM scores do not come back",
    },
];

impl Privileges {
    /// Reads them from `/proc`.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn read() -> Result<Self> {
        let cannot =
            |e| Error::new(crate::Kind::Unsupported, "Cannot read /proc/self/status").because(e);
        let status = Process::myself().and_then(|p| p.status()).map_err(cannot)?;
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Ok(Self {
            uid: status.euid,
            effective: status.capeff,
            ptrace_scope: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            in_user_namespace: !maps_everybody(&uid_map),
        })
    }

    /// Whether the capability with this number is effective.
    pub fn has(&self, capability: u8) -> bool {
        self.effective.checked_shr(capability.into()).unwrap_or(0) & 1 == 1
    }

    /// Whether new processes may get ids of our choice, as far as capabilities tell.
    pub fn may_choose_ids(&self) -> bool {
        self.has(CHECKPOINT_RESTORE.0) || self.has(SYS_ADMIN.0)
    }

    /// Whether namespaces may be made.
    pub fn may_make_namespaces(&self) -> bool {
        self.has(SYS_ADMIN.0)
    }

    /// What they allow.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<_> = RIGHTS.iter().map(|right| self.judge(right)).collect();
        findings.extend(self.yama());
        if self.in_user_namespace {
            findings.push(
                Finding::ok(Area::Rights, "user namespace", "not the first one").but(
                    State::Limited,
                    "rights hold only for what belongs to this user namespace: mapped files are found by their path",
                    "run icecore outside of the container",
                ),
            );
        }
        findings
    }

    fn judge(&self, right: &Right) -> Finding {
        let names: Vec<_> = right.any.iter().map(|(_, name)| *name).collect();
        let held = right.any.iter().find(|(number, _)| self.has(*number));
        let finding = Finding::ok(
            Area::Rights,
            right.needed_for,
            format!("no {}", names.join(" or ")),
        );
        let fix = if self.uid == 0 {
            "this root was given less than all capabilities: start icecore where nothing takes them away (container, systemd unit)"
        } else {
            "run icecore as root (sudo icecore …)"
        };
        match held {
            Some((_, name)) => Finding::ok(Area::Rights, right.needed_for, *name),
            None => finding.but(right.without, right.consequence, fix),
        }
    }

    /// Yama limits tracing further (Documentation/admin-guide/LSM/Yama.rst).
    fn yama(&self) -> Option<Finding> {
        let scope = self.ptrace_scope?;
        let finding = Finding::ok(
            Area::Rights,
            "Yama",
            format!("kernel.yama.ptrace_scope = {scope}"),
        );
        Some(match scope {
            3.. => finding.but(
                State::Missing,
                "nobody may trace: nothing can be dumped",
                "boot with another kernel.yama.ptrace_scope (it cannot be lowered from 3)",
            ),
            1 | 2 if !self.has(SYS_PTRACE.0) => finding.but(
                State::Limited,
                if scope == 1 {
                    "only our own descendants can be dumped"
                } else {
                    "nothing can be dumped without CAP_SYS_PTRACE"
                },
                "run icecore as root, or: sysctl kernel.yama.ptrace_scope=0",
            ),
            _ => finding,
        })
    }
}

/// What our rights allow; a finding of its own when they cannot be read.
pub fn findings() -> Vec<Finding> {
    match Privileges::read() {
        Ok(privileges) => privileges.findings(),
        Err(e) => vec![Finding::ok(Area::Rights, "/proc", e.one_line()).but(
            State::Missing,
            "nothing can be dumped or restored",
            "mount -t proc proc /proc",
        )],
    }
}

/// The first user namespace maps each user to itself.
fn maps_everybody(uid_map: &str) -> bool {
    let words: Vec<_> = uid_map.split_whitespace().collect();
    words == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(effective: u64) -> Privileges {
        Privileges {
            uid: 1000,
            effective,
            ptrace_scope: None,
            in_user_namespace: false,
        }
    }

    fn worst(privileges: &Privileges) -> State {
        let states = privileges.findings().into_iter().map(|f| f.state);
        states.max().unwrap_or(State::Ok)
    }

    #[test]
    fn all_capabilities_are_enough_and_none_are_not() {
        assert_eq!(worst(&with(u64::MAX)), State::Ok);
        assert_eq!(worst(&with(0)), State::Missing);
    }

    #[test]
    fn either_of_two_capabilities_is_enough() {
        for number in [40, 21] {
            assert_eq!(worst(&with(1 << number)), State::Limited, "{number}");
        }
    }

    #[test]
    fn root_without_sys_resource_is_limited_and_told_so() {
        let found = with(!(1 << 24)).findings();
        let odd: Vec<_> = found.iter().filter(|f| f.state != State::Ok).collect();
        assert_eq!(odd.len(), 1, "{odd:?}");
        assert_eq!(odd[0].found, "no CAP_SYS_RESOURCE");
    }

    #[test]
    fn yama_matters_only_without_the_right_to_trace() {
        let mut privileges = with(u64::MAX);
        for (scope, all, none) in [
            (0, State::Ok, State::Ok),
            (1, State::Ok, State::Limited),
            (2, State::Ok, State::Limited),
            (3, State::Missing, State::Missing),
        ] {
            privileges.ptrace_scope = Some(scope);
            privileges.effective = u64::MAX;
            assert_eq!(privileges.yama().map(|f| f.state), Some(all), "{scope}");
            privileges.effective = 0;
            assert_eq!(privileges.yama().map(|f| f.state), Some(none), "{scope}");
        }
    }

    #[test]
    fn a_container_is_no_first_user_namespace() {
        assert!(maps_everybody("         0          0 4294967295\n"));
        assert!(!maps_everybody("0 100000 65536\n"));
        assert!(!maps_everybody(""));
    }

    #[test]
    fn our_own_rights_can_be_read() {
        let privileges = Privileges::read().unwrap();
        assert_eq!(privileges.uid, nix::unistd::geteuid().as_raw());
    }
}
