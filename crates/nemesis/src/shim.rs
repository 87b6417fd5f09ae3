//! What stands between a node and its disk and clock: a library that is loaded before all others
//! (`shim.c`, compiled with `cc`), and steered through a file of six numbers.
//!
//! Invariants:
//! 1. The file is outside of the node's directory and outlives its process: a fault holds for the
//!    next start too, until it is taken back.
//! 2. What the shim has done is counted in that file, so that a fault that met nothing is not
//!    counted as one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

const SOURCE: &str = include_str!("shim.c");
const FIELDS: u64 = 6;

/// The library.
#[derive(Clone)]
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it into `dir`.
    ///
    /// # Errors
    /// There is no `cc`, or it says what is wrong.
    pub fn compile(dir: &Path) -> Result<Self> {
        let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
        std::fs::write(&source, SOURCE).context("write the shim")?;
        let mut cc = std::process::Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]);
        cc.arg("-o").arg(&library).arg(&source).arg("-ldl");
        let output = cc.output().context("run cc, which compiles the shim")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cc does not compile the shim: {said}"
        );
        Ok(Shim { library })
    }

    /// Lets `command` run over it.
    pub fn preload(&self, command: &mut Command, root: &Path, control: &Control) {
        command.env("LD_PRELOAD", &self.library);
        command.env("NEMESIS_ROOT", root);
        command.env("NEMESIS_CONTROL", &control.path);
    }
}

/// What the shim of one node does, and has done.
pub struct Control {
    file: File,
    path: PathBuf,
}

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Syncs that took longer.
    SyncsDelayed = 3,
    /// Writes and allocations that found no space.
    WritesRefused = 4,
    /// Looks at a clock that had jumped.
    ClocksMoved = 5,
}

#[expect(
    clippy::host_endian_bytes,
    reason = "memory that two processes of this machine share"
)]
impl Control {
    /// A new file: nothing is done, nothing was.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: PathBuf) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true);
        let file = options.open(&path).context("make a control file")?;
        file.set_len(8 * FIELDS).context("make a control file")?;
        Ok(Control { file, path })
    }

    fn set(&self, field: u64, value: i64) -> Result<()> {
        let written = self.file.write_all_at(&value.to_ne_bytes(), 8 * field);
        written.context("steer a shim")
    }

    /// Every sync takes this much longer.
    ///
    /// # Errors
    /// The system's.
    pub fn delay_syncs(&self, by: Duration) -> Result<()> {
        self.set(0, i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
    }

    /// The disk has no space left, or has again.
    ///
    /// # Errors
    /// The system's.
    pub fn fill(&self, is_full: bool) -> Result<()> {
        self.set(1, i64::from(is_full))
    }

    /// The time of day is this far from the right one.
    ///
    /// # Errors
    /// The system's.
    pub fn move_clock(&self, ms: i64) -> Result<()> {
        self.set(2, ms)
    }

    /// Everything is as without a shim.
    ///
    /// # Errors
    /// The system's.
    pub fn heal(&self) -> Result<()> {
        (0..3).try_for_each(|field| self.set(field, 0))
    }

    /// How often it has happened.
    ///
    /// # Errors
    /// The system's.
    pub fn count(&self, counter: Counter) -> io::Result<i64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 8 * counter as u64)?;
        Ok(i64::from_ne_bytes(bytes))
    }
}
