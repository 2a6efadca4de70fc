//! Real servers, unmodified: several incremental layers with different state, then restored from each
//! layer in turn and asked over their own protocol for their state.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::interop::goes_between_criu_and_us;
use crate::support::{Need, Sandbox, python, require, wait_until};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Connects as soon as somebody listens.
fn connect(port: u16) -> TcpStream {
    wait_until("the server listens", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    })
}

/// All processes of the tree of `pid` inside.
fn tree(sandbox: &Sandbox, pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let path = sandbox.proc(&format!("{pid}/task/{pid}/children"));
        let children = fs::read_to_string(path).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
        next += 1;
    }
    all
}

fn kill(sandbox: &Sandbox, pid: i32) {
    let all = tree(sandbox, pid);
    for pid in &all {
        sandbox.run("kill", &["-KILL", &pid.to_string()]);
    }
    sandbox.wait_gone(&all);
}

/// A client of redis.
struct Redis(BufReader<TcpStream>);

impl Redis {
    fn new(port: u16) -> Self {
        Self(BufReader::new(connect(port)))
    }

    fn send(&mut self, words: &[&str]) {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        self.answer()
    }

    fn answer(&mut self) -> String {
        let line = self.line();
        match line.strip_prefix('$') {
            Some("-1") => "nothing".to_owned(),
            Some(length) => {
                let mut bytes = vec![0; length.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                String::from_utf8(bytes).unwrap().trim_end().to_owned()
            }
            None => line,
        }
    }
}

#[test]
fn redis_comes_back_from_each_of_three_layers_with_its_hundred_thousand_keys() {
    if !require(&[Need::Root, Need::Program("redis-server")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let port = free_port();
    let text = port.to_string();
    let dir = sandbox.path("run").to_str().unwrap().to_owned();
    let words = [
        "--port",
        &text,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        &dir,
    ];
    let pid = sandbox.start("redis.log", &[&["redis-server"][..], &words].concat());
    let mut client = Redis::new(port);
    // Sent while answers are read, so that neither side waits for ever.
    let mut sender = Redis(BufReader::new(client.0.get_ref().try_clone().unwrap()));
    let keys = std::thread::spawn(move || {
        for n in 0..100_000 {
            sender.send(&["SET", &format!("key:{n}"), &format!("value {n}")]);
        }
    });
    for _ in 0..100_000 {
        assert_eq!(client.line(), "+OK");
    }
    keys.join().unwrap();
    for layer in 1..=3 {
        let now = layer.to_string();
        assert_eq!(client.ask(&["SET", "layer", &now]), "+OK");
        assert_eq!(
            client.ask(&["SET", &format!("only:{layer}"), "here"]),
            "+OK"
        );
        drop(client);
        let mode = match layer {
            1 => "-R --track-mem".to_owned(),
            2 => "-R --track-mem --prev-images-dir ../1".to_owned(),
            _ => "--prev-images-dir ../2".to_owned(),
        };
        // The server closes the connection of its client when it comes to it.
        wait_until("the dump is possible", || {
            let run = sandbox.icecore(&format!("dump -t {pid} -D {layer} {mode}"));
            assert!(
                run.code == 0 || run.stderr.contains("TCP"),
                "{}",
                run.stderr
            );
            (run.code == 0).then_some(())
        });
        if layer == 3 {
            break;
        }
        client = Redis::new(port);
    }
    sandbox.wait_gone(&[pid]);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        let mut client = Redis::new(port);
        assert_eq!(client.ask(&["GET", "layer"]), layer.to_string());
        for n in 1..=3 {
            let should = if n <= layer { "here" } else { "nothing" };
            assert_eq!(client.ask(&["GET", &format!("only:{n}")]), should);
        }
        assert_eq!(client.ask(&["DBSIZE"]), format!(":{}", 100_001 + layer));
        for n in [0, 1, 4_711, 99_999] {
            assert_eq!(
                client.ask(&["GET", &format!("key:{n}")]),
                format!("value {n}")
            );
        }
        assert_eq!(client.ask(&["SET", "layer", "more"]), "+OK");
        kill(&sandbox, pid);
    }
    sandbox.icecore("restore -D 3 -d").ok();
    goes_between_criu_and_us(&sandbox, pid, "", true, &|| {
        assert_eq!(Redis::new(port).ask(&["DBSIZE"]), ":100004");
    });
}

#[test]
fn a_client_of_redis_stays_connected_or_is_dropped_as_wished() {
    if !require(&[Need::Root, Need::Program("redis-server")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let port = free_port();
    let text = port.to_string();
    let words = [
        "redis-server",
        "--port",
        &text,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ];
    let pid = sandbox.start("redis.log", &words);
    let mut client = Redis::new(port);
    assert_eq!(client.ask(&["SET", "a", "1"]), "+OK");
    let refused = sandbox.icecore(&format!("dump -t {pid} -D 1")).fails(5);
    assert!(
        refused.stderr.contains("--tcp-established"),
        "{}",
        refused.stderr
    );
    assert_eq!(client.ask(&["GET", "a"]), "1");
    let words = format!("dump -t {pid} -D 1 --tcp-established");
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&[pid]);
    // Nobody answers now, not even by a reset: what is asked meanwhile is answered after the restore.
    client.send(&["GET", "a"]);
    let doctor = sandbox.icecore("doctor");
    assert!(
        doctor.stdout.contains("connections held"),
        "{}",
        doctor.stdout
    );
    sandbox.icecore("restore -D 1 -d --tcp-established").ok();
    assert_eq!(client.answer(), "1");
    assert_eq!(client.ask(&["GET", "a"]), "1");
    assert_eq!(client.ask(&["SET", "a", "2"]), "+OK");
    let doctor = sandbox.icecore("doctor");
    assert!(
        !doctor.stdout.contains("connections held"),
        "{}",
        doctor.stdout
    );
    // Made anew from the layer, where nobody holds it any more.
    sandbox.icecore(&words.replace("-D 1", "-D 1b")).ok();
    sandbox.wait_gone(&[pid]);
    let ended = sandbox.icecore("keeper --let-go").ok();
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    sandbox.icecore("restore -D 1b -d --tcp-established").ok();
    assert_eq!(client.ask(&["GET", "a"]), "2");
    sandbox
        .icecore(&format!("dump -t {pid} -D 2 --tcp-close"))
        .ok();
    sandbox.wait_gone(&[pid]);
    drop(client);
    sandbox.icecore("restore -D 2 -d").ok();
    let mut client = Redis::new(port);
    assert_eq!(client.ask(&["GET", "a"]), "2");
    wait_until("the dropped client is forgotten", || {
        let all = client.ask(&["CLIENT", "LIST"]);
        (all.lines().count() == 1).then_some(())
    });
}

/// Accepts two clients: the first resets its connection, which is not closed here; the others are told
/// what the first one's socket reads.
const RESET: &str = r#"
import socket, struct, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(server.getsockname())
kept, _ = server.accept()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
try:
    kept.recv(1)
except ConnectionResetError:
    print("ready", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(b"the first one reads %r\n" % kept.recv(1))
    client.close()
"#;

#[test]
fn a_connection_that_was_reset_does_not_keep_the_listener_from_its_port() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let port = free_port();
    let python = python().unwrap();
    let file = sandbox.path("server.py");
    fs::write(&file, RESET).unwrap();
    let words = [
        python.to_str().unwrap(),
        file.to_str().unwrap(),
        &port.to_string(),
    ];
    let pid = sandbox.start("python.log", &words);
    let ask = || {
        let mut answer = String::new();
        connect(port).read_to_string(&mut answer).unwrap();
        answer
    };
    // Its own client comes first.
    let log = sandbox.path("python.log");
    wait_until("the connection is reset", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("ready").then_some(())
    });
    let before = ask();
    assert_eq!(before, "the first one reads b''\n");
    wait_until("the dump is possible", || {
        let run = sandbox.icecore(&format!("dump -t {pid} -D 1"));
        assert!(
            run.code == 0 || run.stderr.contains("TCP"),
            "{}",
            run.stderr
        );
        (run.code == 0).then_some(())
    });
    sandbox.wait_gone(&[pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    assert_eq!(ask(), before);
}

/// Asks nginx for a page; the body of the answer.
fn page(port: u16, path: &str) -> String {
    let mut client = connect(port);
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn nginx_comes_back_from_each_of_three_layers_with_workers_of_another_user() {
    if !require(&[Need::Root, Need::Program("nginx")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let port = free_port();
    let dir = sandbox.path("nginx");
    fs::create_dir(&dir).unwrap();
    // The workers have to reach it.
    let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    for path in [sandbox.path(""), dir.clone()] {
        fs::set_permissions(path, open.clone()).unwrap();
    }
    fs::write(dir.join("page"), "the page\n").unwrap();
    let d = dir.display();
    let config = format!(
        "daemon off; worker_processes 2; user www-data; pid {d}/pid; error_log {d}/error;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log {d}/access; client_body_temp_path {d}/b; proxy_temp_path {d}/p;\n\
         fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {d}; location /status {{ stub_status; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let error = dir.join("error");
    let words = [
        "nginx",
        "-c",
        file.to_str().unwrap(),
        "-e",
        error.to_str().unwrap(),
    ];
    let pid = sandbox.start("nginx.log", &words);
    assert_eq!(page(port, "/page"), "the page\n");
    wait_until("the workers are there", || {
        (tree(&sandbox, pid).len() == 3).then_some(())
    });
    let pids = tree(&sandbox, pid);
    let count = |port| -> u32 {
        let text = page(port, "/status");
        let line = text.lines().nth(2).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    let mut counts = Vec::new();
    for layer in 1..=3 {
        page(port, "/page");
        counts.push(count(port));
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "--prev-images-dir ../2",
        };
        wait_until("the dump is possible", || {
            let run = sandbox.icecore(&format!("dump -t {pid} -D {layer} {mode}"));
            assert!(
                run.code == 0 || run.stderr.contains("TCP"),
                "{}",
                run.stderr
            );
            (run.code == 0).then_some(())
        });
    }
    sandbox.wait_gone(&pids);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        assert_eq!(count(port), counts[layer - 1] + 1);
        assert_eq!(page(port, "/page"), "the page\n");
        assert_eq!(tree(&sandbox, pid), pids);
        for worker in &pids[1..] {
            let status = fs::read_to_string(sandbox.proc(&format!("{worker}/status"))).unwrap();
            assert!(!status.contains("Uid:\t0"), "{status}");
        }
        // The master still governs: it makes new workers.
        sandbox.run("kill", &["-HUP", &pid.to_string()]).ok();
        wait_until("new workers", || {
            let now = tree(&sandbox, pid);
            (now.len() == 3 && now[1..] != pids[1..]).then_some(())
        });
        assert_eq!(page(port, "/page"), "the page\n");
        kill(&sandbox, pid);
    }
    sandbox.icecore("restore -D 3 -d").ok();
    goes_between_criu_and_us(&sandbox, pid, "", true, &|| {
        assert_eq!(page(port, "/page"), "the page\n");
    });
}

/// A server of CPython: asyncio answers, workers of multiprocessing count and hash; a shared counter,
/// a lock and a queue of multiprocessing are between them.
const PROGRAM: &str = r#"
import asyncio, hashlib, multiprocessing, sys

def work(counter, tasks, results):
    while True:
        number = tasks.get()
        with counter.get_lock():
            counter.value += 1
        results.put(hashlib.sha256(b"%d" % number).hexdigest())

async def main():
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    tasks, results = context.SimpleQueue(), context.SimpleQueue()
    for _ in range(2):
        context.Process(target=work, args=(counter, tasks, results), daemon=True).start()
    history = []

    async def serve(reader, writer):
        number = int(await reader.readline())
        tasks.put(number)
        loop = asyncio.get_running_loop()
        history.append(await loop.run_in_executor(None, results.get))
        digest = hashlib.sha256("".join(history).encode()).hexdigest()
        writer.write(b"%d %d %s\n" % (len(history), counter.value, digest.encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"#;

#[test]
fn asyncio_and_multiprocessing_come_back_from_each_of_three_layers() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let port = free_port();
    let text = port.to_string();
    let python = python().unwrap();
    // The requests to the reaper are lines: the program goes there as a file.
    let file = sandbox.path("server.py");
    fs::write(&file, PROGRAM).unwrap();
    let pid = sandbox.start(
        "python.log",
        &[python.to_str().unwrap(), file.to_str().unwrap(), &text],
    );
    let ask = |number: u32| {
        let mut client = connect(port);
        client.write_all(format!("{number}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut pids = Vec::new();
    for layer in 1..=3 {
        let answer = ask(layer);
        assert!(answer.starts_with(&format!("{layer} {layer} ")), "{answer}");
        pids = tree(&sandbox, pid);
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "--prev-images-dir ../2",
        };
        wait_until("the dump is possible", || {
            let run = sandbox.icecore(&format!("dump -t {pid} -D {layer} {mode}"));
            assert!(
                run.code == 0 || run.stderr.contains("TCP"),
                "{}",
                run.stderr
            );
            (run.code == 0).then_some(())
        });
    }
    sandbox.wait_gone(&pids);
    let mut answers = std::collections::HashMap::new();
    for layer in [2, 3, 1, 2] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        let answer = ask(70);
        let next = layer + 1;
        assert!(answer.starts_with(&format!("{next} {next} ")), "{answer}");
        // The same layer gives the same answer, however often.
        let before = answers.entry(layer).or_insert_with(|| answer.clone());
        assert_eq!(*before, answer);
        kill(&sandbox, pid);
    }
    sandbox.icecore("restore -D 3 -d").ok();
    let next = std::cell::Cell::new(4);
    goes_between_criu_and_us(&sandbox, pid, "", true, &|| {
        let (answer, n) = (ask(70), next.get());
        assert!(answer.starts_with(&format!("{n} {n} ")), "{answer}");
        next.set(n + 1);
    });
}
