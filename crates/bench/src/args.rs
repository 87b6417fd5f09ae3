//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::child::Task;
use crate::contenders::System;

/// Measures raft-rocks beside its peers on this machine.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand)]
pub enum Command {
    /// Runs the contenders in turns, and writes compare.json, compare.md and SVG plots
    Compare(Box<CompareArgs>),
    /// Puts into three nodes of raft-rocks-server and, where it is installed, of etcd, in turns;
    /// writes cluster.json and an SVG plot
    Cluster(ClusterArgs),
    /// One measurement that needs a process of its own; prints its result as JSON
    #[command(hide = true)]
    Child(Task),
}

/// What is compared, where, and for how long.
#[derive(Args)]
pub struct CompareArgs {
    /// A directory on the disk to measure; emptied of what a run leaves behind
    #[arg(long, value_name = "DIR", default_value = "target/bench/data")]
    pub dir: PathBuf,

    /// A directory in RAM, where the CPU's share is measured
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub ram_dir: PathBuf,

    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,

    /// Everything in under three minutes: fewer rounds, shorter bursts
    #[arg(long)]
    pub quick: bool,

    /// Only scenarios that start with NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,

    /// Only this contender; may be repeated
    #[arg(long, value_name = "NAME", value_enum)]
    pub system: Vec<System>,

    /// Turns each contender gets in a scenario
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: Option<u32>,

    /// Of the payloads, the order of turns, and the places that are read
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Numbers so small that they prove only that everything works
    #[arg(long, hide = true, conflicts_with = "quick")]
    pub smoke: bool,
}

/// Which clusters, and under which load.
#[derive(Args)]
pub struct ClusterArgs {
    /// A directory on the disk to measure; emptied of what a run leaves behind
    #[arg(long, value_name = "DIR", default_value = "target/bench/data")]
    pub dir: PathBuf,

    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,

    /// raft-rocks-server, if not beside this program
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,

    /// etcd; what cannot be run is left out
    #[arg(long, value_name = "PROGRAM", default_value = "etcd")]
    pub etcd: PathBuf,

    /// Clients at a time, each with a connection and one put under way
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,16,64,256"
    )]
    pub clients: Vec<usize>,

    /// Runs, of which the medians count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// Turns each system gets in a run
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,

    /// How long a turn lasts: a shared disk bears a few seconds of syncs at a time
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub burst_ms: u64,

    /// Of the order of turns
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}
