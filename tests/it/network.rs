//! Programs that speak to the network below TCP and UDP, unmodified: several incremental layers, then
//! restored from each layer in turn, and on they go. Their network is one of the sandbox's own.

use std::fs;

use crate::support::{Need, Sandbox, require, wait_until};

/// A program in a sandbox, with what it says.
struct Program {
    sandbox: Sandbox,
    pid: i32,
}

impl Program {
    fn start(mut sandbox: Sandbox, words: &[&str]) -> Self {
        let pid = sandbox.start("said", words);
        Self { sandbox, pid }
    }

    /// All that it has said, in all its lives.
    fn said(&self) -> String {
        fs::read_to_string(self.sandbox.path("said")).unwrap()
    }

    /// Waits until it says this, not counting the first `length` bytes.
    fn says(&self, length: usize, what: &str) {
        wait_until(&format!("it says {what:?}"), || {
            self.said()[length..].contains(what).then_some(())
        });
    }

    /// The next layer; the third ends it.
    fn dump(&self, layer: usize) {
        let how = match layer {
            1 => "-R".to_owned(),
            2 => "-R --prev-images-dir ../1".to_owned(),
            _ => format!("--prev-images-dir ../{}", layer - 1),
        };
        let words = format!("dump -t {} -D {layer} --track-mem {how}", self.pid);
        self.sandbox.icecore(&words).ok();
        if layer == 3 {
            self.sandbox.wait_gone(&[self.pid]);
        }
    }

    fn restore(&self, layer: usize) {
        self.sandbox.icecore(&format!("restore -D {layer} -d")).ok();
    }

    fn kill(&self) {
        self.sandbox.sh(&format!("kill -KILL {}", self.pid));
        self.sandbox.wait_gone(&[self.pid]);
    }
}

/// The numbers of the answers that ping tells of.
fn answers(said: &str) -> Vec<u32> {
    let number = |line: &str| {
        line.split_once("icmp_seq=")?
            .1
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    said.lines().filter_map(number).collect()
}

/// Pings an address, by a socket that is in this table of the kernel's.
fn ping(address: &str, groups: &str, table: &str) {
    if !require(&[Need::Root, Need::Program("ip"), Need::Program("ping")]) {
        return;
    }
    let sandbox = Sandbox::with_network();
    sandbox.sh(&format!(
        "echo {groups} > /proc/sys/net/ipv4/ping_group_range"
    ));
    let ping = Program::start(sandbox, &["ping", "-i", "0.05", address]);
    let mut known = [(0, 0); 4];
    let last = || answers(&ping.said()).last().copied().unwrap_or(0);
    for layer in [1, 2, 3] {
        let before = last();
        wait_until("there are answers", || (last() > before + 2).then_some(()));
        let lines = ping.sandbox.sh(&format!("wc -l < /proc/net/{table}"));
        assert_eq!(lines.trim(), if table == "raw6" { "1" } else { "2" });
        let earliest = last();
        ping.dump(layer);
        known[layer] = (earliest, last());
    }
    for layer in [2, 3, 1] {
        let length = ping.said().len();
        ping.restore(layer);
        let new = wait_until("there are answers", || {
            let new = answers(&ping.said()[length..]);
            (new.len() > 3).then_some(new)
        });
        // One answer may have waited when it was dumped.
        let (earliest, latest) = known[layer];
        let on = new[0] > earliest && new[0] <= latest + 2;
        assert!(on, "{new:?} after {earliest} to {latest}");
        assert!(new.is_sorted_by(|a, b| a + 1 == *b), "{new:?}");
        ping.kill();
    }
}

#[test]
fn ping_goes_on_from_every_layer_by_a_raw_socket() {
    ping("127.0.0.1", "1 0", "raw");
}

#[test]
fn ping_goes_on_from_every_layer_by_a_socket_that_needs_no_right() {
    ping("127.0.0.1", "0 2147483647", "icmp");
    ping("::1", "0 2147483647", "icmp6");
}

#[test]
fn a_dhcp_client_that_had_found_nobody_gets_its_address_after_a_restore_from_every_layer() {
    let [ip, client, server] = ["ip", "dhclient", "dnsmasq"].map(Need::Program);
    if !require(&[Need::Root, ip, client, server]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    sandbox.sh("ip link add near type veth peer name far && ip link set near up");
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let settings = "timeout 600; initial-interval 1; backoff-cutoff 1;";
    fs::write(sandbox.path("settings"), settings).unwrap();
    let [settings, leases, pid] = ["settings", "leases", "pid"].map(path);
    // Its server gets a network of its own, at the other end.
    let serve = sandbox.path("serve");
    let script = "until ip address add 10.9.9.1/24 dev far; do sleep 0.05; done; \
                  ip link set far up; ip link set lo up; \
                  exec dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --interface=far \
                  --log-dhcp --no-ping --dhcp-leasefile=/dev/null --dhcp-range=10.9.9.50,10.9.9.99";
    fs::write(&serve, script).unwrap();
    let other = ["unshare", "--net", "sh", serve.to_str().unwrap()];
    let other = sandbox.start("served", &other);
    let words = [
        "dhclient",
        "-d",
        "-sf",
        "/bin/true",
        "-cf",
        &settings,
        "-lf",
        &leases,
    ];
    let words = [&words[..], &["-pf", &pid, "near"]].concat();
    let client = Program::start(sandbox, &words);
    for layer in [1, 2, 3] {
        let length = client.said().len();
        client.says(length, "DHCPDISCOVER");
        client.dump(layer);
    }
    client.sandbox.sh(&format!("ip link set far netns {other}"));
    for layer in [2, 3, 1] {
        let length = client.said().len();
        client.restore(layer);
        client.says(length, "bound to 10.9.9.");
        client.kill();
    }
}

#[test]
fn a_capture_with_a_ring_of_shared_memory_is_an_obstacle_and_goes_on() {
    let [ip, tcpdump] = ["ip", "tcpdump"].map(Need::Program);
    if !require(&[Need::Root, ip, tcpdump]) {
        return;
    }
    let sandbox = Sandbox::with_network();
    let capture = ["tcpdump", "-i", "lo", "-l", "-n", "--immediate-mode", "udp"];
    let capture = Program::start(sandbox, &capture);
    capture.says(0, "listening on lo");
    let words = format!("dump -t {} -D 1 -R", capture.pid);
    let run = capture.sandbox.icecore(&words).fails(5);
    for words in ["a ring of shared memory", "maps a ring of packets"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    capture.sandbox.sh("python3 -c 'import socket as s
s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b\"hi\", (\"127.0.0.1\", 4321))'");
    capture.says(0, "127.0.0.1.4321: UDP, length 2");
}

#[test]
fn a_router_finds_its_neighbour_again_after_a_restore_from_every_layer() {
    if !require(&[Need::Root, Need::Program("ip"), Need::Program("bird")]) {
        return;
    }
    let mut sandbox = Sandbox::with_network();
    sandbox.sh(
        "ip link add near type veth peer name far && ip link set near up && \
                ip address add 10.9.9.1/24 dev near",
    );
    for (n, interface) in [(1, "near"), (2, "far")] {
        let settings = format!(
            "router id 10.9.9.{n}; protocol device {{}} protocol ospf v2 {{ ipv4; area 0 {{ \
             interface \"{interface}\" {{ type ptp; hello 1; dead 3; retransmit 2; }}; }}; }}"
        );
        fs::write(sandbox.path(interface), settings).unwrap();
    }
    let serve = sandbox.path("serve");
    let script = format!(
        "until ip address add 10.9.9.2/24 dev far; do sleep 0.05; done; ip link set far up; \
         cd {}; exec bird -f -c far -s far.ask",
        sandbox.path("").display()
    );
    fs::write(&serve, script).unwrap();
    let other = ["unshare", "--net", "sh", serve.to_str().unwrap()];
    let other = sandbox.start("other", &other);
    sandbox.sh(&format!("ip link set far netns {other}"));
    let [settings, ask] = ["near", "near.ask"].map(|name| sandbox.path(name));
    let paths = [settings.to_str().unwrap(), ask.to_str().unwrap()];
    let words = ["bird", "-f", "-c", paths[0], "-s", paths[1]];
    let router = Program::start(sandbox, &words);
    let sees = |side: &str, wanted: bool| {
        let words = ["-s", side, "show", "ospf", "neighbors"];
        wait_until(&format!("{side} sees its neighbour: {wanted}"), || {
            let said = router.sandbox.run("birdc", &words).stdout;
            (said.contains("Full/PtP") == wanted).then_some(())
        });
    };
    for layer in [1, 2, 3] {
        sees("near.ask", true);
        sees("far.ask", true);
        router.dump(layer);
    }
    for layer in [2, 3, 1] {
        sees("far.ask", false);
        router.restore(layer);
        sees("far.ask", true);
        sees("near.ask", true);
        router.kill();
    }
}
