//! What the shim does to programs that everybody has.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::process::Output;
use std::time::{Duration, Instant};

use raft_rocks_nemesis::shim::{Control, Counter, Shim};
use tempfile::TempDir;
use tokio::process::Command;

struct Bench {
    dir: TempDir,
    shim: Shim,
    control: Control,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        Bench {
            shim: Shim::compile(dir.path()).unwrap(),
            control: Control::create(dir.path().join("control")).unwrap(),
            dir,
        }
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let root = self.dir.path().join("root");
        let mut command = Command::new(program);
        command.args(arguments);
        self.shim.preload(&mut command, &root, &self.control);
        command.env("LC_ALL", "C").output().await.unwrap()
    }

    /// Writes a block, and syncs it.
    async fn write(&self, to: &str) -> Output {
        let to = format!("of={}", self.dir.path().join(to).display());
        let block = ["if=/dev/zero", &to, "bs=512", "count=1", "conv=fsync"];
        self.run("dd", &block).await
    }

    async fn time(&self) -> i64 {
        let said = self.run("date", &["+%s"]).await.stdout;
        String::from_utf8(said).unwrap().trim().parse().unwrap()
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_below_the_root_alone() {
    let bench = Bench::new();
    assert!(bench.write("root/a").await.status.success());
    bench.control.fill(true).unwrap();
    let refused = bench.write("root/b").await;
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(bench.control.count(Counter::WritesRefused).unwrap() > 0);
    assert!(bench.write("elsewhere").await.status.success());
    bench.control.heal().unwrap();
    assert!(bench.write("root/b").await.status.success());
}

#[tokio::test]
async fn a_slow_disk_delays_syncs_below_the_root_alone() {
    let bench = Bench::new();
    let by = Duration::from_millis(700);
    bench.control.delay_syncs(by).unwrap();
    assert!(bench.write("elsewhere").await.status.success());
    assert_eq!(bench.control.count(Counter::SyncsDelayed).unwrap(), 0);
    let begun = Instant::now();
    assert!(bench.write("root/a").await.status.success());
    assert!(begun.elapsed() >= by);
    assert_eq!(bench.control.count(Counter::SyncsDelayed).unwrap(), 1);
}

#[tokio::test]
async fn a_clock_jumps_forth_and_back() {
    let bench = Bench::new();
    let right = bench.time().await;
    assert_eq!(bench.control.count(Counter::ClocksMoved).unwrap(), 0);
    for by in [86_400, -86_400] {
        bench.control.move_clock(by * 1_000 + 1).unwrap();
        let moved = bench.time().await - right - by;
        assert!((0..600).contains(&moved), "{moved}");
    }
    assert!(bench.control.count(Counter::ClocksMoved).unwrap() > 0);
    bench.control.heal().unwrap();
    assert!((0..600).contains(&(bench.time().await - right)));
}
