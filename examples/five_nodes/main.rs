//! Five nodes of one raft group on durable storage, each with a directory of its own, driven by
//! `raft_rocks::driver` over a network within the process. One begins, four join. Nodes are halted
//! while a client puts pairs, the leader too, and once all of them at the same time; they come
//! back with nothing but their directories. At the end all are shut down and their directories are
//! opened once more and compared: with each other, and with what the client was told.
//!
//! `cargo run --features driver --example five_nodes -- --help`.
//!
//! Read `machine.rs` first: what is replicated. `cluster.rs` is how nodes begin, join, stop and
//! come back, `client.rs` how they are asked, `run.rs` what happens when, and `compare.rs` what is
//! compared. `examples/embed_storage.rs` is for those who drive raft themselves.

mod client;
mod cluster;
mod compare;
mod machine;
mod outages;
mod report;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use clap::Parser;

use cluster::{node_dir, node_ids};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Five nodes of one raft group, halted and reopened while they take puts.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How many pairs to put; fewer than 100 would leave no node behind the log
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..))]
    puts: u64,
    /// How many restarts at least
    #[arg(long, default_value_t = 16)]
    restarts: u64,
    /// Which nodes are stopped when [default: random, and printed]; elections keep their own
    /// randomness, so the same seed does not repeat a run exactly
    #[arg(long, default_value_t = fastrand::u64(..), hide_default_value = true)]
    seed: u64,
    /// Where to make the nodes' directories [default: a new one under target/demo]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Leave the nodes' directories there
    #[arg(long)]
    keep: bool,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

fn main() -> ExitCode {
    match demo(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<(), Failure> {
    // Where `cargo run` was told to look for the package, or here.
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
    let target = package.join("target/demo");
    fs::create_dir_all(&target)?;
    // Should this run end early, an older one must not speak for it.
    let path = target.join("summary.json");
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => tempfile::Builder::new()
            .prefix("nodes-")
            .tempdir_in(&target)?
            .keep(),
    };
    if let Some(id) = node_ids().find(|id| node_dir(&dir, *id).exists()) {
        return Err(format!("{} is there already", node_dir(&dir, id).display()).into());
    }

    println!("five nodes in {}, seed {}", dir.display(), arguments.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let summary = runtime.block_on(run::run(arguments, &dir));
    summary.write(&path)?;
    summary.print();
    println!("\nwritten to {}", path.display());

    if let Some(failure) = summary.failure {
        return Err(format!("{failure}; see {}", dir.display()).into());
    }
    if arguments.keep { Ok(()) } else { remove(&dir) }
}

/// The nodes' directories alone: a `--dir` may hold other things.
fn remove(dir: &Path) -> Result<(), Failure> {
    for id in node_ids() {
        fs::remove_dir_all(node_dir(dir, id))?;
    }
    // Not empty when it was there before.
    let _ = fs::remove_dir(dir);
    Ok(())
}
