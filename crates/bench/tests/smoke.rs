//! Every contender works in every scenario it takes part in, and the report has the shape that
//! its readers rely on. The numbers are far too small to mean anything.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const APPENDERS: [&str; 7] = [
    "raft-rocks",
    "raft-engine",
    "raft-engine-writer",
    "rocksdb-batch",
    "rocksdb-naive",
    "raw-append",
    "raw-overwrite",
];
const MANY_GROUPS: [&str; 7] = [
    "raft-rocks",
    "raft-rocks-threads",
    "raft-engine",
    "raft-engine-writer",
    "raft-engine-writer-threads",
    "rocksdb-batch",
    "rocksdb-naive",
];
const STORES: [&str; 3] = ["raft-rocks", "raft-engine", "rocksdb-batch"];
const OPENERS: [&str; 2] = ["raft-rocks", "raft-engine"];
const IN_MEMORY: [&str; 2] = ["raft-rocks", "mem-storage"];

/// (scenario, its systems, whether it needs what a machine may lack)
const SCENARIOS: [(&str, &[&str], bool); 20] = [
    ("append_sync_1x256_g1", &APPENDERS, false),
    ("append_sync_64x256_g1", &APPENDERS, false),
    ("append_sync_1x4096_g1", &APPENDERS, false),
    ("append_sync_1x256_g8", &MANY_GROUPS, false),
    ("append_sync_1x256_g32", &MANY_GROUPS, false),
    ("append_sync_1x256_g128", &MANY_GROUPS, false),
    ("ready_sync_1x256_g1", &APPENDERS, false),
    ("ready_sync_1x256_g32", &MANY_GROUPS, false),
    ("append_cpu_1x256", &APPENDERS, false),
    ("append_cpu_64x256", &APPENDERS, false),
    ("append_cpu_64x4096", &APPENDERS, false),
    ("read_hot_64x256", &IN_MEMORY, false),
    ("term_hot", &IN_MEMORY, false),
    ("read_cold_1000x256", &STORES, false),
    ("open_1m_256", &OPENERS, false),
    ("compact_1m", &STORES, false),
    ("ram_per_million_entries", &OPENERS, false),
    ("write_amp_keep10k", &STORES, true),
    ("write_amp_keep100k", &STORES, true),
    ("stall_max", &STORES, true),
];

fn compare(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raft-rocks-bench"))
        .args(["compare", "--smoke", "--dir"])
        .arg(dir.join("data"))
        .arg("--ram-dir")
        .arg(dir)
        .arg("--out")
        .arg(dir)
        .args(more)
        .output()
        .unwrap()
}

fn new_dir() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("compare.json")).unwrap()).unwrap()
}

/// The results of each scenario, by system.
fn results(report: &Value) -> BTreeMap<(String, String), Value> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let results = report["results"].as_array().unwrap().iter();
    results
        .map(|r| ((text(&r["scenario"]), text(&r["system"])), r.clone()))
        .collect()
}

#[test]
fn every_contender_runs_and_the_report_has_its_shape() {
    let dir = new_dir();
    // What a machine may lack is left out and noted, as nothing is asked for by name.
    let output = compare(dir.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let report = report(dir.path());
    let results = results(&report);
    let notes = report["notes"].to_string();
    for (scenario, systems, needs_more) in SCENARIOS {
        if needs_more && notes.contains(scenario) {
            continue;
        }
        for system in systems {
            let key = (scenario.to_owned(), (*system).to_owned());
            let result = results.get(&key);
            check_result(result.unwrap_or_else(|| panic!("no {key:?} in {report:#}")));
        }
    }
    for part in ["machine", "options"] {
        assert!(report[part].is_object(), "{part}");
    }
    let table = String::from_utf8_lossy(&output.stdout);
    let row = |line: &&str| {
        let words = [
            "append_sync_1x256_g128",
            "per_s",
            "raft-engine-writer",
            ">= 1",
        ];
        words.iter().all(|word| line.contains(word))
    };
    assert_eq!(table.lines().filter(row).count(), 1, "{table}");
    let markdown = fs::read_to_string(dir.path().join("compare.md")).unwrap();
    assert!(markdown.contains("### read_cold_1000x256"), "{markdown}");
    for plot in ["latency.svg", "throughput.svg", "log_length.svg"] {
        let svg = fs::read_to_string(dir.path().join(plot)).unwrap();
        assert!(svg.contains("raft-rocks"), "{plot}");
        assert!(markdown.contains(plot));
    }
    let left: Vec<_> = fs::read_dir(dir.path().join("data")).unwrap().collect();
    assert!(left.is_empty(), "{left:?} is left behind");
}

fn check_result(result: &Value) {
    for field in ["p50_us", "p99_us", "per_s", "value"] {
        let value = result.get(field).unwrap_or_else(|| panic!("no {field}"));
        let fits = value.is_null() || value.as_f64().is_some_and(|value| value >= 0.0);
        assert!(fits, "{field} of {result}");
    }
    assert!(result["rounds"].as_u64().unwrap() >= 1, "{result}");
    assert_eq!(result["unit"].is_null(), result["value"].is_null());
    let measured = !result["p50_us"].is_null() || !result["value"].is_null();
    assert!(measured, "{result}");
}

#[test]
fn scenarios_and_systems_can_be_chosen() {
    let dir = new_dir();
    let chosen = [
        "--scenario",
        "read_",
        "--scenario",
        "term",
        "--system",
        "raft-rocks",
        "--system",
        "mem-storage",
        "--rounds",
        "3",
    ];
    let output = compare(dir.path(), &chosen);
    assert!(output.status.success(), "{output:?}");
    let results = results(&report(dir.path()));
    let scenarios: BTreeSet<_> = results
        .keys()
        .map(|(scenario, _)| scenario.as_str())
        .collect();
    let expected = ["read_cold_1000x256", "read_hot_64x256", "term_hot"];
    assert!(scenarios.into_iter().eq(expected));
    assert_eq!(results.len(), 5);
    assert!(results.values().all(|result| result["rounds"] == 3));
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let dir = new_dir();
    let cases: [(&[&str], &str); 4] = [
        (&["--scenario", "no_such"], "append_sync_1x256_g1"),
        (&["--system", "no-such"], "raft-engine-writer"),
        (&["--rounds", "0"], "--rounds"),
        (
            &["--scenario", "term_hot", "--system", "raw-append"],
            "none of the systems named takes part",
        ),
    ];
    for (flags, reason) in cases {
        let output = compare(dir.path(), flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{flags:?}");
        assert!(said.contains(reason), "{flags:?}: {said}");
    }
    let nowhere = dir.path().join("nowhere");
    let flags = ["--ram-dir", nowhere.to_str().unwrap()];
    let output = Command::new(env!("CARGO_BIN_EXE_raft-rocks-bench"))
        .args(["compare", "--smoke", "--dir"])
        .arg(dir.path())
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--ram-dir"), "{said}");
}
