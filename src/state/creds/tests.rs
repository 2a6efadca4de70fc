//! The plan is run against a small model of what capabilities(7) says about each call.

use proptest::prelude::*;

use super::plan::SECBIT_NO_SETUID_FIXUP;
use super::*;

const SETPCAP: u64 = 1 << 8;
const SETUID: u64 = 1 << 7;
const SETGID: u64 = 1 << 6;
const ALL: u64 = (1 << 41) - 1;

fn root() -> Creds {
    Creds {
        permitted: ALL,
        effective: ALL,
        bounding: ALL,
        ..Creds::default()
    }
}

/// What the kernel does on `step`; `Err` is EPERM.
fn apply(creds: &mut Creds, step: &Step) -> std::result::Result<(), String> {
    let needs = |cap: u64, present: &Creds| {
        if present.effective & cap == 0 {
            Err(format!("EPERM on {step:?}"))
        } else {
            Ok(())
        }
    };
    match step {
        Step::Securebits(bits) => {
            needs(SETPCAP, creds)?;
            creds.securebits = *bits;
        }
        Step::Groups(groups) => {
            needs(SETGID, creds)?;
            creds.groups.clone_from(groups);
        }
        Step::Gids([r, e, s]) => {
            needs(SETGID, creds)?;
            creds.gids = [*r, *e, *s, *e];
        }
        Step::FsGid(id) => {
            needs(SETGID, creds)?;
            creds.gids[3] = *id;
        }
        Step::Uids([r, e, s]) => {
            needs(SETUID, creds)?;
            creds.uids = [*r, *e, *s, *e];
            if creds.securebits & SECBIT_NO_SETUID_FIXUP == 0 && !creds.uids[..3].contains(&0) {
                (creds.permitted, creds.effective, creds.ambient) = (0, 0, 0);
            }
        }
        Step::FsUid(id) => {
            needs(SETUID, creds)?;
            creds.uids[3] = *id;
        }
        Step::Caps(effective, permitted, inheritable) => {
            let may = creds.inheritable | creds.bounding;
            if *inheritable & !may != 0
                || (creds.effective & SETPCAP == 0
                    && *inheritable & !(creds.inheritable | creds.permitted) != 0)
                || *permitted & !creds.permitted != 0
                || *effective & !*permitted != 0
            {
                return Err(format!("EPERM on {step:?}"));
            }
            (creds.effective, creds.permitted) = (*effective, *permitted);
            creds.inheritable = *inheritable;
            creds.ambient &= *permitted & *inheritable;
        }
        Step::LowerAmbient(cap) => creds.ambient &= !(1 << cap),
        Step::RaiseAmbient(cap) => {
            if creds.permitted & creds.inheritable & 1 << cap == 0 {
                return Err(format!("EPERM on {step:?}"));
            }
            creds.ambient |= 1 << cap;
        }
        Step::DropBounding(cap) => {
            needs(SETPCAP, creds)?;
            creds.bounding &= !(1 << cap);
        }
        Step::NoNewPrivs => creds.no_new_privs = true,
    }
    Ok(())
}

fn set() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(ALL), (0u64..=ALL)]
}

prop_compose! {
    /// Credentials that a process can have.
    fn possible()(
        uids in prop_oneof![Just([0; 4]), any::<Ids>()],
        gids in prop_oneof![Just([0; 4]), any::<Ids>()],
        groups in prop::collection::btree_set(any::<u32>(), 0..4),
        (inheritable, permitted, effective, bounding, ambient) in (set(), set(), set(), set(), set()),
        securebits in 0u32..16,
        no_new_privs: bool,
    ) -> Creds {
        Creds {
            uids,
            gids,
            groups: groups.into_iter().collect(),
            inheritable,
            permitted,
            effective: effective & permitted,
            bounding,
            ambient: ambient & permitted & inheritable,
            securebits,
            no_new_privs,
        }
    }
}

proptest! {
    #[test]
    fn root_reaches_any_credentials_and_loses_nothing(wanted in possible()) {
        let mut creds = root();
        let (steps, lost) = plan(&creds, &wanted);
        for step in &steps {
            apply(&mut creds, step).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(creds, wanted);
        prop_assert_eq!(lost, []);
    }

    #[test]
    fn root_that_lacks_capabilities_comes_as_near_as_it_can_and_says_what_is_lost(
        wanted in possible(),
        lacking in set(),
    ) {
        let own = ALL & !lacking | SETPCAP | SETUID | SETGID;
        let mut creds = Creds { permitted: own, effective: own, bounding: own, ..Creds::default() };
        let (steps, lost) = plan(&creds, &wanted);
        for step in &steps {
            apply(&mut creds, step).map_err(TestCaseError::fail)?;
        }
        let lost = |kind| lost.iter().find(|(k, _)| *k == kind).map_or(0, |(_, set)| *set);
        prop_assert_eq!(creds.bounding | lost("bounding"), wanted.bounding);
        prop_assert_eq!(creds.permitted | lost("permitted"), wanted.permitted);
        prop_assert_eq!(creds.effective | lost("effective"), wanted.effective);
        prop_assert_eq!(creds.inheritable | lost("inheritable"), wanted.inheritable);
        prop_assert_eq!(creds.ambient | lost("ambient"), wanted.ambient);
        prop_assert_eq!((creds.uids, creds.gids), (wanted.uids, wanted.gids));
        prop_assert_eq!(lost("permitted") & own, 0);
    }

    #[test]
    fn credentials_that_are_already_there_need_no_step(present in possible()) {
        let (steps, lost) = plan(&present, &present);
        prop_assert_eq!(steps, []);
        prop_assert_eq!(lost, []);
    }

    #[test]
    fn credentials_survive_the_way_through_the_image(creds in possible()) {
        prop_assert_eq!(Creds::from(&CredsEntry::from(&creds)), creds);
    }
}

#[test]
fn an_unprivileged_thread_with_our_own_ids_only_drops() {
    let present = Creds {
        uids: [7; 4],
        gids: [8; 4],
        bounding: ALL,
        ..Creds::default()
    };
    let wanted = Creds {
        no_new_privs: true,
        ..present.clone()
    };
    assert_eq!(plan(&present, &wanted).0, [Step::NoNewPrivs]);
}
