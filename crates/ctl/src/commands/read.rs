//! Reading a store for a command, with a progress bar.

use std::path::Path;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use raft_rocks::tools::{Locked, View};
use serde_json::Value;
use tempfile::TempDir;

use crate::args::Common;
use crate::survey::{States, Survey};
use crate::verdict::Verdict;

/// A store as it stands, and the copies that it is read from.
pub struct Reading {
    pub view: View,
    /// Removed after the view is closed: fields are dropped in order.
    _scratch: TempDir,
}

impl Reading {
    /// Reads a store that nobody has open.
    pub fn open(common: &Common, dir: &Path) -> Result<Reading> {
        Reading::with(common, |snapshots, scratch| {
            View::open(dir, snapshots, scratch)
        })
        .with_context(|| format!("reading {}", dir.display()))
    }

    /// Reads a store that we have locked.
    pub fn of(common: &Common, locked: &Locked) -> Result<Reading> {
        Reading::with(common, |snapshots, scratch| locked.view(snapshots, scratch))
    }

    fn with(
        common: &Common,
        open: impl FnOnce(Option<&Path>, &Path) -> raft_rocks::Result<View>,
    ) -> Result<Reading> {
        let scratch = tempfile::Builder::new()
            .prefix("raft-rocks-ctl-")
            .tempdir_in(&common.scratch);
        let scratch = scratch
            .with_context(|| format!("creating a directory in {}", common.scratch.display()))?;
        Ok(Reading {
            view: open(common.snapshots.as_deref(), scratch.path())?,
            _scratch: scratch,
        })
    }

    /// The ids of all groups; none where RocksDB cannot tell, which an open refuses.
    pub fn groups(&self) -> Vec<u64> {
        self.view.groups().unwrap_or_default()
    }

    /// Reads every record of every group.
    pub fn survey(&self) -> Result<Vec<Survey>> {
        if !self.view.is_readable() {
            return Ok(Vec::new());
        }
        let groups = self.groups();
        let mut entries: u64 = 0;
        for group in &groups {
            let stated = States::read(&self.view, *group)?.stated_len();
            entries = entries.saturating_add(stated);
        }
        let bar = progress_bar(entries)?;
        let read = |group: &u64| Survey::read(&self.view, *group, |done| bar.inc(done));
        let surveys = groups.iter().map(read).collect();
        bar.finish_and_clear();
        surveys
    }

    /// Reads and judges everything.
    pub fn judge(&self) -> Result<(Vec<Survey>, Verdict)> {
        let surveys = self.survey()?;
        let verdict = Verdict::of(&self.view, &surveys);
        Ok((surveys, verdict))
    }
}

/// On stderr, when that is a terminal.
pub fn progress_bar(entries: u64) -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} entries, {eta} left")?;
    Ok(ProgressBar::new(entries).with_style(style))
}

/// Prints a document to stdout.
pub fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    say!("{text}");
    Ok(())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
