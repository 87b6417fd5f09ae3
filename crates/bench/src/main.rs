//! `raft-rocks-bench`: raft-rocks and its peers, measured side by side in one process run; and
//! clusters of raft-rocks-server and etcd.
//!
//! An absolute time says more about a machine than about an engine, and a shared disk changes
//! its speed from one second to the next. So all contenders are open at once and take turns in
//! short bursts, and what is reported are medians over many turns, to be read as ratios.

mod args;
mod bars;
mod child;
mod clients;
mod cluster;
mod contenders;
mod disk;
mod entries;
mod harness;
mod image;
mod logs;
mod machine;
mod plot;
mod report;
mod scenarios;
mod settings;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};

/// As in TiKV: what one thread allocates another frees, in every contender that has a writer
/// thread, and glibc's allocator lets them wait for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compare(args) => scenarios::compare(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Child(task) => child::run(&task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("raft-rocks-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}
