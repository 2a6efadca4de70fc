//! What keeps the program from being stopped (Ctrl-Z) while it holds a target: whoever may freeze one is
//! inside meanwhile, and the gate is closed before the program stops. A target that is frozen when its
//! tracer stops would stand still until somebody brings that back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The gate; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// Being inside.
#[derive(Debug)]
pub(crate) struct Inside(Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // A count is right also after a panic: the guard was dropped.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while !until(&state) {
            let woken = self.0.1.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Goes inside, as soon as the gate is open.
    pub(crate) fn enter(&self) -> Inside {
        self.wait(|state| !state.closed).inside += 1;
        Inside(self.clone())
    }

    /// Whether anybody is inside.
    pub(crate) fn is_held(&self) -> bool {
        self.state().inside > 0
    }

    /// Lets nobody in any more, and waits until all have left.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        drop(self.wait(|state| state.inside == 0));
    }

    /// Lets everybody in again.
    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.0.1.notify_all();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.state().inside -= 1;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn it_closes_when_all_have_left_and_lets_nobody_in_until_it_opens() {
        let gate = Gate::default();
        assert!(!gate.is_held());
        let inside = gate.enter();
        assert!(gate.is_held());
        let (said, hears) = channel();
        let (closing, tells) = (gate.clone(), said.clone());
        let closer = thread::spawn(move || {
            closing.close();
            tells.send("closed").unwrap();
        });
        while !gate.state().closed {
            thread::yield_now();
        }
        assert!(hears.try_recv().is_err(), "somebody is inside");
        let late = gate.clone();
        let comer = thread::spawn(move || {
            let _inside = late.enter();
            said.send("entered").unwrap();
        });
        drop(inside);
        closer.join().unwrap();
        assert_eq!(hears.recv(), Ok("closed"));
        assert_eq!(gate.state().inside, 0);
        gate.open();
        comer.join().unwrap();
        assert_eq!(hears.recv(), Ok("entered"));
    }

    #[test]
    fn a_panic_inside_leaves() {
        let gate = Gate::default();
        let entering = gate.clone();
        let panicked = thread::spawn(move || {
            let _inside = entering.enter();
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        gate.close();
    }
}
