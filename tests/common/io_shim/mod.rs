//! Runs a process whose calls to the file system pass through a shim (`shim.c`) that counts
//! them, lets one fail, or ends the process at one, and tells what a power cut would leave.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

mod durable;
mod imports;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use tempfile::TempDir;

pub use durable::Durable;
pub use imports::unknown_to;

const SOURCES: [(&str, &str); 2] = [
    ("shim.c", include_str!("shim.c")),
    ("durable.c", include_str!("durable.c")),
];
/// The exit code of a process that died at its point.
pub const DIED: i32 = 77;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, once.
    Eio,
    /// The call fails, once; a write has written half.
    Enospc,
    /// From here on every call that takes space fails.
    Full,
    /// The process ends in front of it.
    Die,
    /// The process ends in the middle of a write.
    Short,
}

impl Fault {
    pub const ALL: [Fault; 5] = [
        Fault::Eio,
        Fault::Enospc,
        Fault::Full,
        Fault::Die,
        Fault::Short,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Eio => "eio",
            Fault::Enospc => "enospc",
            Fault::Full => "full",
            Fault::Die => "die",
            Fault::Short => "short",
        }
    }

    /// Whether the process ends there.
    pub fn ends(self) -> bool {
        matches!(self, Fault::Die | Fault::Short)
    }
}

/// One call: which function, on which kind of file, for which time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub function: String,
    pub kind: String,
    pub number: u32,
}

impl Point {
    /// Whether it writes bytes, and so can be cut short.
    pub fn writes(&self) -> bool {
        self.function.contains("write")
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.function, self.kind, self.number)
    }
}

/// A point and what happens there, as `fdatasync:wal:17:eio`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub point: Point,
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.fault.name())
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [function, kind, number, fault] = parts[..] else {
            return Err(format!("{text}: not as fdatasync:wal:17:eio"));
        };
        let fault = Fault::ALL.into_iter().find(|known| known.name() == fault);
        Ok(Case {
            point: Point {
                function: function.to_owned(),
                kind: kind.to_owned(),
                number: number.parse().map_err(|e| format!("{text}: {e}"))?,
            },
            fault: fault.ok_or_else(|| format!("{text}: no such fault"))?,
        })
    }
}

/// Every fault that can happen at each of `points`.
pub fn cases(points: &[Point]) -> Vec<Case> {
    let faults = |point: &Point| {
        let writes = point.writes();
        let possible = Fault::ALL.into_iter();
        possible.filter(move |fault| *fault != Fault::Short || writes)
    };
    let of = |point: &Point| {
        let point = point.clone();
        faults(&point).map(move |fault| Case {
            point: point.clone(),
            fault,
        })
    };
    points.iter().flat_map(of).collect()
}

/// The shim, compiled.
pub struct Shim {
    dir: TempDir,
}

impl Shim {
    /// # Errors
    /// Says what this machine lacks.
    pub fn compile() -> Result<Shim, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        for (name, text) in SOURCES {
            std::fs::write(dir.path().join(name), text).map_err(|e| e.to_string())?;
        }
        let source = dir.path().join("shim.c");
        let shim = Shim { dir };
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]);
        cc.arg("-o").arg(shim.library()).arg(source);
        let output = cc
            .args(["-ldl", "-pthread"])
            .output()
            .map_err(|e| format!("cc: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(shim)
    }

    pub fn library(&self) -> PathBuf {
        self.dir.path().join("shim.so")
    }

    /// Lets `command` run under the shim.
    pub fn preload(&self, command: &mut Command, run: &ShimRun<'_>) {
        let Places { root, outside, .. } = run.places;
        command
            .env("LD_PRELOAD", self.library())
            .env("IO_SHIM_ROOT", root)
            .env("IO_SHIM_DURABLE", outside.join("durable"))
            .env("IO_SHIM_TRACE", outside.join("trace"))
            .env("IO_SHIM_MARK", run.places.mark())
            .env("IO_SHIM_SECONDS", "100");
        if let Some(case) = run.case {
            command
                .env("IO_SHIM_AT", case.point.to_string())
                .env("IO_SHIM_FAULT", case.fault.name());
        }
    }
}

/// Where a process under the shim works.
pub struct Places {
    /// What the shim looks at.
    pub root: PathBuf,
    /// What it does not.
    pub outside: PathBuf,
    _dir: TempDir,
}

impl Places {
    pub fn new(dir: TempDir) -> Places {
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for dir in [&root, &outside, &outside.join("durable")] {
            std::fs::create_dir(dir).unwrap();
        }
        Places {
            root,
            outside,
            _dir: dir,
        }
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// There as soon as the fault has happened.
    pub fn mark(&self) -> PathBuf {
        self.outside.join("mark")
    }

    pub fn happened(&self) -> bool {
        self.mark().exists()
    }

    /// Whether it happened in a thread of RocksDB's own.
    pub fn happened_in_background(&self) -> bool {
        let thread = std::fs::read_to_string(self.mark()).unwrap_or_default();
        thread.starts_with("rocksdb:")
    }

    /// The points that the process came by, in order.
    pub fn points(&self) -> Vec<Point> {
        let trace = std::fs::read_to_string(self.outside.join("trace")).unwrap_or_default();
        let mut counts = BTreeMap::new();
        let number = |line: &str| {
            let count = counts.entry(line.to_owned()).or_insert(0);
            *count += 1;
            let (function, kind) = line.split_once(':').unwrap();
            Point {
                function: function.to_owned(),
                kind: kind.to_owned(),
                number: *count,
            }
        };
        trace.lines().map(number).collect()
    }

    /// Keeps the directories, to look at them.
    pub fn keep(self) -> PathBuf {
        self._dir.keep()
    }
}

/// One run under the shim.
pub struct ShimRun<'a> {
    pub places: &'a Places,
    pub case: Option<&'a Case>,
}

/// The outcome of a check for what the machine lacks: an error under `CI=true`, so that it
/// cannot go unnoticed.
pub fn lacking(what: &str, why: &str) {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{what}: {why}");
    eprintln!("NOT RUN: {what}: {why}");
}
