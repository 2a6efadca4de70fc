//! Clients of real servers over TCP, which stay connected through dumps and a restore (`--tcp-established`),
//! or are dropped (`--tcp-close`). Each server counts the questions of a connection: a right answer tells that
//! the connection is the same one, and the server's memory that of the layer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::postgres::Server;
use crate::support::{Need, Sandbox, Target, python, require, wait_until};

/// A connection, by what one writes to and reads from.
struct Client {
    to: Box<dyn Write>,
    from: Box<dyn BufRead>,
    /// A program that talks for us.
    program: Option<Child>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            drop(program.kill());
            drop(program.wait());
        }
    }
}

impl Client {
    /// Connects as soon as somebody listens.
    fn of(port: u16) -> Self {
        let stream = wait_until("the server listens", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self {
            from: Box::new(BufReader::new(stream.try_clone().unwrap())),
            to: Box::new(stream),
            program: None,
        }
    }

    /// The next line that tells a count; none when the connection has ended.
    fn count(&mut self, question: &str) -> Option<usize> {
        self.to.write_all(question.as_bytes()).ok()?;
        self.to.flush().ok()?;
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(count) = line.strip_prefix("count ") {
                return Some(count.trim().parse().unwrap());
            }
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Asks over one connection before, between and after three dumps and a restore; then over another one,
/// after the first was dropped by a dump, and over a third, after the second was dropped by a restore.
fn stays_or_is_dropped(sandbox: &Sandbox, pid: i32, question: &str, connect: &dyn Fn() -> Client) {
    let target = Target::silent(pid, sandbox.proc(""));
    let dump = |words: &str| {
        let members = target.members();
        // Servers of several processes begin and end some as they like.
        wait_until("the dump is possible", || {
            let run = sandbox.icecore(&format!("dump -t {pid} {words}"));
            let passes = ["changed since", "ended"].iter();
            let passes = passes.into_iter().any(|word| run.stderr.contains(word));
            assert!(run.code == 0 || passes, "{}", run.stderr);
            (run.code == 0).then_some(())
        });
        if !words.contains("-R") {
            sandbox.wait_gone(&members);
        }
    };
    let mut client = connect();
    assert_eq!(client.count(question), Some(1));
    dump("-D 1 -R --track-mem --tcp-established");
    assert_eq!(client.count(question), Some(2));
    dump("-D 2 -R --track-mem --tcp-established --prev-images-dir ../1");
    assert_eq!(client.count(question), Some(3));
    dump("-D 3 --tcp-established --prev-images-dir ../2");
    sandbox.icecore("restore -D 3 -d --tcp-established").ok();
    for count in 4..8 {
        assert_eq!(client.count(question), Some(count));
    }
    dump("-D 4 --tcp-close");
    assert_eq!(client.count(question), None);
    sandbox.icecore("restore -D 4 -d").ok();
    let mut client = connect();
    assert_eq!(client.count(question), Some(1));
    dump("-D 5 --tcp-established");
    sandbox.icecore("restore -D 5 -d --tcp-close").ok();
    assert_eq!(client.count(question), None);
    assert_eq!(connect().count(question), Some(1));
    sandbox.kill(&target);
}

const HTTP: &str = "GET /count HTTP/1.1\r\nHost: it\r\n\r\n";

#[test]
fn clients_of_nginx_stay_connected_or_are_dropped_as_wished() {
    if !require(&[Need::Root, Need::Program("nginx")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let (port, dir) = (free_port(), sandbox.path(""));
    let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&dir, open).unwrap();
    let d = dir.display();
    let config = format!(
        "daemon off; worker_processes 2; user www-data; pid {d}/pid; error_log {d}/error;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; keepalive_timeout 600; client_body_temp_path {d}/b;\n\
         proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;\n\
         server {{ listen 127.0.0.1:{port};\n\
         location / {{ return 200 \"count $connection_requests\\n\"; }} }} }}\n"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let (file, error) = (dir.join("nginx.conf"), dir.join("error"));
    let (file, error) = (file.to_str().unwrap(), error.to_str().unwrap());
    let pid = sandbox.start("nginx.log", &["nginx", "-c", file, "-e", error]);
    stays_or_is_dropped(&sandbox, pid, HTTP, &|| Client::of(port));
}

#[test]
fn clients_of_node_stay_connected_or_are_dropped_as_wished() {
    const PROGRAM: &str = "
        const server = require('http').createServer((request, response) => {
          const socket = request.socket;
          socket.count = (socket.count || 0) + 1;
          response.end(`count ${socket.count}\\n`);
        });
        server.keepAliveTimeout = 600000;
        server.listen(Number(process.argv[2]), '127.0.0.1');
    ";
    if !require(&[Need::Root, Need::Program("node")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let (port, file) = (free_port(), sandbox.path("server.js"));
    fs::write(&file, PROGRAM).unwrap();
    let words = ["node", file.to_str().unwrap(), &port.to_string()];
    let pid = sandbox.start("node.log", &words);
    stays_or_is_dropped(&sandbox, pid, HTTP, &|| Client::of(port));
}

#[test]
fn clients_of_java_stay_connected_or_are_dropped_as_wished() {
    if !require(&[Need::Root, Need::Program("java"), Need::Program("javac")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let (port, dir) = (free_port(), sandbox.path(""));
    let file = dir.join("Server.java");
    fs::write(&file, include_str!("../programs/Server.java")).unwrap();
    let dir = dir.to_str().unwrap();
    let made = sandbox.run("javac", &["-d", dir, file.to_str().unwrap()]);
    made.ok();
    let words = ["java", "-Xmx128m", "-cp", dir, "Server", &port.to_string()];
    let pid = sandbox.start("java.log", &words);
    stays_or_is_dropped(&sandbox, pid, "count\n", &|| Client::of(port));
}

#[test]
fn clients_of_asyncio_stay_connected_or_are_dropped_as_wished() {
    const PROGRAM: &str = r#"
import asyncio, sys

async def serve(reader, writer):
    count = 0
    while await reader.readline():
        count += 1
        writer.write(b"count %d\n" % count)
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"#;
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let (port, file) = (free_port(), sandbox.path("server.py"));
    fs::write(&file, PROGRAM).unwrap();
    let python = python().unwrap();
    let words = [
        python.to_str().unwrap(),
        file.to_str().unwrap(),
        &port.to_string(),
    ];
    let pid = sandbox.start("python.log", &words);
    stays_or_is_dropped(&sandbox, pid, "count\n", &|| Client::of(port));
}

#[test]
fn clients_of_postgresql_stay_in_their_transaction_or_are_dropped_as_wished() {
    if !require(&[Need::Root, Need::Postgres]) {
        return;
    }
    let server = Server::start();
    assert_eq!(server.ask("select 1"), "1");
    let connect = || {
        let mut program = Command::new("psql")
            .args(server.address())
            .arg("-Atq")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut to = program.stdin.take().unwrap();
        // What a transaction has not committed yet is in the memory of its process alone.
        to.write_all(b"begin; create temporary table t as select 0 as n;\n")
            .unwrap();
        Client {
            from: Box::new(BufReader::new(program.stdout.take().unwrap())),
            to: Box::new(to),
            program: Some(program),
        }
    };
    let question = "update t set n = n + 1 returning 'count ' || n;\n";
    stays_or_is_dropped(&server.sandbox, server.pid, question, &connect);
}
