//! One node of a cluster: its place on this machine, and its process when it runs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args as _;
use raft_rocks_testkit::free_address;
use tokio::process::Command;

use crate::process::Process;
use crate::shim::{Control, Shim};

/// What a node is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `--durability`.
    pub durability: &'static str,
    /// `--redirect`.
    pub redirect: &'static str,
    /// `--tick-ms`.
    pub tick_ms: u64,
    /// `--snapshot-entries` and `--keep-entries`.
    pub compaction: (u64, u64),
}

impl Flags {
    /// What acknowledges nothing that a power cut could take.
    pub fn new(tick_ms: u64, compaction: (u64, u64)) -> Self {
        Flags {
            durability: "high",
            redirect: "forward",
            tick_ms,
            compaction,
        }
    }
}

/// Addresses of a node.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// Where it listens for nodes.
    pub peer: SocketAddr,
    /// Where nodes reach it: the proxy.
    pub advertised: SocketAddr,
    /// For browsers, where the server has that.
    pub http: SocketAddr,
}

impl Addresses {
    /// Free ones.
    ///
    /// # Errors
    /// There are none.
    pub fn free() -> Result<Self> {
        Ok(Addresses {
            client: free_address()?,
            peer: free_address()?,
            advertised: free_address()?,
            http: free_address()?,
        })
    }
}

/// A node.
pub struct Node {
    /// Its number here; ids are given by the cluster, and a new one to each that joins.
    pub number: usize,
    /// Where it listens.
    pub addresses: Addresses,
    /// What it is started with.
    pub flags: Flags,
    dir: PathBuf,
    log: PathBuf,
    shim: Option<(Shim, Control)>,
    process: Option<Process>,
}

impl Node {
    /// One that does not run yet, with everything of it below `home`.
    ///
    /// # Errors
    /// No address is free, or no file can be made.
    pub fn new(number: usize, home: &Path, flags: Flags, shim: Option<&Shim>) -> Result<Self> {
        let shim = match shim {
            None => None,
            Some(shim) => {
                let control = Control::create(home.join(format!("control-{number}")))?;
                Some((shim.clone(), control))
            }
        };
        Ok(Node {
            number,
            addresses: Addresses::free()?,
            flags,
            dir: home.join(format!("node-{number}")),
            log: home.join(format!("node-{number}.log")),
            shim,
            process: None,
        })
    }

    /// Starts it; `join` names members of a cluster it is to join when it is none yet.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(&mut self, program: &Path, join: &[SocketAddr]) -> Result<i32> {
        ensure!(self.process.is_none(), "node {} runs already", self.number);
        let mut command = Command::new(program);
        command.args(self.arguments(join));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFT_ROCKS_") {
                command.env_remove(name);
            }
        }
        if let Some((shim, control)) = &self.shim {
            shim.preload(&mut command, &self.dir, control);
        }
        let process = Process::start(command, &self.log)?;
        let pid = process.pid();
        self.process = Some(process);
        Ok(pid)
    }

    fn arguments(&self, join: &[SocketAddr]) -> Vec<OsString> {
        let (every, keep) = self.flags.compaction;
        let (of, flags) = (&self.addresses, &self.flags);
        let mut words: Vec<String> = vec!["server".to_owned(), "--".to_owned()];
        let mut add = |name: &str, value: &dyn std::fmt::Display| {
            words.extend([name.to_owned(), value.to_string()]);
        };
        add("--dir", &self.dir.display());
        add("--listen", &of.client);
        add("--peer-listen", &of.peer);
        add("--advertise", &of.advertised);
        add("--durability", &flags.durability);
        add("--consistency", &"high");
        add("--redirect", &flags.redirect);
        add("--tick-ms", &flags.tick_ms);
        add("--snapshot-entries", &every);
        add("--keep-entries", &keep);
        if serves_http() {
            add("--http-listen", &of.http);
        }
        if !join.is_empty() {
            let join: Vec<_> = join.iter().map(SocketAddr::to_string).collect();
            add("--join", &join.join(","));
        }
        words.into_iter().map(OsString::from).collect()
    }

    /// Its process, when it runs.
    ///
    /// # Errors
    /// It does not.
    pub fn process(&self) -> Result<&Process> {
        let process = self.process.as_ref();
        process.with_context(|| format!("node {} does not run", self.number))
    }

    /// Its process, to end it.
    ///
    /// # Errors
    /// It does not run.
    pub fn take_process(&mut self) -> Result<Process> {
        let process = self.process.take();
        process.with_context(|| format!("node {} does not run", self.number))
    }

    /// Whether it was started, and nobody has ended it.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// How it has ended by itself, if it has.
    pub fn has_failed(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut()?.ended()
    }

    /// What steers its disk and clock.
    ///
    /// # Errors
    /// It was made without.
    pub fn control(&self) -> Result<&Control> {
        let shim = self.shim.as_ref();
        Ok(&shim.context("this cluster runs without a shim")?.1)
    }

    /// Removes everything it has, as a new disk would.
    ///
    /// # Errors
    /// The system's.
    pub fn wipe(&self) -> Result<()> {
        ensure!(!self.is_up(), "node {} runs", self.number);
        std::fs::remove_dir_all(&self.dir).context("wipe a node")
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether the server of this build has a status page.
pub fn serves_http() -> bool {
    let command = raft_rocks_server::config::Flags::augment_args(clap::Command::new("server"));
    let mut flags = command.get_arguments();
    flags.any(|flag| flag.get_long() == Some("http-listen"))
}
