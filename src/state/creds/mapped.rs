//! Ids that a user namespace knows (user_namespaces(7)): the others cannot be restored in it.

use std::fs;

use super::Creds;

/// What of `wanted` the user namespace with these maps does not know, besides `own`, the present user and
/// group, which a restored process has anyway.
pub(super) fn unknown(
    wanted: &Creds,
    [uid_map, gid_map]: [&str; 2],
    [uid, gid]: [u32; 2],
) -> Vec<(&'static str, u32)> {
    let of = |what, ids: &[u32], map: &str, own| -> Vec<(&'static str, u32)> {
        let mut ids: Vec<u32> = ids.iter().copied().filter(|id| *id != own).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !knows(map, *id));
        ids.into_iter().map(|id| (what, id)).collect()
    };
    let users = of("user", &wanted.uids, uid_map, uid);
    [users, of("group", &wanted.gids, gid_map, gid)].concat()
}

/// Whether `/proc/PID/uid_map` or `gid_map` has an id: lines of first id inside, first outside, how many.
fn knows(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// Nobody in our user namespace may choose groups (`/proc/self/setgroups`).
pub(super) fn groups_are_fixed() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_or_ours_is_known() {
        let wanted = Creds {
            uids: [0, 1000, 70_000, 0],
            gids: [5, 5, 100, 5],
            ..Creds::default()
        };
        let everybody = "         0          0 4294967295\n";
        let maps = ["  1000 1000 1\n 0 100000 65536\n", everybody];
        assert_eq!(unknown(&wanted, maps, [7, 7]), [("user", 70_000)]);
        assert_eq!(unknown(&wanted, maps, [70_000, 7]), []);
        let narrow = ["0 0 4294967295", "5 1005 1"];
        assert_eq!(unknown(&wanted, narrow, [7, 7]), [("group", 100)]);
    }
}
