//! `raft-rocks-server`: a node of a replicated key-value store, for clients of Redis.

use std::process::ExitCode;

fn main() -> ExitCode {
    raft_rocks_server::cli::main(std::env::args_os())
}
