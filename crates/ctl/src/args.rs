//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;
use crate::import;
use crate::online::args::{AddArgs, MemberArgs, Target, WatchArgs};

/// The tool of raft-rocks, offline and online: looks at, checks, mends and copies stores that no
/// process has open; and asks and changes clusters that run.
#[derive(Parser)]
#[command(version, after_help = exit::HELP)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args)]
pub struct Common {
    /// One JSON document on stdout instead of text (dump, watch: one per line)
    #[arg(long, global = true)]
    pub json: bool,

    /// Where snapshot files stand, if not in `snapshots` in the store's directory
    #[arg(long, global = true, value_name = "DIR")]
    pub snapshots: Option<PathBuf>,

    /// Where copies of the logs are put while a store is read; removed afterwards
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub scratch: PathBuf,
}

/// What the program can do.
#[derive(Subcommand)]
pub enum Command {
    /// Identity, format, witness, sizes; bounds and states of each group
    Inspect(Store),
    /// Reads every record of every group and every snapshot file
    Verify(Store),
    /// Prints states and entries
    Dump(DumpArgs),
    /// Says in plain words what is wrong, what it means for the cluster, and what can be done
    Doctor(Store),
    /// Mends what can be mended; says what it would do unless given --yes
    Repair(RepairArgs),
    /// Copies a sound store; a running one is backed up by its own process, with RaftStore::backup
    Backup(CopyArgs),
    /// Makes a store from a backup, under a new store id: for a new node with a new id
    Restore(CopyArgs),
    /// Makes a store from another layout, and compares the two
    Import(Box<import::ImportArgs>),
    /// Online: where a node and its cluster stand
    Status(Target),
    /// Online: the members of a node's cluster, who leads, and by how much the others lag
    Members(Target),
    /// Online: takes in a node that waits for it (raft-rocks-server --await-invitation), or makes a
    /// learner a voter
    Add(AddArgs),
    /// Online: removes a member; its id is never used again
    Remove(MemberArgs),
    /// Online: hands leadership over to a member
    Transfer(MemberArgs),
    /// Online: has the node make a snapshot of its state, and waits for it
    Snapshot(Target),
    /// Online: says what changes, until it is interrupted: leader, members, lag
    Watch(WatchArgs),
}

#[derive(Args)]
pub struct Store {
    /// The store's directory: the one that has `db` in it
    #[arg(value_name = "STORE")]
    pub dir: PathBuf,
}

#[derive(Args)]
pub struct CopyArgs {
    /// What is copied
    pub from: PathBuf,
    /// The directory that is made
    pub to: PathBuf,
}

#[derive(Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub store: Store,

    /// Only this group; may be repeated
    #[arg(long, value_name = "ID")]
    pub group: Vec<u64>,

    /// The first index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    pub from: u64,

    /// The index to stop before
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
    pub to: u64,

    /// States and bounds only
    #[arg(long)]
    pub metadata: bool,

    /// How data and contexts are printed
    #[arg(long, value_enum, default_value_t = Data::Text)]
    pub data: Data,
}

/// How bytes are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Data {
    /// As text, with escapes for what is none
    Text,
    /// In hexadecimal
    Hex,
    /// Only how many there are
    None,
}

#[derive(Args)]
pub struct RepairArgs {
    #[command(flatten)]
    pub store: Store,

    /// Do it
    #[arg(long)]
    pub yes: bool,

    /// Also do what makes the store forget things that it acknowledged. The node may then vote
    /// twice or lack what the cluster counts on: read what doctor says first
    #[arg(long)]
    pub accept_loss: bool,

    /// Where the undo copy goes; beside the store if not given
    #[arg(long, value_name = "DIR")]
    pub undo: Option<PathBuf>,
}
