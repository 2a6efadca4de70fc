//! How processes get into their sessions when a tree is made again (pure).
//!
//! A session cannot be entered: a process is in the one it is born into until it leads one of its own
//! (setsid(2)). So a child is forked before or after its parent's setsid. What was in neither session
//! of its parent is a *stray*: the process that forked it has ended, and an ancestor that reaps orphans
//! (PR_SET_CHILD_SUBREAPER, prctl(2); init) has become its parent. It is made in the same way: by a
//! go-between in its session that ends. When nobody of the session is there yet, its leader has ended
//! too; then the go-between leads the session, under the leader's pid, which stays the session's
//! number for as long as a member lives.

use std::collections::{BTreeMap, BTreeSet};

use crate::units::Pid;

/// A process as far as its session goes. In lists, parents come before children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The process.
    pub pid: Pid,
    /// Its parent; of the root, anything.
    pub parent: Pid,
    /// Its session.
    pub session: Pid,
}

/// Where a process is forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// By its parent, in the session into which that was born.
    Before,
    /// By its parent, in that one's own session.
    After,
    /// By a go-between.
    Stray,
}

/// A stray, to be made when everything before it in the list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The process.
    pub pid: Pid,
    /// Who shall be its parent.
    pub parent: Pid,
    /// Its session.
    pub session: Pid,
    /// A process of the session that forks the go-between; `None`: the parent does, and the go-between
    /// leads the session.
    pub from: Option<Pid>,
}

/// How each process but the root is born.
pub fn births(tree: &[Kin]) -> BTreeMap<Pid, Birth> {
    let mut births = BTreeMap::new();
    // The session of each process now, and the one into which it was born.
    let mut sessions: BTreeMap<Pid, (Pid, Option<Pid>)> = BTreeMap::new();
    for kin in tree {
        let Some(&(now, born)) = sessions.get(&kin.parent) else {
            // The root: what it leads, it was not born into.
            let born = (kin.session != kin.pid).then_some(kin.session);
            sessions.insert(kin.pid, (kin.session, born));
            continue;
        };
        let (birth, session) = if kin.session == kin.pid || kin.session == now {
            (Birth::After, now)
        } else if Some(kin.session) == born {
            (Birth::Before, kin.session)
        } else {
            (Birth::Stray, kin.session)
        };
        births.insert(kin.pid, birth);
        sessions.insert(kin.pid, (kin.session, Some(session)));
    }
    births
}

/// The strays in the order in which they can be made, and those that cannot be.
pub fn strays(tree: &[Kin]) -> (Vec<Stray>, Vec<Kin>) {
    let births = births(tree);
    let mut left: Vec<Kin> = tree
        .iter()
        .copied()
        .filter(|kin| births.get(&kin.pid) == Some(&Birth::Stray))
        .collect();
    let parents: BTreeMap<Pid, Pid> = tree.iter().map(|kin| (kin.pid, kin.parent)).collect();
    let depth = |pid: Pid| ancestors(&parents, pid).count();
    // A go-between's orphans go up: those of a session that belong further down come first.
    left.sort_by_key(|kin| std::cmp::Reverse(depth(kin.pid)));
    let mut made = Vec::new();
    loop {
        let waiting: BTreeSet<Pid> = left.iter().map(|kin| kin.pid).collect();
        let is_there = |pid: Pid| {
            !waiting.contains(&pid) && !ancestors(&parents, pid).any(|a| waiting.contains(&a))
        };
        let members = |session: Pid| {
            tree.iter()
                .filter(move |kin| kin.session == session)
                .filter(|kin| is_there(kin.pid))
        };
        let next = left.iter().position(|kin| {
            is_there(kin.parent) && {
                let led = tree.iter().any(|other| other.pid == kin.session);
                let below = members(kin.session)
                    .any(|m| ancestors(&parents, m.pid).any(|a| a == kin.parent));
                below || !led && members(kin.session).next().is_none()
            }
        });
        let Some(kin) = next.map(|at| left[at]) else {
            return (made, left);
        };
        let from = members(kin.session)
            .find(|m| ancestors(&parents, m.pid).any(|a| a == kin.parent))
            .map(|m| m.pid);
        made.push(Stray {
            pid: kin.pid,
            parent: kin.parent,
            session: kin.session,
            from,
        });
        left.retain(|other| other.pid != kin.pid);
    }
}

/// Parent, parent's parent, …
fn ancestors(parents: &BTreeMap<Pid, Pid>, of: Pid) -> impl Iterator<Item = Pid> {
    std::iter::successors(parents.get(&of).copied(), |pid| parents.get(pid).copied())
        // A damaged image may go round in circles.
        .take(parents.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kin(all: &[(i32, i32, i32)]) -> Vec<Kin> {
        all.iter()
            .map(|(pid, parent, session)| Kin {
                pid: Pid::from_raw(*pid),
                parent: Pid::from_raw(*parent),
                session: Pid::from_raw(*session),
            })
            .collect()
    }

    fn made(all: &[(i32, i32, i32)]) -> Vec<(i32, Option<i32>)> {
        let (made, left) = strays(&kin(all));
        assert_eq!(left, [], "{all:?}");
        made.iter()
            .map(|s| (s.pid.as_raw(), s.from.map(Pid::as_raw)))
            .collect()
    }

    #[test]
    fn children_of_a_leader_are_born_before_or_after_it_leads() {
        let births = births(&kin(&[
            (2, 1, 2),
            (3, 2, 2),
            (4, 3, 4),
            (5, 4, 2),
            (6, 4, 4),
            (7, 4, 7),
        ]));
        let of = |pid| births.get(&Pid::from_raw(pid)).copied();
        assert_eq!(of(2), None);
        assert_eq!(of(3), Some(Birth::After));
        assert_eq!(of(5), Some(Birth::Before));
        assert_eq!([of(4), of(6), of(7)], [Some(Birth::After); 3]);
    }

    #[test]
    fn members_of_a_session_without_leader_come_from_one_that_leads_it_for_a_while() {
        // 4 led the session and is forgotten; 5 and 6 belong to 2, and 7 to 5.
        assert_eq!(
            made(&[(2, 1, 2), (5, 2, 4), (6, 2, 4), (7, 5, 4)]),
            [(5, None), (6, Some(5))]
        );
    }

    #[test]
    fn members_of_a_session_whose_leader_is_there_come_from_it() {
        assert_eq!(made(&[(2, 1, 2), (3, 2, 3), (5, 2, 3)]), [(5, Some(3))]);
    }

    #[test]
    fn those_further_down_come_first() {
        let tree = [(2, 1, 2), (5, 2, 9), (3, 2, 3), (6, 3, 9)];
        assert_eq!(made(&tree), [(6, None), (5, Some(6))]);
    }

    #[test]
    fn sessions_of_a_process_elsewhere_cannot_be_had() {
        // 3 leads the session but is not below 4.
        let (made, left) = strays(&kin(&[(2, 1, 2), (3, 2, 3), (4, 2, 4), (5, 4, 3)]));
        assert_eq!((made.len(), left.len()), (0, 1));
    }

    proptest! {
        /// Whatever the tree, nothing is made before what it is made from.
        #[test]
        fn each_stray_is_made_of_what_is_there(
            nodes in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..4, any::<proptest::sample::Index>()), 1..20),
        ) {
            let mut tree = vec![(2, 1, 2)];
            for (n, (parent, what, other)) in nodes.iter().enumerate() {
                let pid = i32::try_from(n).unwrap() + 3;
                let parent = tree[parent.index(tree.len())];
                let session = match what {
                    0 => pid,
                    1 => parent.2,
                    2 => tree[other.index(tree.len())].2,
                    _ => 100 + i32::try_from(other.index(3)).unwrap(),
                };
                tree.push((pid, parent.0, session));
            }
            let tree = kin(&tree);
            let parents: BTreeMap<Pid, Pid> = tree.iter().map(|k| (k.pid, k.parent)).collect();
            let births = births(&tree);
            let (made, left) = strays(&tree);
            let all = births.values().filter(|b| **b == Birth::Stray).count();
            prop_assert_eq!(made.len() + left.len(), all);
            let mut there: BTreeSet<Pid> = BTreeSet::new();
            let grow = |there: &mut BTreeSet<Pid>| for k in &tree {
                let stray = births.get(&k.pid) == Some(&Birth::Stray);
                if k.pid == tree[0].pid || !stray && there.contains(&k.parent) {
                    there.insert(k.pid);
                }
            };
            grow(&mut there);
            for stray in made {
                prop_assert!(there.contains(&stray.parent));
                let member = |pid: &Pid| tree.iter().any(|k| k.pid == *pid && k.session == stray.session);
                match stray.from {
                    Some(from) => prop_assert!(
                        there.contains(&from) && member(&from)
                            && ancestors(&parents, from).any(|a| a == stray.parent)
                    ),
                    None => prop_assert!(!there.iter().any(member)),
                }
                there.insert(stray.pid);
                grow(&mut there);
            }
        }
    }
}
