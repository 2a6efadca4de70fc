//! Threads: two that never leave the CPU and check every register, one that waits for a lock, one
//! that sleeps; each with its own name, signal mask, thread-local value and gs base.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{self, bit};
use crate::registers;
use crate::sleepers::nap;

thread_local!(static OWN: Cell<u64> = const { Cell::new(0) });

/// What one thread tells the others.
#[derive(Default)]
struct Told {
    ticks: AtomicU64,
    wrong: Mutex<Option<String>>,
}

struct Threads {
    told: Vec<Arc<Told>>,
    lock: Arc<(Mutex<u64>, Condvar)>,
}

/// What is a thread's own.
struct Own {
    number: u64,
    tid: i32,
    name: String,
    mask: u64,
    gs: u64,
}

impl Own {
    fn new(number: u64) -> Self {
        OWN.set(number * 11);
        let mask = bit(libc::SIGUSR2) | bit(libc::SIGRTMIN() + i32::try_from(number).unwrap());
        kernel::mask(Some(mask));
        let gs = 0x1000_0000 * (number + 1);
        kernel::call(libc::SYS_arch_prctl, [0x1001, gs, 0, 0, 0, 0]).unwrap();
        Self {
            number,
            tid: nix::unistd::gettid().as_raw(),
            name: format!("worker-{number}"),
            mask,
            gs,
        }
    }

    fn check(&self) -> Result<(), String> {
        same("thread-local value", &OWN.get(), &(self.number * 11))?;
        same("tid", &nix::unistd::gettid().as_raw(), &self.tid)?;
        same("mask", &kernel::mask(None), &self.mask)?;
        let mut gs = 0u64;
        kernel::call_with(libc::SYS_arch_prctl, &[0x1004], &mut gs, &[]).unwrap();
        same("gs base", &gs, &self.gs)?;
        let mut name = [0u8; 16];
        kernel::call_with(libc::SYS_prctl, &[16], &mut name, &[]).unwrap();
        let name = String::from_utf8_lossy(&name);
        same("name", &name.trim_end_matches('\0'), &self.name.as_str())
    }
}

/// Builds it and serves. Argument `patient`: sleeps may be interrupted.
pub fn run(mut desk: Desk, args: &[String]) {
    let patient = args.iter().any(|a| a == "patient");
    let lock = Arc::new((Mutex::new(0), Condvar::new()));
    let mut told = Vec::new();
    for number in 0..4u64 {
        let (mine, lock) = (Arc::new(Told::default()), Arc::clone(&lock));
        told.push(Arc::clone(&mine));
        let body = move || work(number, &mine, &lock, patient);
        let name = format!("worker-{number}");
        thread::Builder::new().name(name).spawn(body).unwrap();
    }
    desk.serve(&mut Threads { told, lock });
}

/// A thread: works, checks, counts; stops at the first thing that is wrong.
fn work(number: u64, told: &Told, lock: &(Mutex<u64>, Condvar), patient: bool) {
    let own = Own::new(number);
    let nap =
        |ms| nap(Duration::from_millis(ms)).or_else(|e| if patient { Ok(()) } else { Err(e) });
    let result = loop {
        let worked = match number {
            0 | 1 => registers::hold(0x0123_4567_89ab_cdef + number).and_then(|()| nap(3)),
            2 => {
                // Until somebody asks.
                let asked = lock.0.lock().unwrap();
                drop(lock.1.wait(asked).unwrap());
                Ok(())
            }
            _ => nap(30),
        };
        if let Err(wrong) = worked.and_then(|()| own.check()) {
            break wrong;
        }
        told.ticks.fetch_add(1, Ordering::SeqCst);
    };
    *told.wrong.lock().unwrap() = Some(result);
}

impl Program for Threads {
    fn check(&mut self) -> Answer {
        let count = |told: &[Arc<Told>]| -> Vec<u64> {
            told.iter()
                .map(|t| t.ticks.load(Ordering::SeqCst))
                .collect()
        };
        let before = count(&self.told);
        for _ in 0..1000 {
            for told in &self.told {
                if let Some(wrong) = &*told.wrong.lock().unwrap() {
                    return Err(wrong.clone());
                }
            }
            self.lock.1.notify_all();
            let now = count(&self.told);
            if now
                .iter()
                .zip(&before)
                .all(|(now, before)| *now > before + 1)
            {
                return Ok(format!("ticks {now:?}"));
            }
            nap(Duration::from_millis(10))?;
        }
        Err(format!(
            "a thread stands still: {before:?}, {:?}",
            count(&self.told)
        ))
    }
}
