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
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let region = Region::private(16);
    (0..16).for_each(|page| fill(&region, page, 80 + page as u64));
    region
        .part(GUARDS.start, GUARDS.len())
        .advise(INSTALL)
        .unwrap();
    desk.serve(&mut Guards { region });
}

impl Program for Guards {
    fn check(&mut self) -> Answer {
        for page in 0..16 {
            if GUARDS.contains(&page) {
                // The kernel answers EFAULT where we would be killed.
                let address = (self.region.addr() + page * PAGE) as u64;
                let result = kernel::call(libc::SYS_rt_sigprocmask, [2, address, 0, 8, 0, 0]);
                if result.is_ok() {
                    return Err(format!("guard page {page} can be read"));
                }
            } else {
                check("beside guards", &self.region, page, 80 + page as u64)?;
            }
        }
        Ok("guards hold".into())
    }
}
