//! Processes of nodes, which end with the benchmark.

use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use raft_rocks_testkit::free_address;

/// How long a cluster may take to come about.
const START_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// What is shown of the log of a node that has ended.
const LINES_SHOWN: usize = 10;

/// A process; killed when it is dropped.
pub struct Node {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts a program that logs into a file of `dir`.
    pub fn start(mut command: Command, dir: &Path, name: String) -> Result<Node> {
        fs::create_dir_all(dir)?;
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Node { name, child, log })
    }

    /// Fails when it has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let shown = lines.len().saturating_sub(LINES_SHOWN);
        let end = lines.get(shown..).unwrap_or_default().join("\n");
        bail!("{} has ended ({status}):\n{end}", self.name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended, or is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until it is so, and at the nodes meanwhile.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    nodes: &mut [Node],
    mut look: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let looked = look().await;
        if matches!(looked, Ok(true)) {
            return Ok(());
        }
        for node in &mut *nodes {
            node.check()?;
        }
        if Instant::now() >= deadline {
            looked.with_context(|| format!("{what}, not within {START_PATIENCE:?}"))?;
            bail!("{what}: not within {START_PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Addresses on which nobody listens.
pub fn free_addresses(count: usize) -> Result<Vec<String>> {
    let free = (0..count).map(|_| Ok(free_address()?.to_string()));
    free.collect()
}
