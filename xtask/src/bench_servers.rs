//! `cargo xtask bench-servers`: freeze time and layer size of real servers, beside CRIU's dump of the same
//! process in the same run.
//!
//! It runs in a pid namespace of its own, so that every server ends with it. CRIU goes first: it finds
//! nothing of ours in the process then. Servers that are not installed are named and left out. Needs root.

#![allow(clippy::print_stdout, reason = "the benchmark reports to the terminal")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::bench::{Criu, text};

/// Name, program that must exist, how to start it (it ends with `exec`), and how to fill it.
const SERVERS: &[(&str, &str, &str, &str)] = &[
    (
        "redis, 100,000 keys",
        "redis-server",
        "exec redis-server --port {port} --save '' --dir {dir}",
        "redis-cli -p {port} eval \"for i=1,100000 do redis.call('set','key:'..i,'value '..i) end\" 0",
    ),
    (
        "nginx, 2 workers",
        "nginx",
        "echo 'daemon off; worker_processes 2; pid {dir}/pid; error_log {dir}/error; events {} http { \
         access_log off; server { listen 127.0.0.1:{port}; root {dir}; } }' > {dir}/n.conf; \
         exec nginx -c {dir}/n.conf -e {dir}/error",
        "",
    ),
    (
        "PostgreSQL",
        "psql",
        "bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1); mkdir {dir}/data {dir}/socket; \
         chmod 755 {dir}; chown 65534:65534 {dir}/data {dir}/socket; \
         as='setpriv --reuid=65534 --regid=65534 --clear-groups'; $as $bin/initdb -D {dir}/data -A trust -N; \
         exec $as $bin/postgres -D {dir}/data -k {dir}/socket -p {port} -h 127.0.0.1 -B 32MB -F",
        "until psql -h 127.0.0.1 -p {port} -U nobody -c 'create table t as select n, md5(n::text) \
         from generate_series(1, 100000) n' postgres; do sleep 0.1; done",
    ),
    (
        "node, worker thread",
        "node",
        "exec node {programs}/server.js {port}",
        "",
    ),
    (
        "Java, 20 threads",
        "javac",
        "javac -d {dir} {programs}/Server.java; exec java -Xmx128m -cp {dir} Server {port}",
        "",
    ),
    (
        "CPython, sqlite",
        "python3",
        "exec python3 {programs}/database.py {port} {dir}",
        "",
    ),
    (
        "tmux, 1 shell",
        "tmux",
        "unset TMUX; echo new-session -d > {dir}/c; TERM=screen exec tmux -D -S {dir}/s -f {dir}/c",
        "until tmux -S {dir}/s has-session; do sleep 0.1; done",
    ),
    (
        "memcached",
        "memcached",
        "exec memcached -u nobody -l 127.0.0.1 -p {port} -U 0",
        "",
    ),
    ("Ruby", "ruby", "exec ruby {programs}/server.rb {port}", ""),
    (
        "Erlang",
        "erlc",
        "cd {dir}; erlc {programs}/server.erl; HOME={dir} exec erl -noshell -noinput -s server main {port}",
        "",
    ),
    (
        "lighttpd",
        "lighttpd",
        "printf 'server.document-root=\"/tmp\"\\nserver.port={port}\\n\
      server.bind=\"127.0.0.1\"\\n' > {dir}/l; exec lighttpd -D -f {dir}/l",
        "",
    ),
];

/// Builds icecore and starts the benchmark in a namespace.
pub(crate) fn run() -> Result<()> {
    let built = Command::new("cargo")
        .args(["build", "--release", "--quiet"])
        .status()?;
    ensure!(built.success(), "cargo build --release failed");
    inside("target/release/icecore")
}

/// Starts the benchmark of a binary in a namespace.
pub(crate) fn inside(icecore: &str) -> Result<()> {
    let status = Command::new("unshare")
        // What servers share by name goes with the namespaces.
        .args(["--pid", "--mount", "--ipc", "--fork", "--kill-child"])
        .arg("--mount-proc")
        .arg(std::env::current_exe()?)
        .args(["bench-servers-inside", icecore])
        .status()?;
    ensure!(status.success(), "bench-servers failed");
    Ok(())
}

/// The benchmark itself.
pub(crate) fn measure(icecore: &str) -> Result<()> {
    icecore::sys::descriptor::close_on_exec_from(3)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs", "/dev/shm"])
        .status()?;
    ensure!(mounted.success(), "/dev/shm cannot be mounted");
    let icecore = fs::canonicalize(icecore)?;
    let criu = Criu::find();
    println!(
        "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "frozen", "again", "CRIU", "layer", "again", "CRIU"
    );
    println!(
        "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "ms", "ms", "ms", "KiB", "KiB", "KiB"
    );
    for server in SERVERS {
        if let Err(e) = one(&icecore, criu.as_ref(), server) {
            println!("{:<22} {e:#}", server.0);
        }
    }
    Ok(())
}

fn one(icecore: &Path, criu: Option<&Criu>, server: &(&str, &str, &str, &str)) -> Result<()> {
    let (name, program, start, prepare) = server;
    let there = ["/usr/bin", "/usr/sbin"]
        .iter()
        .any(|d| Path::new(d).join(program).exists());
    ensure!(there, "{program} is not installed");
    let temp = tempfile::tempdir()?;
    let dir = temp.path();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let programs = fs::canonicalize("tests/programs")?;
    let fill = |words: &str| {
        words
            .replace("{port}", &port.to_string())
            .replace("{dir}", text(dir))
            .replace("{programs}", text(&programs))
    };
    let child = Command::new("setsid")
        .args(["sh", "-c", &fill(start)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id().to_string();
    if start.contains("{port}") {
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(
                started.elapsed() < Duration::from_secs(60),
                "it does not listen"
            );
            pause(Duration::from_millis(50));
        }
    }
    if !prepare.is_empty() {
        let mut filler = Command::new("sh");
        filler
            .args(["-c", &fill(prepare)])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ensure!(filler.status()?.success(), "it cannot be filled");
    }
    // Connections of the preparation are let go, and what is built lazily is built.
    pause(Duration::from_secs(1));
    let theirs = criu.map(|criu| theirs(criu, icecore, &pid, dir));
    let (full, full_size) = ours(icecore, &pid, dir, "1", &[])?;
    pause(Duration::from_millis(500));
    let (again, again_size) = ours(icecore, &pid, dir, "2", &["--prev-images-dir", "../1"])?;
    let (frozen, size) = match &theirs {
        Some(Ok((frozen, size))) => (format!("{frozen:.1}"), size.to_string()),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    println!(
        "{name:<22} {full:>9.1} {again:>9.1} {frozen:>9} {full_size:>9} {again_size:>9} {size:>9}"
    );
    if let Some(Err(e)) = theirs {
        println!("{:<22} CRIU: {e:#}", "");
    }
    Ok(())
}

/// Milliseconds of the freeze and KiB of the layer.
fn ours(icecore: &Path, pid: &str, dir: &Path, layer: &str, more: &[&str]) -> Result<(f64, u64)> {
    let images = dir.join("images").join(layer);
    let output = Command::new(icecore)
        .args([
            "dump",
            "--json",
            "--leave-running",
            "--track-mem",
            "--file-locks",
            "-t",
            pid,
            "-D",
        ])
        .arg(&images)
        .args(more)
        .env("ICECORE_RUNTIME_DIR", dir)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let frozen = figures["freeze_us"].as_f64().context("no freeze_us")?;
    Ok((frozen / 1000.0, size(&images)?))
}

/// The same of CRIU; its complaint when it fails.
fn theirs(criu: &Criu, icecore: &Path, pid: &str, dir: &Path) -> Result<(f64, u64)> {
    let images = dir.join("criu");
    let log = dir.join("criu.log");
    fs::create_dir_all(&images)?;
    let words = [
        "dump",
        "--leave-running",
        "--file-locks",
        "-t",
        pid,
        "-D",
        text(&images),
        "-o",
        text(&log),
    ];
    if let Err(e) = criu.run(&words) {
        let said = fs::read_to_string(&log).unwrap_or_default();
        // The first that is not about its own limits, which it goes on without.
        let mut lines = said.lines().filter(|line| line.contains("Error"));
        let why = lines.find(|line| !line.contains("rlimit"));
        return Err(why.map_or(e, |why| anyhow!("{why}")));
    }
    let shown = Command::new(icecore)
        .args(["show", text(&images), "stats-dump", "--json"])
        .output()?;
    let stats: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let frozen = stats["entries"][0]["dump"]["frozen_time"]
        .as_f64()
        .context("no frozen_time")?;
    Ok((frozen / 1000.0, size(&images)?))
}

/// KiB that a directory takes on the disk.
fn size(dir: &Path) -> Result<u64> {
    let mut blocks = 0;
    for entry in fs::read_dir(dir)? {
        blocks += entry?.metadata()?.blocks();
    }
    Ok(blocks / 2)
}

/// Lets a server settle: a benchmark measures it at rest.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no condition that says that a server is at rest"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
