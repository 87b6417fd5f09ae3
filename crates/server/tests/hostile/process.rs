//! Nodes in processes of their own: what they hold in memory and what they log can be seen.
#![allow(dead_code, reason = "shared by tests that each use a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// For whatever takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Looks until it is so.
#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at a condition"
)]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(20));
    }
}

pub fn free_address() -> String {
    raft_rocks_testkit::free_address().unwrap().to_string()
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-rocks-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RAFT_ROCKS_")) {
        command.env_remove(name);
    }
    command
}

/// A node that runs, until it is dropped.
pub struct Process {
    child: Child,
    pub dir: PathBuf,
    log: PathBuf,
    pub clients: String,
    pub peers: String,
}

impl Process {
    /// Starts one with these addresses; a flag that is given again counts.
    pub fn start(dir: &Path, clients: &str, peers: &str, more: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let log = dir.with_extension("log");
        let written = fs::File::options().append(true).create(true).open(&log);
        let child = program()
            .args(["--listen", clients, "--peer-listen", peers])
            .args(["--http-listen", "off"])
            .args(["--durability", "low", "--tick-ms", "50"])
            .args(more)
            .arg("--dir")
            .arg(dir)
            .stderr(written.unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Process {
            child,
            dir: dir.to_owned(),
            log,
            clients: clients.to_owned(),
            peers: peers.to_owned(),
        }
    }

    /// Everything it has logged, in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn logs(&self, part: &str) {
        let what = format!("{part:?} in {}", self.log.display());
        until(&what, || self.log().contains(part).then_some(()));
    }

    pub fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(&mut self) -> Option<i32> {
        until("its end", || self.child.try_wait().unwrap()).code()
    }

    /// From now on the peak of its memory counts.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// The most memory it has held, in MiB; the kernel counts it roughly, and may take some back.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() / 1024
    }

    /// What it answers to words, if it answers.
    pub fn ask(&self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        request.push_str("QUIT\r\n");
        let mut stream = TcpStream::connect(&self.clients).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.strip_suffix("+OK\r\n").map(str::to_owned)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Three voters.
pub struct Cluster {
    pub nodes: Vec<Process>,
    pub dirs: TempDir,
    flags: Vec<String>,
    written: u64,
}

impl Cluster {
    pub fn of_three() -> Self {
        Cluster::with(&[], |_| Vec::new())
    }

    /// With flags for all, and some for each.
    pub fn with(flags: &[&str], each: impl Fn(u64) -> Vec<String>) -> Self {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            dirs: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            written: 0,
        };
        for id in 1..=3 {
            let more = each(id);
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let node = cluster.node(id, &more);
            cluster.nodes.push(node);
            cluster.until_voter(id);
        }
        cluster
    }

    /// A node that asks to be taken in, unless it is the first.
    pub fn node(&self, id: u64, more: &[&str]) -> Process {
        let id = id.to_string();
        let mut flags: Vec<&str> = vec!["--id", &id];
        if let Some(first) = self.nodes.first() {
            flags.extend(["--join", &first.peers]);
        }
        flags.extend(self.flags.iter().map(String::as_str));
        flags.extend(more);
        let dir = self.dirs.path().join(&id);
        Process::start(&dir, &free_address(), &free_address(), &flags)
    }

    pub fn until_voter(&self, id: u64) {
        let what = format!("node {id} is a voter");
        let expected = format!("$6\r\nvoters\r\n$1\r\n{}\r\n", self.nodes.len().max(1));
        until(&what, || {
            let node = self.nodes.last()?;
            node.ask("RAFTSTATS")?.contains(&expected).then_some(())
        });
    }

    pub fn first(&self) -> &Process {
        &self.nodes[0]
    }

    /// The same node again, which was killed; with the flags of all.
    pub fn restart(&mut self, at: usize) {
        let node = &self.nodes[at];
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.nodes[at] = Process::start(&node.dir, &node.clients, &node.peers, &flags);
    }

    /// Every node takes a write and reads it.
    pub fn goes_on(&mut self) {
        for node in &self.nodes {
            self.written += 1;
            let n = self.written.to_string();
            until("a write", || {
                (node.ask(&format!("SET goes-on {n}"))? == "+OK\r\n").then_some(())
            });
            let expected = format!("${}\r\n{n}\r\n", n.len());
            until("a read", || {
                (node.ask("GET goes-on")? == expected).then_some(())
            });
        }
    }
}
