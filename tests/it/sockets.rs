//! Sockets: they come back from every layer with what was under way; where that is not possible, the
//! target goes on undisturbed.

use crate::support::{Need, Sandbox, assert_same_portrait, criu_of_internet, portrait, require};

#[test]
fn unix_sockets_come_back_from_every_layer_with_what_was_under_way() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sockets", &[]);
    target.check();
    let pids = target.members();
    let dump = |words: &str| {
        sandbox
            .icecore(&format!("dump -t {} {words}", target.pid))
            .ok();
    };
    dump("-D 1 -R --track-mem");
    target.check();
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.check();
    dump("-D 3 --track-mem --prev-images-dir ../2");
    sandbox.wait_gone(&pids);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        target.check();
        target.ask_at("child", "check");
        target.ask("names");
        target.ask_at("child", "drain");
        sandbox.kill(&target);
    }
}

#[test]
fn sockets_under_way_in_each_other_and_packets_of_a_closed_end_come_back_from_every_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("knots", &[]);
    for (layer, words) in [
        (1, "-R"),
        (2, "-R --prev-images-dir ../1"),
        (3, "--prev-images-dir ../2"),
    ] {
        let words = format!("dump -t {} -D {layer} --track-mem {words}", target.pid);
        sandbox.icecore(&words).ok();
        if layer < 3 {
            target.check();
        }
    }
    sandbox.wait_gone(&[target.pid]);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        target.ask("drain");
        sandbox.kill(&target);
    }
}

/// A program that is tied to another one by a socket at `other`; words of the obstacle, and options
/// that allow it.
fn tied(server: &str, what: &str, words: &[&str], option: Option<&str>) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let dir = sandbox.path("server");
    std::fs::create_dir(&dir).unwrap();
    let specimen = env!("CARGO_BIN_EXE_specimen");
    let dir = dir.to_str().unwrap().to_owned();
    let pid = sandbox.start("server.log", &[specimen, "holder", &dir, server]);
    let other = sandbox.path("other");
    crate::support::wait_until("the server is there", || other.exists().then_some(()));
    let target = sandbox.specimen("holder", &[what]);
    let before = portrait(&target);
    for mode in ["", "-R", "--dry-run"] {
        let words = format!("dump -t {} -D 1 {mode}", target.pid);
        let run = sandbox.icecore(&words).fails(5);
        for word in [
            &format!("specimen (pid {pid})")[..],
            "descriptor 4",
            "try: ",
        ] {
            assert!(run.stderr.contains(word), "no {word} in: {}", run.stderr);
        }
        target.runs();
        assert!(!sandbox.path("1").exists());
    }
    assert_same_portrait(what, &before, &portrait(&target));
    let run = sandbox.icecore(&format!("dump -t {} -D 1", target.pid));
    for word in words {
        assert!(run.stderr.contains(word), "no {word} in: {}", run.stderr);
    }
    let Some(option) = option else { return };
    sandbox
        .icecore(&format!("dump -t {} -D 1 {option}", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.runs();
    assert_eq!(target.check(), "1");
}

#[test]
fn a_connection_with_a_process_outside_of_the_tree_is_an_obstacle_by_its_name() {
    tied("server", "tied-socket", &["common ancestor", "other"], None);
}

#[test]
fn a_datagram_socket_is_connected_again_by_name_when_that_is_allowed() {
    tied(
        "syslog",
        "tied-datagrams",
        &["--ext-unix-sk"],
        Some("--ext-unix-sk"),
    );
}

#[test]
fn a_socket_whose_name_is_taken_is_an_obstacle_before_anything_is_made() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sockets", &[]);
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    let taken = std::os::unix::net::UnixDatagram::bind_addr(&{
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("icecore-specimen-{}", sandbox.path("sockets").display());
        std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
    });
    let run = sandbox.icecore("restore -D 1 -d").fails(7);
    assert!(run.stderr.contains("is in use"), "{}", run.stderr);
    drop(taken);
    sandbox.icecore("restore -D 1 -d").ok();
    target.ask("drain");
}

#[test]
fn internet_sockets_come_back_from_every_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &[]);
    let pids = target.members();
    let dump = |words: &str| {
        let words = format!("dump -t {} {words}", target.pid);
        sandbox.icecore(&words).ok();
    };
    dump("-D 1 -R --track-mem");
    target.check();
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    dump("-D 3 --track-mem --prev-images-dir ../2");
    sandbox.wait_gone(&pids);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        target.check();
        target.ask_at("child", "talk");
        sandbox.kill(&target);
    }
}

#[test]
fn raw_sockets_and_filters_come_back_from_every_layer() {
    if !require(&[Need::Root, Need::Program("ip")]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    let target = sandbox.specimen("raw", &["ping"]);
    let dump = |words: &str| {
        let words = format!("dump -t {} {words}", target.pid);
        sandbox.icecore(&words).ok();
    };
    dump("-D 1 -R --track-mem");
    target.check();
    target.ask("talk");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.ask("leave");
    let run = sandbox.icecore(&format!("dump -t {} -D 3 --dry-run", target.pid));
    let lost = "has an internet socket with something to be received";
    assert!(run.ok().stdout.contains(lost));
    let words = "-D 3 --track-mem --prev-images-dir ../2";
    let run = sandbox.icecore(&format!("dump -t {} {words}", target.pid));
    let run = run.ok();
    let lost = "Datagrams wait in raw ICMP socket 127.0.0.1";
    assert!(run.stdout.contains(lost), "{}", run.stdout);
    sandbox.wait_gone(&[target.pid]);
    let range = "/proc/sys/net/ipv4/ping_group_range";
    let forbid = format!("echo 1 0 > {range}");
    sandbox.sh(&forbid);
    let run = sandbox.icecore("restore -D 1 -d").fails(6);
    assert!(run.stderr.contains("ping_group_range"), "{}", run.stderr);
    let permit = format!("echo 0 100 > {range}");
    sandbox.sh(&permit);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        target.check();
        target.ask("all");
        target.ask("talk");
        sandbox.kill(&target);
    }
}

#[test]
fn packet_sockets_come_back_from_every_layer_and_find_their_interfaces_by_name() {
    if !require(&[Need::Root, Need::Program("ip")]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    let pair = "ip link add near type veth peer name far && ip link set near up && \
                ip link set far up";
    sandbox.sh(pair);
    let members = |sandbox: &Sandbox| {
        let (link, groups) = ("ip -d link show lo", "ip maddr show dev lo");
        sandbox.sh(&format!(
            "{link} | grep -o 'promiscuity [0-9]*'; {groups} | grep 5e:01"
        ))
    };
    let target = sandbox.specimen("packets", &["near"]);
    let before = members(&sandbox);
    assert!(
        before.contains("promiscuity 1") && before.contains("link"),
        "{before}"
    );
    let dump = |words: &str| {
        let words = format!("dump -t {} {words}", target.pid);
        sandbox.icecore(&words).ok()
    };
    dump("-D 1 -R --track-mem");
    target.check();
    target.ask("talk");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.ask("leave");
    let run = sandbox.icecore(&format!("dump -t {} -D 3 --dry-run", target.pid));
    let lost = "has a packet socket with something to be received";
    assert!(run.ok().stdout.contains(lost));
    let run = dump("-D 3 --track-mem --prev-images-dir ../2");
    for lost in ["lo", "all interfaces"] {
        let lost = format!("Packets wait in packet socket of {lost}");
        assert!(run.stdout.contains(&lost), "{}", run.stdout);
    }
    sandbox.wait_gone(&[target.pid]);
    // The same name, another number.
    sandbox.sh("ip link del near");
    let run = sandbox.icecore("restore -D 3 -d").fails(3);
    assert!(
        run.stderr.contains("network interface near"),
        "{}",
        run.stderr
    );
    sandbox.sh(pair);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        target.check();
        target.ask("all");
        target.ask("talk");
        assert_eq!(members(&sandbox), before);
        sandbox.kill(&target);
    }
}

#[test]
fn a_packet_socket_whose_interface_is_gone_comes_back_and_hears_nothing() {
    if !require(&[Need::Root, Need::Program("ip")]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    sandbox.sh("ip link add near type veth peer name far");
    let target = sandbox.specimen("packets", &["near"]);
    sandbox.sh("ip link del near");
    let run = sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    assert!(run.stdout.contains("is gone"), "{}", run.stdout);
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.runs();
    target.ask("talk");
}

#[test]
fn established_connections_need_a_word_and_go_on_with_everything_under_way() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["connected"]);
    let pids = target.members();
    let before = portrait(&target);
    for mode in ["", "-R", "--dry-run"] {
        let words = format!("dump -t {} -D 1 {mode}", target.pid);
        let run = sandbox.icecore(&words).fails(5);
        assert!(run.stderr.contains("--tcp-established"), "{}", run.stderr);
    }
    assert_same_portrait("internet", &before, &portrait(&target));
    let dump = |words: &str| {
        let words = format!("dump -t {} --tcp-established {words}", target.pid);
        sandbox.icecore(&words).ok();
    };
    dump("-D 1 -R --track-mem");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    assert_eq!(target.check(), "2 connections");
    dump("-D 3 --track-mem --prev-images-dir ../2");
    sandbox.wait_gone(&pids);
    let run = sandbox.icecore("restore -D 3 -d").fails(5);
    assert!(run.stderr.contains("--tcp-established"), "{}", run.stderr);
    for layer in [2, 3, 1] {
        let words = format!("restore -D {layer} -d --tcp-established");
        sandbox.icecore(&words).ok();
        target.runs();
        assert_eq!(target.check(), "2 connections");
        target.ask("segments");
        target.ask_at("child", "talk");
        sandbox.kill(&target);
    }
}

#[test]
fn who_has_the_addresses_of_a_connection_is_in_the_way_before_anything_is_made() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["connected"]);
    let words = format!("dump -t {} -D 1 -R --tcp-established", target.pid);
    sandbox.icecore(&words).ok();
    let apart = "restore -D 1 -d --new-pid-namespace";
    let run = sandbox
        .icecore(&format!("{apart} --tcp-established"))
        .fails(7);
    assert!(run.stderr.contains("is in use"), "{}", run.stderr);
    assert!(run.stderr.contains("--tcp-close"), "{}", run.stderr);
    assert_eq!(target.check(), "2 connections");
    target.ask_at("child", "talk");
}

#[test]
fn half_closed_connections_go_on_from_every_layer_and_can_be_dumped_again() {
    go_on_from_every_layer(&["halves"]);
}

#[test]
fn listeners_of_mptcp_and_the_connections_that_they_accepted_go_on_from_every_layer() {
    go_on_from_every_layer(&["paths", "connected"]);
}

#[test]
fn connections_whose_end_waits_to_be_sent_go_on_from_every_layer_and_can_be_dumped_again() {
    go_on_from_every_layer(&["ending"]);
}

#[test]
fn of_urgent_data_that_was_received_or_is_in_line_only_the_mark_is_lost_and_that_is_said() {
    for how in ["urgent", "in-line"] {
        go_on_from_every_layer(&[how]);
        if !require(&[Need::Root]) {
            return;
        }
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen("internet", &[how]);
        let words = format!("dump -t {} -D 1 -R --tcp-established", target.pid);
        let run = sandbox.icecore(&words).ok();
        let lost = "mark of urgent data is not saved";
        assert!(run.stdout.contains(lost), "{}", run.stdout);
        target.ask("talk");
    }
}

#[test]
fn urgent_data_that_was_not_received_is_an_obstacle_until_it_is() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["alarm"]);
    let dump = format!("dump -t {} -D 1 --tcp-established", target.pid);
    for mode in ["", "-R", "--dry-run"] {
        let run = sandbox.icecore(&format!("{dump} {mode}")).fails(5);
        assert!(run.stderr.contains("urgent data"), "{}", run.stderr);
    }
    target.ask("receive");
    let pids = target.members();
    sandbox.icecore(&dump).ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("keeper --let-go").ok();
    sandbox.icecore("restore -D 1 -d --tcp-established").ok();
    target.runs();
    target.ask_at("child", "talk");
}

#[test]
fn a_failed_connect_that_the_program_was_not_told_of_is_an_obstacle_until_it_asks() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["refused"]);
    let dump = format!("dump -t {} -D 1", target.pid);
    for mode in ["", "-R", "--dry-run"] {
        let run = sandbox.icecore(&format!("{dump} {mode}")).fails(5);
        assert!(run.stderr.contains("failed to connect"), "{}", run.stderr);
    }
    target.ask("ask");
    let pids = target.members();
    sandbox.icecore(&dump).ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

/// Three layers of TCP connections in a special state, and one of what was made anew.
fn go_on_from_every_layer(state: &[&str]) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", state);
    let pids = target.members();
    let dump = |words: &str| {
        let words = format!("dump -t {} --tcp-established {words}", target.pid);
        sandbox.icecore(&words).ok();
        target.runs();
        target.check();
    };
    dump("-D 1 -R --track-mem");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    let words = "--tcp-established -D 3 --track-mem --prev-images-dir ../2";
    let last = format!("dump -t {} {words}", target.pid);
    sandbox.icecore(&last).ok();
    sandbox.wait_gone(&pids);
    for layer in ["2", "3", "1", "4"] {
        let words = format!("restore -D {layer} -d --tcp-established");
        sandbox.icecore(&words).ok();
        target.runs();
        target.check();
        if layer == "1" {
            let words = format!("dump -t {} -D 4 --tcp-established", target.pid);
            sandbox.icecore(&words).ok();
            sandbox.wait_gone(&pids);
            // Made anew once more, from what was made anew.
            sandbox.icecore("keeper --let-go").ok();
        } else {
            target.ask_at("child", "talk");
            sandbox.kill(&target);
        }
    }
}

#[test]
fn connections_are_dropped_when_that_is_asked_for() {
    if !require(&[Need::Root]) {
        return;
    }
    for (dump, restore) in [("--tcp-close", ""), ("--tcp-established", "--tcp-close")] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen("internet", &["connected", "ending"]);
        let pids = target.members();
        let words = format!("dump -t {} -D 1 {dump}", target.pid);
        sandbox.icecore(&words).ok();
        sandbox.wait_gone(&pids);
        sandbox.icecore(&format!("restore -D 1 -d {restore}")).ok();
        target.runs();
        target.ask("dropped");
    }
}

#[test]
fn a_connection_that_a_process_outside_of_the_tree_shares_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["connected"]);
    let child = target.members()[1];
    let words = format!("dump -t {child} -D 1 --tcp-established");
    let run = sandbox.icecore(&words).fails(5);
    let parent = format!("shared with specimen (pid {})", target.pid);
    assert!(run.stderr.contains(&parent), "{}", run.stderr);
    assert_eq!(target.check(), "2 connections");
    target.ask("talk");
}

#[test]
fn criu_restores_established_connections_of_ours() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["connected"]);
    let pids = target.members();
    let words = format!("dump -t {} -D 1 --tcp-established", target.pid);
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("keeper --let-go").ok();
    sandbox.criu("restore -D 1 -d -v2 --tcp-established").ok();
    assert_eq!(target.check(), "2 connections");
    // Not "talk": CRIU 4.1 forgets the multicast groups of UDP sockets.
    target.ask_at("child", "pairs");
}

#[test]
fn established_connections_of_criu_go_on() {
    if !require(&[Need::Root, Need::InternetByCriu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("internet", &["connected"]);
    let pids = target.members();
    std::fs::create_dir(sandbox.path("1")).unwrap();
    let words = "-D 1 -v2 --tcp-established --network-lock skip";
    let words = format!("dump -t {} {words}", target.pid);
    sandbox.criu_in(&criu_of_internet().unwrap(), &words).ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d --tcp-established").ok();
    target.runs();
    assert_eq!(target.check(), "2 connections");
    target.ask_at("child", "pairs");
}
