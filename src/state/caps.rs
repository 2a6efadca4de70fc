//! Names of capabilities (capabilities(7)), for messages.

const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The members of a set, low to high.
pub(super) fn members(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |cap| set & 1 << cap != 0)
}

/// The set in words, e.g. `cap_kill, cap_sys_resource`.
pub(super) fn names(set: u64) -> String {
    let name = |cap: u64| match usize::try_from(cap).ok().and_then(|c| NAMES.get(c)) {
        Some(name) => format!("cap_{name}"),
        None => format!("capability {cap}"),
    };
    members(set).map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_named_by_its_members() {
        assert_eq!(
            names(1 << 5 | 1 << 24 | 1 << 40 | 1 << 50),
            "cap_kill, cap_sys_resource, cap_checkpoint_restore, capability 50"
        );
        assert_eq!(names(0), "");
    }
}
