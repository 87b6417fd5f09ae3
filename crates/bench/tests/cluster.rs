//! The cluster benchmark runs, with a peer and without, and its report has the shape that its
//! readers rely on. The numbers are far too small to mean anything.
//!
//! A test without the harness: started with other arguments it is a node itself, so that no other
//! program has to be built.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

use std::fs;
use std::process::{Command, ExitCode};

use serde_json::Value;
use tempfile::TempDir;

fn main() -> ExitCode {
    let is_node = std::env::args().any(|argument| argument == "--durability");
    if is_node {
        return raft_rocks_server::cli::main(std::env::args_os());
    }
    let has_etcd = Command::new("etcd").arg("--version").output().is_ok();
    puts_are_counted("no-etcd-here", &["raft-rocks-server"]);
    if has_etcd {
        puts_are_counted("etcd", &["raft-rocks-server", "etcd"]);
    }
    ExitCode::SUCCESS
}

fn puts_are_counted(etcd: &str, systems: &[&str]) {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_raft-rocks-bench"))
        .args([
            "cluster",
            "--clients",
            "1,4",
            "--runs",
            "1",
            "--rounds",
            "2",
        ])
        .args(["--burst-ms", "50", "--etcd", etcd, "--server"])
        .arg(std::env::current_exe().unwrap())
        .arg("--dir")
        .arg(dir.path().join("data"))
        .arg("--out")
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let left_out = said.contains("no etcd beside it");
    assert_eq!(left_out, systems.len() == 1, "{said}");

    let report = fs::read(dir.path().join("cluster.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let rows = report["results"].as_array().unwrap();
    let of = |row: &Value| {
        (
            row["clients"].as_u64(),
            row["system"].as_str().map(str::to_owned),
        )
    };
    let found: Vec<_> = rows.iter().map(of).collect();
    let expected = [1, 4].into_iter().flat_map(|clients| {
        let systems = systems.iter();
        systems.map(move |system| (Some(clients), Some((*system).to_owned())))
    });
    assert_eq!(found, expected.collect::<Vec<_>>());
    for row in rows {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(figure("per_s") > 0.0, "{row}");
        assert!(
            0.0 < figure("p50_us") && figure("p50_us") <= figure("p99_us"),
            "{row}"
        );
    }
    let plot = fs::read_to_string(dir.path().join("cluster.svg")).unwrap();
    for system in systems {
        assert!(plot.contains(system), "{system} is not in the plot");
    }
    // What a run leaves behind is removed.
    assert_eq!(fs::read_dir(dir.path().join("data")).unwrap().count(), 0);
}
