//! The integration tests, one binary: a module per theme. Each privileged test runs its targets in
//! a pid namespace of its own (see `support::sandbox`), so all of them may run at the same time.
#![cfg(test)]
#![expect(clippy::print_stderr, reason = "a test says what it did")]
#![expect(unreachable_pub, reason = "a test program has no outside")]

mod apart;
mod architecture;
mod auto;
mod busy;
mod clients;
mod commands;
mod concurrency;
mod crash;
mod damage;
mod dedup;
mod dedup_faults;
mod demo;
mod dump_restore;
mod edit;
mod errors;
mod family;
mod faults;
mod files;
mod golden;
mod huge;
mod inspect;
mod interop;
mod keeper;
mod layers;
mod locks;
mod matrix;
mod namespaces;
mod network;
mod nsfs;
mod passing;
mod pidfds;
mod places;
mod postgres;
mod powercut;
mod programs;
mod python;
mod saved_files;
mod schema;
mod sequences;
mod servers;
mod sockets;
mod specimens;
mod stack;
mod support;
mod sysv;
mod terminals;
mod track;
mod tui;
mod unprivileged;
mod unsupported;
mod watches;
