//! A short run of the suite: one history for each of the faults that have found most.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::path::Path;

use raft_rocks_nemesis::fault::Kind;
use raft_rocks_nemesis::run::{Arguments, histories};

const FAULTS: [Kind; 6] = [
    Kind::KillLeader,
    Kind::Pause,
    Kind::CutLeader,
    Kind::FullDisk,
    Kind::Members,
    Kind::Astray,
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_old_is_read_under_faults() {
    let seed = std::env::var("RAFT_ROCKS_SEED").ok();
    let arguments = Arguments {
        histories: FAULTS.len() as u64,
        seed: seed.map(|seed| seed.parse().unwrap()),
        fault: FAULTS.map(|kind| kind.name().to_owned()).to_vec(),
        only: None,
        keep_going: false,
        out: Path::new(env!("CARGO_TARGET_TMPDIR")).join("nemesis"),
        program: Some(env!("CARGO_BIN_EXE_raft-rocks-nemesis").into()),
    };
    let report = histories(&arguments).await.unwrap();
    report.print();
    assert_eq!(report.violations, [""; 0]);
    assert_eq!(report.missing(), []);
    assert_eq!(report.histories, FAULTS.len() as u64);
}
