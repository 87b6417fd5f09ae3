//! A file system in RAM with real sync paths: ext4 on a loop device over a file in a RAM disk.
//! Its speed depends on nobody else, so that a long append is the engine's own doing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// Mounted until it is dropped.
pub struct Image {
    mount: PathBuf,
    _dir: TempDir,
}

impl Image {
    /// Makes and mounts an image in a RAM disk. Needs root.
    pub fn mount(ram_dir: &Path, bytes: u64) -> Result<Self> {
        let dir = TempDir::with_prefix_in("raft-rocks-bench-image-", ram_dir)?;
        let (file, mount) = (dir.path().join("image"), dir.path().join("mount"));
        File::create(&file)?.set_len(bytes)?;
        fs::create_dir(&mount)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&file))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&file)
            .arg(&mount))?;
        Ok(Image { mount, _dir: dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(e) = run(Command::new("umount").arg(&self.mount)) {
            eprintln!("{} stays mounted: {e:#}", self.mount.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", said.trim());
    Ok(())
}

/// Whether this process may mount.
pub fn check_root() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    match uids.and_then(|uids| uids.split_whitespace().nth(1)) {
        Some("0") => Ok(()),
        _ => bail!("mounting an ext4 image needs root"),
    }
}
