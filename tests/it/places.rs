//! Files of the tree's own processes, places without contents, and who is told about a file: from
//! every layer.

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, require};

#[test]
fn files_of_its_own_processes_and_places_come_back_from_every_layer() {
    every_layer_comes_back("places", &[], "", &["child"]);
}

#[test]
fn who_is_told_about_a_file_comes_back_from_every_layer() {
    every_layer_comes_back("owners", &[], "", &[]);
}

#[test]
fn a_file_of_a_process_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("places", &[]);
    let child = *target.members().last().unwrap();
    let run = sandbox.icecore(&format!("dump -t {child} -D 1")).fails(5);
    let words = format!(
        "/proc/{}/maps, a file of a process that is not in the tree",
        target.pid
    );
    assert!(run.stderr.contains(&words), "{}", run.stderr);
    target.runs();
    target.check();
}
