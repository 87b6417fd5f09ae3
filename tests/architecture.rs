//! ARCHITECTURE.md says which module may import which. This reads the sources and fails on a
//! breach, naming the file and the rule.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::path::{Path, PathBuf};

/// Modules from the lowest to the highest: a module imports only from those above it in this
/// list, never from those below it.
const LAYERS: [&str; 25] = [
    "metrics",
    "error",
    "config",
    "changes",
    "keys",
    "record",
    "term_index",
    "entry_cache",
    "group_state",
    "wal_scan",
    "version_edit",
    "live_logs",
    "snapshot",
    "reserve",
    "witness",
    "db",
    "batch",
    "recovery",
    "group_commit",
    "raft_log",
    "async_fetch",
    "storage",
    "tools",
    "driver",
    "testing",
];

/// (what must not be named, the files that may, why)
const RESERVED: [(&str, &[&str], &str); 4] = [
    (
        "rocksdb::",
        &["db", "error.rs"],
        "only db and error.rs name rocksdb",
    ),
    (
        "impl raft::Storage for",
        &["storage.rs", "driver/memory_log.rs", "testing"],
        "only storage.rs, driver/memory_log.rs and testing/ implement raft's trait",
    ),
    (
        "StorageError",
        &[
            "storage.rs",
            "driver/memory_log.rs",
            "driver/applier.rs",
            "testing",
        ],
        "raft's errors are produced in storage.rs and driver/memory_log.rs alone, read in driver/",
    ),
    ("tokio", &["driver"], "nothing outside driver/ names tokio"),
];

/// Codecs and indexes: no input, no output, no clock.
const PURE: [&str; 12] = [
    "keys.rs",
    "record.rs",
    "term_index.rs",
    "entry_cache.rs",
    "group_state.rs",
    "wal_scan.rs",
    "version_edit.rs",
    "changes.rs",
    "witness/slot.rs",
    "driver/book.rs",
    "driver/proposals.rs",
    "driver/sessions.rs",
];
const IMPURE: [&str; 4] = ["std::fs", "std::io", "std::time", "crate::db"];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut pending) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = pending.pop() {
        let paths = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().path());
        let (dirs, files): (Vec<PathBuf>, Vec<PathBuf>) = paths.partition(|path| path.is_dir());
        pending.extend(dirs);
        for path in files {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            found.push((name, code(&std::fs::read_to_string(&path).unwrap())));
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

/// The source without comments and unit tests.
fn code(source: &str) -> String {
    let body = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or(source);
    let lines = body
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module a file belongs to: `snapshot` for `snapshot.rs` and for `snapshot/reader.rs`.
fn module(file: &str) -> &str {
    let top = file.split('/').next().unwrap_or(file);
    top.strip_suffix(".rs").unwrap_or(top)
}

fn imports(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        LAYERS.into_iter().find(|layer| *layer == &rest[..end])
    })
}

fn breaches(sources: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, code) in sources {
        let own = LAYERS.iter().position(|layer| *layer == module(file));
        if own.is_none() && file != "lib.rs" {
            found.push(format!("{file}: not in the list of layers"));
        }
        for import in imports(code) {
            let layer = LAYERS.iter().position(|layer| *layer == import);
            if own < layer && file != "lib.rs" {
                found.push(format!("{file}: imports {import}, which lies above it"));
            }
        }
        for (name, allowed, rule) in RESERVED {
            let may = file == "lib.rs" || allowed.iter().any(|prefix| file.starts_with(prefix));
            if code.contains(name) && !may {
                found.push(format!("{file}: names {name}; {rule}"));
            }
        }
        for name in IMPURE {
            if PURE.contains(&file.as_str()) && code.contains(name) {
                found.push(format!("{file}: names {name}; codecs and indexes are pure"));
            }
        }
    }
    found
}

#[test]
fn imports_follow_the_layers() {
    let found = breaches(&sources());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_kind_of_breach_is_found() {
    let breach = |file: &str, code: &str| breaches(&[(file.to_owned(), code.to_owned())]);
    assert_eq!(
        breach("keys.rs", "use crate::error::Error;"),
        [] as [String; 0]
    );
    assert_eq!(breach("keys.rs", "use crate::record::Damage;").len(), 1);
    assert_eq!(breach("raft_log.rs", "fn f(e: rocksdb::Error) {}").len(), 1);
    assert_eq!(
        breach("batch.rs", "impl raft::Storage for Batch {}").len(),
        1
    );
    assert_eq!(breach("record.rs", "use std::fs::File;").len(), 1);
    assert_eq!(breach("strange.rs", "").len(), 1);
}
