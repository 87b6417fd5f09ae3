//! The disk: what state it is in, and whether bytes written to it are counted.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::harness::{median, rest};

const PAGE: usize = 4096;
/// Slower than this many times the best that was seen, a disk is being held back.
const SLOW: f64 = 2.5;
const REST: Duration = Duration::from_millis(250);

/// Sees that a turn does not start while the disk is being held back: shared disks have a
/// budget of syncs, and once it is spent each costs milliseconds, whoever asks.
pub struct Pace {
    /// Where memory is touched before a turn, and how much.
    touched: Option<(PathBuf, u64)>,
    /// `None` where nothing is synced to a disk.
    probe: Option<File>,
    best: f64,
    pause: Duration,
    left: Duration,
    waited: Duration,
}

impl Pace {
    /// For a directory on a disk.
    pub fn new(dir: &Path, pause: Duration, recovery: Duration) -> Result<Self> {
        let mut probe = tempfile::tempfile_in(dir)?;
        probe.write_all(&[1; PAGE])?;
        probe.sync_all()?;
        Ok(Pace {
            touched: None,
            probe: Some(probe),
            best: f64::INFINITY,
            pause,
            left: recovery,
            waited: Duration::ZERO,
        })
    }

    /// For a directory in RAM.
    pub fn in_ram(dir: &Path, pause: Duration, touched_bytes: u64) -> Self {
        Pace {
            touched: Some((dir.to_owned(), touched_bytes)),
            probe: None,
            best: f64::INFINITY,
            pause,
            left: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    /// Waits before a turn.
    pub fn wait(&mut self) -> Result<()> {
        // Also what a contender left to its background threads has time to be done.
        rest(self.pause);
        if let Some((dir, bytes)) = &self.touched {
            touch_memory(dir, *bytes)?;
        }
        let Some(probe) = &self.probe else {
            return Ok(());
        };
        loop {
            let took = sync_time(probe)?;
            self.best = self.best.min(took);
            if took <= SLOW * self.best || self.left.is_zero() {
                return Ok(());
            }
            rest(REST);
            self.left = self.left.saturating_sub(REST);
            self.waited += REST;
        }
    }

    /// How long was waited for a disk that was slow.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// Seconds that overwriting a page and syncing it takes: the median of a few.
fn sync_time(probe: &File) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        probe.write_all_at(&[2; PAGE], 0)?;
        probe.sync_data()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

/// Writes out what stands in memory of a directory's files, so that no turn pays for what was
/// written before it.
pub fn settle(dir: &Path) -> Result<()> {
    for file in fs::read_dir(dir)? {
        let file = file?;
        if file.file_type()?.is_dir() {
            settle(&file.path())?;
        } else {
            match File::open(file.path()) {
                Ok(open) => open.sync_all()?,
                // RocksDB removes files whenever it likes.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context(file.path().display().to_string()),
            }
        }
    }
    Ok(())
}

/// Has the kernel hand out so much memory and take it back. A virtual machine may get its memory
/// page by page, on first use, which can take ten times as long as using it, and may give back
/// what has been free for some seconds: whose turn comes then would pay for that.
pub fn touch_memory(ram_dir: &Path, bytes: u64) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut file = tempfile::tempfile_in(ram_dir)?;
    let mut written = 0;
    while written < bytes {
        match file.write_all(&zeros) {
            Ok(()) => written += zeros.len() as u64,
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
            Err(e) => return Err(e).context("write to the RAM disk"),
        }
    }
    Ok(())
}

/// The bytes this process has had written to disks, as the kernel counts them: when a page
/// becomes dirty.
pub fn bytes_written() -> Result<u64> {
    let io = fs::read_to_string("/proc/self/io").context("read /proc/self/io")?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    let bytes = line.context("/proc/self/io has no write_bytes")?;
    Ok(bytes.trim().parse()?)
}

/// Whether bytes written to a directory are counted. In tmpfs they are not.
pub fn counts_bytes(dir: &Path) -> Result<bool> {
    const BYTES: usize = 256 << 10;
    let before = bytes_written()?;
    let mut file = tempfile::tempfile_in(dir)?;
    file.write_all(&vec![1; BYTES])?;
    file.sync_all()?;
    Ok(bytes_written()? - before >= BYTES as u64)
}
