//! Copies of whole stores.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::snapshot::{make_dir, sync_dir};

/// Files that nobody writes to once they have their name.
const IMMUTABLE: [&str; 3] = [".sst", ".blob", ".snap"];

/// Refuses a directory with something in it.
pub(super) fn check_absent(dir: &Path) -> Result<()> {
    let first = match fs::read_dir(dir) {
        Ok(mut listing) => listing.next(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    match first {
        None => Ok(()),
        Some(_) => Err(Error::InvalidOptions {
            field: "dir",
            reason: format!("{} is not empty; name a new directory", dir.display()),
        }),
    }
}

/// Where a store is made before it gets its name.
pub(super) fn partial(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".raft-rocks-partial");
    name.into()
}

pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// Copies a store that nobody writes to, durably.
pub(super) fn copy_store(from: &Path, to: &Path) -> Result<()> {
    check_absent(to)?;
    make_dir(to)?;
    let listing = fs::read_dir(from).map_err(|e| Error::io("list", from, e))?;
    for file in listing {
        let file = file.map_err(|e| Error::io("list", from, e))?;
        let (path, target) = (file.path(), to.join(file.file_name()));
        if path.is_dir() {
            copy_store(&path, &target)?;
        } else if !is_left_out(&file.file_name().to_string_lossy()) {
            copy_file(&path, &target).map_err(|e| Error::io("copy", &path, e))?;
        }
    }
    sync_dir(to)
}

/// Locks, and what RocksDB writes for people to read.
fn is_left_out(name: &str) -> bool {
    name == "lock" || name.starts_with("LOG") || name == "LOCK"
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let name = from.to_string_lossy();
    let is_immutable = IMMUTABLE.iter().any(|suffix| name.ends_with(suffix));
    if is_immutable && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to)?;
    fs::File::open(to)?.sync_all()
}
