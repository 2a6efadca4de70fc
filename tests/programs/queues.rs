//! Semaphores and message queues of System V of a parent and a child, and a grandchild that waits for a
//! semaphore. The ids are in the files `sets` and `queues`.

use std::fs;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, call_with, child};

const CREATE: u64 = (libc::IPC_CREAT | libc::IPC_EXCL | 0o640) as u64;
const NOWAIT: u64 = libc::IPC_NOWAIT as u64;
const GETVAL: u64 = libc::GETVAL as u64;
const GETPID: u64 = libc::GETPID as u64;

struct Queues {
    /// With a key, and one that the grandchild waits for.
    sets: [u64; 2],
    /// With messages, and an empty one.
    queues: [u64; 2],
    child: u64,
    /// Value of the first semaphore, and what the last message says.
    number: u64,
    /// Without what CRIU cannot do: who used them last, and a process that waits.
    modest: bool,
}

fn get(number: i64, args: &[u64]) -> u64 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    call(number, all).unwrap().cast_unsigned()
}

fn set_value(set: u64, index: u64, value: u64) {
    get(libc::SYS_semctl, &[set, index, libc::SETVAL as u64, value]);
}

fn change(set: u64, index: u16, by: i16) {
    let mut operation = [index, by.cast_unsigned(), 0];
    call_with(libc::SYS_semop, &[set], &mut operation, &[1]).unwrap();
}

/// A message: its type and 56 bytes.
fn send(queue: u64, kind: u64, word: u64) {
    let mut message = [kind, word, word, word, word, word, word, word];
    call_with(libc::SYS_msgsnd, &[queue], &mut message, &[56, NOWAIT]).unwrap();
}

fn receive(queue: u64) -> Result<[u64; 8], String> {
    let mut message = [0; 8];
    let after = [56, 0, NOWAIT];
    match call_with(libc::SYS_msgrcv, &[queue], &mut message, &after) {
        Ok(56) => Ok(message),
        Ok(n) => Err(format!("a message of {n} bytes")),
        Err(e) => Err(e.to_string()),
    }
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, args: &[String]) {
    let key = desk.key();
    let sets = [
        get(libc::SYS_semget, &[key, 3, CREATE]),
        get(libc::SYS_semget, &[0, 1, CREATE]),
    ];
    let queues = [
        get(libc::SYS_msgget, &[key, CREATE]),
        get(libc::SYS_msgget, &[0, CREATE]),
    ];
    let text = |ids: [u64; 2]| format!("{} {}", ids[0], ids[1]);
    fs::write(desk.dir().join("sets"), text(sets)).unwrap();
    fs::write(desk.dir().join("queues"), text(queues)).unwrap();
    set_value(sets[0], 0, 1);
    set_value(sets[1], 0, 0);
    send(queues[0], 8, 8);
    receive(queues[0]).unwrap();
    for (kind, word) in [(3, 33), (1, 11), (9, 1)] {
        send(queues[0], kind, word);
    }
    send(queues[1], 5, 5);
    let modest = args.iter().any(|arg| arg == "modest");
    let mut state = Queues {
        sets,
        queues,
        child: 0,
        number: 1,
        modest,
    };
    let child = child(|| {
        set_value(sets[0], 2, 32000);
        receive(queues[1]).unwrap();
        // CRIU interrupts it.
        if !modest {
            child(|| {
                loop {
                    change(sets[1], 0, -1);
                }
            });
        }
        state.child = std::process::id().into();
        desk.beside("child").serve(&mut state);
    });
    state.child = child.as_raw().unsigned_abs().into();
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Queues {
    fn semaphore(&self, index: u64, what: u64) -> u64 {
        get(libc::SYS_semctl, &[self.sets[0], index, what])
    }
}

/// Row of an object in a table of the kernel.
fn row(table: &str, id: u64) -> Result<Vec<String>, String> {
    let table = fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap();
    let mut rows = table.lines().skip(1).map(|line| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let found = rows.find(|row| row[1] == id.to_string());
    found.ok_or(format!("{id} is gone"))
}

impl Program for Queues {
    fn check(&mut self) -> Answer {
        let values = [0, 1, 2].map(|index| self.semaphore(index, GETVAL));
        same("values", &values, &[self.number, 0, 32000])?;
        let main = match u64::from(std::process::id()) == self.child {
            true => std::os::unix::process::parent_id(),
            false => std::process::id(),
        };
        let pids = [0, 1, 2].map(|index| self.semaphore(index, GETPID));
        if !self.modest {
            same("who changed them", &pids, &[main.into(), 0, self.child])?;
        }
        // It may still be on its way there.
        let waits = || get(libc::SYS_semctl, &[self.sets[1], 0, libc::GETNCNT as u64]);
        while !self.modest && waits() != 1 {
            std::thread::yield_now();
        }
        let set = row("sem", self.sets[0])?;
        same("permissions", &set[2].as_str(), &"640")?;
        for (index, count, users) in [
            (0, 3, [u64::from(main); 2]),
            (1, 0, [main.into(), self.child]),
        ] {
            let queue = row("msg", self.queues[index])?;
            let mut is = [&queue[4], &queue[5], &queue[6]].map(|word| word.parse::<u64>().unwrap());
            if self.modest {
                is = [is[0], users[0], users[1]];
            }
            same("queue", &is, &[count, users[0], users[1]])?;
        }
        Ok(format!("number {}", self.number))
    }

    /// `put N` changes the number, `expect N` says that the other one did, `messages` takes all of them
    /// and sends them again, `post` lets the grandchild go on.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["put", number] => {
                self.number = number.parse().map_err(|_| "not a number")?;
                set_value(self.sets[0], 0, self.number);
                let before = [receive(self.queues[0])?, receive(self.queues[0])?];
                receive(self.queues[0])?;
                for message in before {
                    send(self.queues[0], message[0], message[1]);
                }
                send(self.queues[0], 9, self.number);
            }
            ["expect", number] => self.number = number.parse().map_err(|_| "not a number")?,
            ["messages"] => {
                for (kind, word) in [(3, 33), (1, 11), (9, self.number)] {
                    let message = receive(self.queues[0])?;
                    same(
                        "message",
                        &message,
                        &[kind, word, word, word, word, word, word, word],
                    )?;
                    send(self.queues[0], kind, word);
                }
            }
            ["post"] => {
                change(self.sets[1], 0, 1);
                while get(libc::SYS_semctl, &[self.sets[1], 0, GETVAL]) != 0 {
                    std::thread::yield_now();
                }
            }
            _ => return Err("put N | expect N | messages | post".into()),
        }
        Ok(String::new())
    }
}
