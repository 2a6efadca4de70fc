//! Programs from Debian and the machine, unmodified, one row each: three incremental layers with
//! different state, then restored from each in turn and asked for its state; at last from CRIU to us, where
//! it can, and from us to CRIU. A row is a program, the files it needs, and how to set and ask its state;
//! `{port}`, `{dir}` and `{n}` (the layer) are filled in.
//! Those with a protocol or a story of their own are in `servers.rs`, `python.rs` and `terminals.rs`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use crate::interop::goes_between_criu_and_us;
use crate::support::{Need, Sandbox, Target, require, wait_until};

/// How to talk to a program.
enum Talk {
    /// One connection: send this, read until the wanted text or the end.
    Tcp(&'static str),
    /// A command of sh inside the sandbox, its standard output is the answer.
    Shell(&'static str),
}

/// One program.
struct Row {
    /// All of these must be installed.
    needs: &'static [&'static str],
    /// Name and contents of files in its directory.
    files: &'static [(&'static str, &'static str)],
    /// A command of sh that ends with `exec PROGRAM`.
    start: &'static str,
    /// Brings it into the state of layer `{n}`.
    set: Talk,
    /// What `set` answers.
    done: &'static str,
    /// Asks for its state.
    ask: Talk,
    /// What the answer contains.
    state: &'static str,
    /// Files that belong to a state: put back before a restore.
    keep: &'static [&'static str],
    /// Options of dumps and restores.
    options: &'static str,
    /// Whether CRIU restores it, too.
    criu: bool,
}

impl Row {
    /// Dumps it three times and restores it from each layer.
    fn survives(&self) {
        let mut needs = vec![Need::Root];
        needs.extend(self.needs.iter().map(|program| Need::Program(program)));
        if !require(&needs) {
            return;
        }
        let mut sandbox = Sandbox::new();
        let dir = sandbox.path("program");
        fs::create_dir(&dir).unwrap();
        // Some become another user, who has to reach it.
        let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        for path in [sandbox.path(""), dir.clone()] {
            fs::set_permissions(path, open.clone()).unwrap();
        }
        let port = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let fill = |text: &str, n: usize| {
            text.replace("{port}", &port.to_string())
                .replace("{dir}", dir.to_str().unwrap())
                .replace("{n}", &n.to_string())
        };
        for (name, contents) in self.files {
            fs::write(dir.join(name), fill(contents, 0)).unwrap();
        }
        let script = dir.join("start");
        fs::write(&script, format!("{}\n", fill(self.start, 0))).unwrap();
        let pid = sandbox.start("program.log", &["sh", script.to_str().unwrap()]);
        let log = sandbox.path("program.log");
        let talk = |sandbox: &Sandbox, talk: &Talk, n: usize, wanted: &str| {
            let wanted = fill(wanted, n);
            let mut last = String::new();
            wait_until(&format!("{wanted:?}"), || {
                last = match talk {
                    Talk::Tcp(text) => converse(port, &fill(text, n), &wanted),
                    Talk::Shell(command) => sandbox.run("sh", &["-c", &fill(command, n)]).stdout,
                };
                assert!(
                    sandbox.exists(pid),
                    "it ended: {}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
                last.contains(&wanted).then_some(())
            });
        };
        let options = self.options;
        for layer in 1..=3 {
            talk(&sandbox, &self.set, layer, self.done);
            talk(&sandbox, &self.ask, layer, self.state);
            let mode = match layer {
                1 => "-R --track-mem",
                2 => "-R --track-mem --prev-images-dir ../1",
                _ => "-R --prev-images-dir ../2",
            };
            // A connection may still be on its way out.
            wait_until("the dump is possible", || {
                let run = sandbox.icecore(&format!("dump -t {pid} -D {layer} {mode} {options}"));
                assert!(
                    run.code == 0 || run.stderr.contains("TCP"),
                    "{}",
                    run.stderr
                );
                (run.code == 0).then_some(())
            });
            for name in self.keep {
                fs::copy(dir.join(name), sandbox.path(format!("{name}.{layer}"))).unwrap();
            }
        }
        talk(&sandbox, &self.ask, 3, self.state);
        for layer in [2, 3, 1] {
            sandbox.kill(&Target::silent(pid, sandbox.proc("")));
            for name in self.keep {
                // Into the same file: what was deleted and made anew is another one.
                fs::copy(sandbox.path(format!("{name}.{layer}")), dir.join(name)).unwrap();
            }
            sandbox
                .icecore(&format!("restore -D {layer} -d {options}"))
                .ok();
            talk(&sandbox, &self.ask, layer, self.state);
            // It goes on.
            talk(&sandbox, &self.set, 7, self.done);
            talk(&sandbox, &self.ask, 7, self.state);
        }
        goes_between_criu_and_us(&sandbox, pid, options, self.criu, &|| {
            talk(&sandbox, &self.ask, 7, self.state);
        });
    }
}

/// Sends a text and reads until the wanted text, the end, or a while without an answer.
fn converse(port: u16, text: &str, wanted: &str) -> String {
    let Ok(mut client) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return String::new();
    };
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    if client.write_all(text.as_bytes()).is_ok() {
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..n]);
            if String::from_utf8_lossy(&answer).contains(wanted) {
                break;
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A line server's two requests.
const SET_LINE: Talk = Talk::Tcp("set {n}\n");
const GET_LINE: Talk = Talk::Tcp("get 0\n");

#[test]
fn node_with_workers_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["node"],
        files: &[("server.js", include_str!("../programs/server.js"))],
        start: "exec node {dir}/server.js {port}",
        set: Talk::Tcp("GET /set/{n} HTTP/1.0\r\n\r\n"),
        done: "state {n} worker {n}",
        ask: Talk::Tcp("GET /get HTTP/1.0\r\n\r\n"),
        state: "state {n} worker {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn java_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["java", "javac"],
        files: &[("Server.java", include_str!("../programs/Server.java"))],
        start: "javac -d {dir} {dir}/Server.java && exec java -Xmx128m -cp {dir} Server {port}",
        set: SET_LINE,
        done: "state {n}",
        ask: GET_LINE,
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn sqlite_in_cpython_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["python3"],
        files: &[("server.py", include_str!("../programs/database.py"))],
        start: "exec python3 {dir}/server.py {port} {dir}",
        set: SET_LINE,
        done: "state {n} of {n}",
        ask: GET_LINE,
        state: "state {n} of {n}",
        keep: &["base", "base-wal", "base-shm"],
        options: "--file-locks",
        criu: true,
    };
    row.survives();
}

#[test]
fn a_tmux_server_with_shells_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["tmux"],
        files: &[(
            "tmux.conf",
            "set -g default-shell /bin/sh\nnew-session -d -x 80 -y 24\n",
        )],
        start: "unset TMUX; LC_ALL=C.UTF-8 TERM=screen exec tmux -D -S {dir}/s -f {dir}/tmux.conf",
        set: Talk::Shell(
            "tmux -S {dir}/s send-keys 'layer={n}; clear; echo now $layer' Enter; tmux -S {dir}/s capture-pane -p",
        ),
        done: "now {n}",
        ask: Talk::Shell(
            "tmux -S {dir}/s send-keys 'clear; echo layer is $layer' Enter; tmux -S {dir}/s capture-pane -p",
        ),
        state: "layer is {n}",
        keep: &[],
        options: "",
        // It wants the controlling terminal from outside, which its own dump refuses.
        criu: false,
    };
    row.survives();
}

#[test]
fn less_in_a_terminal_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["tmux", "less"],
        files: &[(
            "tmux.conf",
            "new-session -d -x 80 -y 24 'less {dir}/text'\n",
        )],
        start: "seq -f 'line %g of it' 1000 > {dir}/text; unset TMUX; \
                LC_ALL=C.UTF-8 TERM=screen exec tmux -D -S {dir}/s -f {dir}/tmux.conf",
        set: Talk::Shell(
            "tmux -S {dir}/s send-keys '{n}00g'; tmux -S {dir}/s capture-pane -p | head -1",
        ),
        done: "line {n}00 of it",
        ask: Talk::Shell(
            // One line on, and one back: it reads its keys and draws.
            "tmux -S {dir}/s send-keys jk; tmux -S {dir}/s capture-pane -p | head -1",
        ),
        state: "line {n}00 of it",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn memcached_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["memcached"],
        files: &[],
        start: "exec memcached -u nobody -l 127.0.0.1 -p {port} -U 0",
        set: Talk::Tcp("set layer 0 0 1\r\n{n}\r\n"),
        done: "STORED",
        ask: Talk::Tcp("get layer\r\n"),
        state: "VALUE layer 0 1\r\n{n}\r\n",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn mosquitto_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["mosquitto", "mosquitto_pub", "mosquitto_sub"],
        files: &[(
            "m.conf",
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n",
        )],
        start: "exec mosquitto -c {dir}/m.conf",
        set: Talk::Shell("mosquitto_pub -p {port} -r -t layer -m 'state {n}' && echo done"),
        done: "done",
        ask: Talk::Shell("mosquitto_sub -p {port} -t layer -C 1 -W 10"),
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn dnsmasq_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["dnsmasq", "python3"],
        files: &[
            ("hosts", ""),
            ("ask.py", include_str!("../programs/resolve.py")),
        ],
        start: "exec dnsmasq -k -u nobody -C /dev/null -p {port} -a 127.0.0.1 --bind-interfaces -R -h -H {dir}/hosts -x {dir}/pid",
        set: Talk::Shell(
            "echo 10.0.0.{n} layer.test > {dir}/hosts; kill -HUP $(cat {dir}/pid); python3 {dir}/ask.py {port}",
        ),
        done: "10.0.0.{n}",
        ask: Talk::Shell("python3 {dir}/ask.py {port}"),
        state: "10.0.0.{n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn a_perl_service_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["perl"],
        files: &[("server.pl", include_str!("../programs/server.pl"))],
        start: "exec perl {dir}/server.pl {port}",
        set: SET_LINE,
        done: "state {n}",
        ask: GET_LINE,
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn a_ruby_service_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["ruby"],
        files: &[("server.rb", include_str!("../programs/server.rb"))],
        start: "exec ruby {dir}/server.rb {port}",
        set: SET_LINE,
        done: "state {n}",
        ask: GET_LINE,
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn an_erlang_vm_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["erl", "erlc"],
        files: &[("server.erl", include_str!("../programs/server.erl"))],
        start: "cd {dir}; erlc server.erl && HOME={dir} exec erl -noshell -noinput -s server main {port}",
        set: SET_LINE,
        done: "state {n}",
        ask: GET_LINE,
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn the_sqlite3_shell_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["sqlite3", "mkfifo"],
        files: &[],
        start: "mkfifo {dir}/in; exec sqlite3 :memory: <> {dir}/in",
        set: Talk::Shell(
            "test -p {dir}/in || exit; echo 'create table if not exists t(n); insert into t values({n});' > {dir}/in; echo done",
        ),
        done: "done",
        ask: Talk::Shell(
            "rm -f {dir}/out; printf '.once {dir}/out\\nselect n from t order by rowid desc limit 1;\\n' > {dir}/in; \
             until [ -s {dir}/out ]; do sleep 0.01; done; cat {dir}/out",
        ),
        state: "{n}\n",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn a_program_of_cpp_with_threads_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["g++"],
        files: &[("server.cpp", include_str!("../programs/server.cpp"))],
        start: "g++ -O1 -pthread -o {dir}/server {dir}/server.cpp && exec {dir}/server {port}",
        set: SET_LINE,
        done: "state {n}",
        ask: GET_LINE,
        state: "state {n}",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn lighttpd_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["lighttpd"],
        files: &[
            ("page", "the page"),
            (
                "l.conf",
                "server.document-root = \"{dir}\"\nserver.port = {port}\nserver.bind = \"127.0.0.1\"\n\
                 server.username = \"www-data\"\nserver.modules = ( \"mod_status\" )\n\
                 status.status-url = \"/status\"\n",
            ),
        ],
        start: "exec lighttpd -D -f {dir}/l.conf",
        set: Talk::Tcp("GET /page HTTP/1.0\r\n\r\n"),
        done: "the page",
        ask: Talk::Tcp("GET /status HTTP/1.0\r\n\r\n"),
        state: "Server-Status",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn an_sshd_listener_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["/usr/sbin/sshd", "ssh-keygen"],
        files: &[],
        start: "mount -t tmpfs none /run; mkdir /run/sshd; ssh-keygen -q -t ed25519 -N '' -f {dir}/key; \
                exec /usr/sbin/sshd -D -e -f /dev/null -h {dir}/key -p {port} -o ListenAddress=127.0.0.1 -o PidFile=none",
        set: Talk::Shell("ssh-keyscan -p {port} 127.0.0.1 2>/dev/null"),
        done: "ssh-ed25519",
        ask: Talk::Tcp("hello\r\n"),
        state: "SSH-2.0",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn the_server_of_php_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["php"],
        files: &[("page.php", "<?php echo 'process ', getmypid() > 0;")],
        start: "exec php -S 127.0.0.1:{port} -t {dir}",
        set: Talk::Tcp("GET /page.php HTTP/1.0\r\n\r\n"),
        done: "process 1",
        ask: Talk::Tcp("GET /page.php HTTP/1.0\r\n\r\n"),
        state: "process 1",
        keep: &[],
        options: "",
        criu: true,
    };
    row.survives();
}

#[test]
fn cron_comes_back_from_each_of_three_layers() {
    let row = Row {
        needs: &["cron"],
        files: &[],
        // Its lock is in /run: one of its own.
        start: "mount -t tmpfs none /run; exec cron -f",
        set: Talk::Shell("cat /run/crond.pid"),
        done: "\n",
        ask: Talk::Shell("grep -c . /proc/$(cat /run/crond.pid)/comm"),
        state: "1",
        keep: &[],
        options: "--file-locks",
        criu: true,
    };
    row.survives();
}
