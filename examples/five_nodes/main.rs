//! Five nodes of one raft group on durable storage, each a thread with a directory of its own.
//! Nodes are stopped abruptly while a client puts pairs, the leader too, and once all of them
//! at the same time; they come back with nothing but their directories. At the end all are
//! stopped and their directories are opened once more and compared: with each other, and with
//! what the client was told is in the log.
//!
//! `cargo run --example five_nodes -- --help`, or `make demo`.
//!
//! Read `node.rs` first: how a `Ready` is handled. `machine.rs` is the state machine,
//! `cluster.rs` says what a stop stands for, `run.rs` what happens when, and `compare.rs` what
//! is compared.

mod arguments;
mod client;
mod cluster;
mod compare;
mod machine;
mod network;
mod node;
mod outages;
mod report;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use arguments::{Arguments, USAGE};
use cluster::node_dir;
use report::Progress;
use run::Run;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if env::args().any(|word| word == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(refusal) => {
            eprintln!("{refusal}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match demo(&arguments) {
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
    if let Some(id) = network::node_ids().find(|id| node_dir(&dir, *id).exists()) {
        return Err(format!("{} is there already", node_dir(&dir, id).display()).into());
    }

    println!("five nodes in {}, seed {}", dir.display(), arguments.seed);
    let summary = Run::new(arguments, &dir, Progress::bar(arguments.puts)).finish();
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
    for id in network::node_ids() {
        fs::remove_dir_all(node_dir(dir, id))?;
    }
    // Not empty when it was there before.
    let _ = fs::remove_dir(dir);
    Ok(())
}
