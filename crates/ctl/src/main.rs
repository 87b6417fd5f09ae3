//! `raft-rocks-ctl`: looks at, checks, mends and copies raft-rocks stores that no process has open,
//! and asks and changes clusters that run.
//!
//! Data goes to stdout, what is said about it to stderr; `--json` makes stdout one JSON document
//! (`dump`, `watch`: one per line). The exit code says how the store is, or what came of what was
//! asked: see [`exit::Exit`].

/// Prints a line to stdout, or returns the error from the function: whoever reads may have gone.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout().lock(), $($arg)*)?
    }};
}

mod args;
mod commands;
mod exit;
mod import;
mod mend;
mod online;
mod survey;
mod verdict;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are what was asked for; anything else is a usage error.
            let code = if e.use_stderr() {
                Exit::Failed
            } else {
                Exit::Sound
            };
            // Nothing is left to be told when even that cannot be printed.
            let _ = e.print();
            return code.into();
        }
    };
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(e) => {
            // Whoever reads stdout and has seen enough need not be told.
            let io = e.downcast_ref::<std::io::Error>();
            if io.is_none_or(|e| e.kind() != ErrorKind::BrokenPipe) {
                eprintln!("raft-rocks-ctl: {e:#}");
            }
            Exit::of_error(&e).into()
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let common = &cli.common;
    match &cli.command {
        Command::Inspect(store) => commands::inspect::run(common, store),
        Command::Verify(store) => commands::verify::run(common, store),
        Command::Dump(args) => commands::dump::run(common, args),
        Command::Doctor(store) => commands::doctor::run(common, store),
        Command::Repair(args) => commands::repair::run(common, args),
        Command::Backup(args) => commands::copies::backup(common, args),
        Command::Restore(args) => commands::copies::restore(args),
        Command::Import(args) => import::run(common, args),
        Command::Status(target) => online::status(common, target),
        Command::Members(target) => online::members(common, target),
        Command::Add(args) => online::add(common, args),
        Command::Remove(args) => online::remove(common, args),
        Command::Transfer(args) => online::transfer(common, args),
        Command::Snapshot(target) => online::snapshot(common, target),
        Command::Watch(args) => online::watch(common, args),
    }
}
