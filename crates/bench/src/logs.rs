//! Long logs, written once and copied for whoever opens, reads or compacts one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::child::{BATCH, BYTES};
use crate::contenders::{self, Contender, Setup, Store, System};
use crate::disk;
use crate::entries::{Noise, Source};
use crate::settings::Settings;

/// The logs written so far, by contender and length.
pub struct Logs {
    dir: PathBuf,
    file_bytes: u64,
    noise: Noise,
    written: BTreeMap<(Store, u64), TempDir>,
}

impl Logs {
    /// None yet.
    pub fn new(settings: &Settings, noise: &Noise) -> Self {
        Logs {
            dir: settings.dir.clone(),
            file_bytes: settings.file_bytes,
            noise: noise.clone(),
            written: BTreeMap::new(),
        }
    }

    /// An empty directory on the disk.
    pub fn empty(&self) -> Result<TempDir> {
        new_dir(&self.dir)
    }

    /// A directory with a log of `entries` entries, as its writer left it when it was closed.
    pub fn copy(&mut self, system: System, entries: u64) -> Result<TempDir> {
        let store = system.store().context("it keeps nothing on disk")?;
        if !self.written.contains_key(&(store, entries)) {
            let dir = self.write(store, entries)?;
            self.written.insert((store, entries), dir);
        }
        let written = self.written.get(&(store, entries));
        let copied = self.empty()?;
        copy(written.context("no such log")?.path(), copied.path())?;
        disk::settle(copied.path())?;
        Ok(copied)
    }

    /// Opens a directory of those.
    pub fn open(&self, system: System, dir: &Path) -> Result<Arc<dyn Contender>> {
        let store = system.store().context("it keeps nothing on disk")?;
        contenders::open(store, dir, self.setup(true))
    }

    fn write(&self, store: Store, entries: u64) -> Result<TempDir> {
        let dir = self.empty()?;
        let contender = contenders::open(store, dir.path(), self.setup(false))?;
        let mut source = Source::new(self.noise.clone(), 0);
        let mut batch = Vec::new();
        while source.last_index() < entries {
            let count = (entries - source.last_index()).min(BATCH as u64);
            source.fill(&mut batch, count as usize, BYTES);
            contender.append(0, &mut batch, None)?;
        }
        Ok(dir)
    }

    fn setup(&self, synced: bool) -> Setup {
        Setup {
            groups: 1,
            synced,
            // Opening would have to wait for the files to be made.
            prefill: false,
            file_bytes: self.file_bytes,
        }
    }
}

/// An empty directory, removed when it is dropped.
pub fn new_dir(parent: &Path) -> Result<TempDir> {
    let dir = TempDir::with_prefix_in("raft-rocks-bench-", parent);
    dir.with_context(|| format!("make a directory in {}", parent.display()))
}

/// A directory's files under the names of another. Hundreds of megabytes that nobody writes to
/// again need not be copied for every turn.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let files: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    let is_log = |name: &OsString| Path::new(name).extension() == Some(OsStr::new("raftlog"));
    let names = files.iter().map(fs::DirEntry::file_name);
    let newest_log = names.filter(is_log).max();
    for file in files {
        let (name, path) = (file.file_name(), file.path());
        let target = to.join(&name);
        // RocksDB's tables, and raft-engine's logs but the one that it appends to.
        let is_final = path.extension() == Some(OsStr::new("sst"))
            || (is_log(&name) && newest_log.as_ref() != Some(&name));
        if file.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&path, &target)?;
        } else if is_final {
            fs::hard_link(path, target)?;
        } else {
            fs::copy(path, target)?;
        }
    }
    Ok(())
}
