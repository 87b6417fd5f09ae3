//! A file system in RAM with real sync paths: ext4 on a loop device over a file in a RAM disk.
//! Its speed depends on nobody else, so that a long append is the engine's own doing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
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

/// Whether this process can mount one: it takes root, mkfs.ext4 and a free loop device.
pub fn check(ram_dir: &Path) -> Result<()> {
    const SMALLEST: u64 = 8 << 20;
    let tried = Image::mount(ram_dir, SMALLEST);
    tried.map(drop).context("mount an ext4 image, as root")
}
