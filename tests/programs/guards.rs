//! Guard pages inside a mapping (`MADV_GUARD_INSTALL`, Linux 6.13): not in /proc/PID/maps, but an
//! access faults.

use crate::desk::{Answer, Desk, Program};
use crate::kernel::{self, PAGE, Region};
use crate::pattern::{check, fill};

/// `MADV_GUARD_INSTALL` of `linux/mman.h`.
const INSTALL: i32 = 102;
/// Pages that are guards.
const GUARDS: std::ops::Range<usize> = 5..8;

struct Guards {
    region: Region,
    /// Not on every kernel.
    shared: Option<Region>,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let region = Region::private(16);
    (0..16).for_each(|page| fill(&region, page, 80 + page as u64));
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let shared = Region::map(16, prot, flags, None, None).unwrap();
    (0..16).for_each(|page| fill(&shared, page, 80 + page as u64));
    let install = |region: &Region| region.part(GUARDS.start, GUARDS.len()).advise(INSTALL);
    install(&region).unwrap();
    // Only private anonymous memory had them at first (Linux 6.13 and 6.14).
    let shared = install(&shared).is_ok().then_some(shared);
    desk.serve(&mut Guards { region, shared });
}

impl Program for Guards {
    fn check(&mut self) -> Answer {
        let all = [Some(&self.region), self.shared.as_ref()];
        all.into_iter().flatten().try_for_each(guarded)?;
        Ok("guards hold".into())
    }
}

/// Only the guards of a region cannot be read.
fn guarded(region: &Region) -> Result<(), String> {
    for page in 0..16 {
        if GUARDS.contains(&page) {
            // The kernel answers EFAULT where we would be killed.
            let address = (region.addr() + page * PAGE) as u64;
            let result = kernel::call(libc::SYS_rt_sigprocmask, [2, address, 0, 8, 0, 0]);
            if result.is_ok() {
                return Err(format!("guard page {page} can be read"));
            }
        } else {
            check("beside guards", region, page, 80 + page as u64)?;
        }
    }
    Ok(())
}
