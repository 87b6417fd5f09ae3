//! What a part of the fault harness tells whoever runs it as a whole (`make crash`): nothing
//! when a test runs by itself.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests: each test uses some of them, and a failure may stop it"
)]

use std::io::Write as _;

const REPORT: &str = "RAFT_ROCKS_REPORT";

/// How far it is.
pub fn progress(done: u64, of: u64) {
    if std::env::var_os(REPORT).is_some() {
        eprintln!("progress: {}/{of}", done.min(of));
    }
}

/// What was seen: a line of JSON behind those of other tests.
pub fn figures(figures: &[(&str, u64)]) {
    let Some(path) = std::env::var_os(REPORT) else {
        return;
    };
    let fields: Vec<_> = figures
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    let mut options = std::fs::File::options();
    let mut file = options.create(true).append(true).open(path).unwrap();
    writeln!(file, "{{{}}}", fields.join(", ")).unwrap();
}
