//! The process of a node.
//!
//! Invariants:
//! 1. A process is ended by the handle that started it, and by nobody else; it ends with us, also
//!    when we are killed (the program asks the system for that, [`die_with_parent`]).
//! 2. Who was paused goes on before it is told to end: a stopped process keeps SIGTERM waiting.
//!
//! What it writes goes to a file outside its directory, so that a wiped node keeps its past.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::PATIENCE;

/// How long a process may take to end in good order.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A process that was started, and may have ended by itself.
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts it; what it writes is appended to `log`.
    ///
    /// # Errors
    /// It could not be started, or its log not be opened.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let opened = open().and_then(|out| Ok((out, open()?)));
        let (out, err) = opened.with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.kill_on_drop(true).spawn().context("start a node")?;
        let pid = child.id().context("a node that has ended at once")?;
        let pid = Pid::from_raw(i32::try_from(pid).context("its number")?);
        Ok(Process { child, pid })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("{signal} to process {}", self.pid))
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// The system's.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill a node")
    }

    /// Stops it where it stands (SIGSTOP).
    ///
    /// # Errors
    /// The system's.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// The system's.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Tells it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.resume()?;
        self.signal(Signal::SIGTERM)?;
        let ended = tokio::time::timeout(END_PATIENCE, self.child.wait()).await;
        let told = || format!("a node told to end has not within {END_PATIENCE:?}");
        ended.with_context(told)?.context("wait for a node")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not for a long time.
    pub async fn end(mut self) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let goes_on = || format!("a node that should have stopped has not within {PATIENCE:?}");
        ended.with_context(goes_on)?.context("wait for a node")
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // What cannot be waited for is there no more, and says so when it is asked something.
        self.child.try_wait().ok().flatten()
    }
}

/// Lets this process be killed when the one that started it ends, however.
///
/// # Errors
/// The system's.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")
}
