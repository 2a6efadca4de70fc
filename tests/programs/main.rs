//! `specimen`: the processes that tests checkpoint. `specimen KIND DIR` builds the state of its kind
//! and then answers questions that come through a FIFO in `DIR` (see `desk`): `check` compares
//! everything it has with what it should have.
//!
//! A new kind is one file and one line in [`KINDS`]. Raw system calls are in `kernel` only.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::map_err_ignore,
    reason = "a specimen that cannot build its state is no specimen: the test must fail"
)]
#![expect(unreachable_pub, reason = "a program has no outside")]

mod aio;
mod clocks;
mod commons;
mod confined;
mod creds;
mod descriptors;
mod desk;
mod dispatch;
mod events;
mod family;
mod guards;
mod holder;
mod huge;
mod internet;
mod kernel;
mod knots;
mod locks;
mod memory;
mod nameless;
mod namespaces;
mod options;
mod owners;
mod packets;
mod pattern;
mod pidfds;
mod pipes;
mod places;
mod polls;
mod posix;
mod queues;
mod raw;
mod reaper;
mod registers;
mod sessions;
mod settings;
mod shared;
mod signals;
mod sleepers;
mod sockets;
mod stops;
mod surroundings;
mod sysv;
mod terminals;
mod threads;
mod tiles;
mod timers;
mod tree;
mod tuned;
mod watches;
mod writer;

use std::path::Path;

use desk::Desk;

/// What a kind does: builds its state, then serves at its desk for ever.
type Kind = fn(Desk, &[String]);

/// All kinds.
const KINDS: &[(&str, Kind)] = &[
    ("aio", aio::run),
    ("clocks", clocks::run),
    ("commons", commons::run),
    ("confined", confined::run),
    ("creds", creds::run),
    ("descriptors", descriptors::run),
    ("dispatch", dispatch::run),
    ("events", events::run),
    ("family", family::run),
    ("guards", guards::run),
    ("holder", holder::run),
    ("huge", huge::run),
    ("internet", internet::run),
    ("knots", knots::run),
    ("locks", locks::run),
    ("memory", memory::run),
    ("namespaces", namespaces::run),
    ("nameless", nameless::run),
    ("pidfds", pidfds::run),
    ("owners", owners::run),
    ("packets", packets::run),
    ("pipes", pipes::run),
    ("places", places::run),
    ("polls", polls::run),
    ("posix", posix::run),
    ("queues", queues::run),
    ("raw", raw::run),
    ("sessions", sessions::run),
    ("shared", shared::run),
    ("signals", signals::run),
    ("settings", settings::run),
    ("sleepers", sleepers::run),
    ("sockets", sockets::run),
    ("stops", stops::run),
    ("surroundings", surroundings::run),
    ("sysv", sysv::run),
    ("terminals", terminals::run),
    ("threads", threads::run),
    ("tiles", tiles::run),
    ("timers", timers::run),
    ("tree", tree::run),
    ("tuned", tuned::run),
    ("watches", watches::run),
    ("writer", writer::run),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [kind] if kind == "reaper" => reaper::run(),
        [kind, dir, rest @ ..] => {
            let (_, run) = KINDS
                .iter()
                .find(|(name, _)| name == kind)
                .expect("the first argument is a kind of specimen");
            run(Desk::open(Path::new(dir), "main"), rest);
        }
        _ => println!("usage: specimen reaper | specimen KIND DIR [ARGS]"),
    }
}
