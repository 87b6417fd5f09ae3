//! Measurements that need a process of their own: what is resident, and what was written.
//! The parent runs this same program again, and reads one line of JSON from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::contenders::{self, Contender, Setup, System};
use crate::disk;
use crate::entries::{Noise, Source};
use crate::settings::Settings;

/// Entries of one append where long logs are written.
pub const BATCH: usize = 64;
/// Bytes of their data.
pub const BYTES: usize = 256;

/// One measurement.
#[derive(Args)]
pub struct Task {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum)]
    system: System,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    file_bytes: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 0)]
    entries: u64,
    #[arg(long, default_value_t = 0)]
    keep: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Resident,
    Written,
}

/// What a child found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// KiB resident once the store in `dir` was open.
    #[serde(default)]
    pub resident_kib: u64,
    /// Bytes that the kernel counted as written, from the open store to the closed one.
    #[serde(default)]
    pub written: u64,
    /// Bytes of the entries' data.
    #[serde(default)]
    pub entry_bytes: u64,
}

/// KiB that are resident in a fresh process that has opened the store in `dir`.
pub fn resident_kib(settings: &Settings, system: System, dir: &Path) -> Result<u64> {
    Ok(call(settings, system, dir, "resident", &[])?.resident_kib)
}

/// Appends `entries` to the empty store in `dir`, keeping the last `keep`.
pub fn written(
    settings: &Settings,
    system: System,
    dir: &Path,
    entries: u64,
    keep: u64,
) -> Result<Found> {
    let (entries, keep) = (entries.to_string(), keep.to_string());
    let more = ["--entries", &entries, "--keep", &keep];
    call(settings, system, dir, "written", &more)
}

fn call(
    settings: &Settings,
    system: System,
    dir: &Path,
    kind: &str,
    more: &[&str],
) -> Result<Found> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program)
        .args(["child", "--kind", kind, "--system", system.name(), "--dir"])
        .arg(dir)
        .args(["--file-bytes", &settings.file_bytes.to_string()])
        .args(["--seed", &settings.seed.to_string()])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .context("run a child process")?;
    ensure!(output.status.success(), "a child process failed");
    serde_json::from_slice(&output.stdout).context("read what a child process found")
}

/// In the child.
pub fn run(task: &Task) -> Result<()> {
    let store = task.system.store().context("nothing to open")?;
    let setup = Setup {
        groups: 1,
        synced: false,
        // What is made beforehand is neither part of the log nor written for it.
        prefill: false,
        file_bytes: task.file_bytes,
    };
    let contender = contenders::open(store, &task.dir, setup)?;
    let found = match task.kind {
        Kind::Resident => Found {
            resident_kib: resident()?,
            ..Found::default()
        },
        Kind::Written => {
            let before = disk::bytes_written()?;
            let entry_bytes = write(&*contender, task)?;
            drop(contender);
            Found {
                written: disk::bytes_written()? - before,
                entry_bytes,
                ..Found::default()
            }
        }
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn write(contender: &dyn Contender, task: &Task) -> Result<u64> {
    let mut source = Source::new(Noise::new(task.seed), 0);
    let (mut entries, mut compacted, mut unpurged) = (Vec::new(), 0, 0);
    // A tenth of what is kept: often enough that the log is never much longer.
    let step = (task.keep / 10).max(BATCH as u64);
    while source.last_index() < task.entries {
        source.fill(&mut entries, BATCH, BYTES);
        contender.append(0, &mut entries, None)?;
        let last = source.last_index();
        if last >= compacted + task.keep + step {
            compacted = last - task.keep;
            contender.set_applied(0, last)?;
            contender.compact(0, compacted + 1)?;
        }
        unpurged += (BATCH * BYTES) as u64;
        if unpurged >= task.file_bytes / 4 {
            unpurged = 0;
            contender.purge()?;
        }
    }
    Ok(source.last_index() * BYTES as u64)
}

fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("/proc/self/status has no VmRSS")?;
    Ok(kib.trim().trim_end_matches(" kB").trim().parse()?)
}
