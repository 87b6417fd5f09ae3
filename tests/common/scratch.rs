//! Directories for tests that write much and sync often.

use std::io;
use std::path::Path;

use tempfile::TempDir;

/// A new directory, in memory where the system offers that.
pub fn scratch() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir())
    } else {
        tempfile::tempdir()
    }
}
