//! `raft-rocks-nemesis`: real clusters under faults (`make nemesis`), and one to watch
//! (`make demo`).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use raft_rocks_nemesis::{demo, process, run};

/// Runs clusters of raft-rocks-server on this machine under faults, and checks that nothing that
/// was acknowledged is lost and nothing that was read was old.
#[derive(Parser)]
#[command(name = "raft-rocks-nemesis", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Three nodes under load: killed again and again, cut apart, joined by a fourth
    Demo(demo::Arguments),
    /// Many histories under drawn faults
    Run(run::Arguments),
    #[command(hide = true)]
    Server(Server),
}

/// A node, in a process of its own.
#[derive(Args)]
struct Server {
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Server(server) => return serve(server),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("raft-rocks-nemesis: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(server: Server) -> ExitCode {
    if let Err(e) = process::die_with_parent() {
        eprintln!("error: {e:#}");
        return ExitCode::FAILURE;
    }
    let arguments = std::iter::once(OsString::from("raft-rocks-server")).chain(server.arguments);
    raft_rocks_server::cli::main(arguments)
}
