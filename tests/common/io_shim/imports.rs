//! Whether the shim knows every function that a program could change a file through.

use std::path::Path;
use std::process::Command;

/// What is in the name of such a function.
const SUSPECT: [&str; 22] = [
    "write",
    "sync",
    "rename",
    "link",
    "trunc",
    "falloc",
    "open",
    "creat",
    "mkdir",
    "rmdir",
    "mknod",
    "mkstemp",
    "mkdtemp",
    "mkostemp",
    "mmap",
    "mremap",
    "printf",
    "fput",
    "splice",
    "sendfile",
    "syscall",
    "copy_file",
];

/// And these have nothing of it in theirs.
const SUSPECT_WHOLE: [&str; 9] = [
    "remove", "putc", "puts", "ioctl", "fcntl", "fcntl64", "chmod", "fchmod", "tmpfile",
];

/// Suspect by their names alone, or not followed for a reason.
const HARMLESS: &[(&str, &str)] = &[
    ("readlink", "reads a name"),
    ("readlinkat", "reads a name"),
    ("opendir", "reads names"),
    ("fdopendir", "reads names"),
    ("dlopen", "loads code"),
    ("catopen", "reads messages"),
    ("snprintf", "into memory"),
    ("vsnprintf", "into memory"),
    ("sprintf", "into memory"),
    ("__snprintf_chk", "into memory"),
    ("__vsnprintf_chk", "into memory"),
    (
        "msync",
        "of a mapping; the shim refuses those that can be written",
    ),
    ("chmod", "permissions"),
    ("fchmod", "permissions"),
    ("ioctl", "RocksDB asks for the version of an inode"),
    (
        "fcntl",
        "locks, flags, and hints of how long a file will live",
    ),
    (
        "fcntl64",
        "locks, flags, and hints of how long a file will live",
    ),
];

/// The functions that `program` imports, that could change a file, and that `shim` lets by.
///
/// # Errors
/// Says what this machine lacks.
pub fn unknown_to(shim: &Path, program: &Path) -> Result<Vec<String>, String> {
    let known = symbols(shim, "--defined-only")?;
    let imported = symbols(program, "--undefined-only")?;
    if !imported.iter().any(|name| name == "fdatasync") {
        return Err(format!("{}: not linked with libc", program.display()));
    }
    let unknown = imported.into_iter().filter(|name| {
        is_suspect(name)
            && !known.contains(name)
            && !HARMLESS.iter().any(|(harmless, _)| harmless == name)
    });
    Ok(unknown.collect())
}

fn is_suspect(name: &str) -> bool {
    // C++'s own streams: what is read through them (`ifstream`) changes nothing.
    if name.starts_with("_Z") {
        return name.contains("ofstream") || name.contains("basic_fstream");
    }
    // What a lock for reading and writing is called, and a thread's start.
    let is_thread = name.starts_with("pthread_");
    !is_thread && (SUSPECT.iter().any(|part| name.contains(part)) || SUSPECT_WHOLE.contains(&name))
}

fn symbols(file: &Path, which: &str) -> Result<Vec<String>, String> {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--format=just-symbols", which]).arg(file);
    let output = nm.output().map_err(|e| format!("nm: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| line.split('@').next().unwrap_or(line).to_owned();
    Ok(text.lines().map(name).collect())
}
