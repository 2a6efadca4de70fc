//! PostgreSQL: several processes of another user, with System V and POSIX shared memory and semaphores in it.
//! Files are not part of a layer, so the test keeps the data directory beside each layer, and those in
//! `/dev/shm`, which the server removes when its first process is killed alone.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::{Need, Sandbox, Target, postgres, require, wait_until};

/// A server in its sandbox.
pub struct Server {
    pub sandbox: Sandbox,
    pub port: String,
    pub pid: i32,
    /// Its files in /dev/shm, and its segments of System V: what outlives its processes.
    shared: RefCell<BTreeSet<String>>,
    segments: RefCell<BTreeSet<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody else ends them.
        self.note();
        for id in self.segments.borrow().iter() {
            drop(Command::new("ipcrm").args(["-m", id]).output());
        }
        for path in self.shared.borrow().iter() {
            drop(fs::remove_file(path));
        }
    }
}

impl Server {
    /// Makes a cluster of the user nobody and starts its server.
    pub fn start() -> Self {
        let mut sandbox = Sandbox::new();
        let dir = sandbox.path("cluster");
        fs::create_dir(&dir).unwrap();
        for path in [sandbox.path(""), dir.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).unwrap();
        let port = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port().to_string()
        };
        let bin = postgres().unwrap();
        let nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let (initdb, server) = (bin.join("initdb"), bin.join("postgres"));
        let data = dir.join("data");
        let (data, dir) = (data.to_str().unwrap(), dir.to_str().unwrap());
        let make = [
            &nobody[1..],
            &[initdb.to_str().unwrap(), "-D", data, "-A", "trust", "-N"],
            &["--wal-segsize=1", "--locale=C"],
        ];
        sandbox.run(nobody[0], &make.concat()).ok();
        let mut words = nobody.to_vec();
        words.extend([server.to_str().unwrap(), "-D", data, "-k", dir, "-p", &port]);
        words.extend(["-h", "127.0.0.1", "-B", "32MB", "-F"]);
        // It writes to its files when it is told to, so that a copy fits its layer.
        words.extend(["-c", "autovacuum=off", "-c", "checkpoint_timeout=1d"]);
        let pid = sandbox.start("server.log", &words);
        Self {
            sandbox,
            port,
            pid,
            shared: RefCell::default(),
            segments: RefCell::default(),
        }
    }

    fn target(&self) -> Target {
        Target::silent(self.pid, self.sandbox.proc(""))
    }

    /// The mappings of all its processes.
    fn maps(&self) -> Vec<String> {
        let maps = |pid: i32| fs::read_to_string(self.sandbox.proc(&format!("{pid}/maps")));
        let members = self.target().members().into_iter();
        let all: Vec<String> = members.flat_map(maps).collect();
        all.iter()
            .flat_map(|text| text.lines())
            .map(str::to_owned)
            .collect()
    }

    /// Takes note of what outlives its processes.
    fn note(&self) {
        for line in self.maps() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [.., id, path, _deleted] if path.starts_with("/SYSV") => {
                    self.segments.borrow_mut().insert(id.to_owned());
                }
                [.., path] if path.starts_with("/dev/shm/") => {
                    self.shared.borrow_mut().insert(path.to_owned());
                }
                _ => {}
            }
        }
    }

    /// Keeps the files of a layer.
    fn keep(&mut self, layer: i32) {
        self.copy("cluster/data", &format!("data.{layer}"));
        self.note();
        fs::create_dir(self.sandbox.path(format!("shm.{layer}"))).unwrap();
        for path in self.shared.borrow().iter() {
            self.copy_file(path, &format!("shm.{layer}"));
        }
    }

    fn put_back(&self, layer: i32) {
        self.copy(&format!("data.{layer}"), "cluster/data");
        for file in fs::read_dir(self.sandbox.path(format!("shm.{layer}"))).unwrap() {
            self.copy_file(file.unwrap().path().to_str().unwrap(), "/dev/shm");
        }
    }

    fn copy_file(&self, from: &str, to: &str) {
        self.sandbox.run("cp", &["-a", from, to]).ok();
    }

    /// What psql needs to be told to reach it.
    pub fn address(&self) -> [String; 7] {
        let words = [
            "-h",
            "127.0.0.1",
            "-p",
            &self.port,
            "-U",
            "nobody",
            "postgres",
        ];
        words.map(str::to_owned)
    }

    /// What psql answers, as soon as the server does.
    pub fn ask(&self, question: &str) -> String {
        let address = self.address();
        let mut words: Vec<&str> = address.iter().map(String::as_str).collect();
        words.extend(["-Atqc", question]);
        let answer = wait_until(question, || {
            let run = self.sandbox.run("psql", &words);
            assert!(
                self.sandbox.exists(self.pid),
                "{}",
                fs::read_to_string(self.sandbox.path("server.log")).unwrap()
            );
            (run.code == 0).then(|| run.stdout.trim().to_owned())
        });
        self.note();
        answer
    }

    fn copy(&self, from: &str, to: &str) {
        let path = |name: &str| self.sandbox.path(name).to_str().unwrap().to_owned();
        // Into the same files.
        let (from, to) = (path(&format!("{from}/.")), path(to));
        self.sandbox.run("cp", &["-a", &from, &to]).ok();
    }
}

#[test]
fn postgresql_comes_back_from_each_of_three_layers() {
    if !require(&[Need::Root, Need::Postgres]) {
        return;
    }
    let mut server = Server::start();
    server.ask("create table t as select n, 0 as layer from generate_series(1, 20000) n");
    let state = "select count(*), sum(layer) from t";
    for layer in 1..=3 {
        server.ask(&format!(
            "update t set layer = {layer} where n % 3 = 0 or n < 5000"
        ));
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "-R --prev-images-dir ../2",
        };
        // A backend may still be on its way out.
        wait_until("the dump is possible", || {
            let words = format!("dump -t {} -D {layer} {mode}", server.pid);
            let run = server.sandbox.icecore(&words);
            let passing = ["TCP", "changed since", "ended"];
            let passes = passing.iter().any(|word| run.stderr.contains(word));
            assert!(run.code == 0 || passes, "{}", run.stderr);
            (run.code == 0).then_some(())
        });
        server.keep(layer);
    }
    let members = server.target().members();
    assert!(members.len() > 3, "{members:?}");
    for layer in [2, 3, 1] {
        server.sandbox.kill(&server.target());
        server.put_back(layer);
        server
            .sandbox
            .icecore(&format!("restore -D {layer} -d"))
            .ok();
        let sum = layer
            * server
                .ask("select count(*) from t where n % 3 = 0 or n < 5000")
                .parse::<i32>()
                .unwrap();
        assert_eq!(server.ask(state), format!("20000|{sum}"));
        assert_eq!(server.ask("show server_version_num").len(), 6);
        // It goes on: the shared buffers are written, and read by other processes.
        server.ask("update t set layer = 7; checkpoint");
        assert_eq!(server.ask(state), "20000|140000");
    }
}
