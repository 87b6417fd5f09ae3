//! Scripts of storage operations on a store and on the model of it, side by side, with reopens.
//!
//! A finding prints the script, and the input that makes it can be played again with
//! `cargo +nightly fuzz run -s none storage_ops <file>`.
#![no_main]

use std::env;
use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use raft_rocks::testing::model::{STEP_BYTES, Script, check};
use tempfile::TempDir;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    if bytes.len() <= STEP_BYTES {
        return Corpus::Reject;
    }
    let script = Script::from_bytes(bytes);
    let dir = new_dir();
    let checked = check(&script, dir.path());
    drop(dir);
    if let Err(divergence) = checked {
        panic!("{divergence}\n\nscript: {script:?}");
    }
    Corpus::Keep
});

/// In memory where Linux has a file system for that: a script opens stores and syncs them many
/// times, and what a disk does is not what is looked for here.
fn new_dir() -> TempDir {
    let shared_memory = Path::new("/dev/shm");
    let parent = if shared_memory.is_dir() {
        shared_memory.to_owned()
    } else {
        env::temp_dir()
    };
    TempDir::with_prefix_in("raft-rocks-fuzz-", parent).expect("a directory for the store")
}
