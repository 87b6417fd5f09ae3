//! The program: its command line, its log and its end.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::certs::{self, CertsArgs};
use crate::config::{Flags, LogFormat};
use crate::instance::{Instance, Settings};

/// A node of a replicated key-value store, for clients of Redis. Without flags it is a cluster of
/// its own.
#[derive(Debug, Parser)]
// A flag that is given again counts, as for most programs.
#[command(name = "raft-rocks-server", version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    Certs(CertsArgs),
}

/// What was said on the command line cannot be used.
const USAGE: u8 = 2;

/// Runs the program with these arguments, its name first, until it ends. A program of tests that
/// needs nodes in processes of their own runs this in itself.
pub fn main<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help that was asked for is none of errors; who cannot be told is gone.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { USAGE } else { 0 });
        }
    };
    match cli.command {
        Some(Command::Certs(args)) => ended(certs::run(&args).map(|told| {
            told.iter().for_each(|line| println!("{line}"));
        })),
        None => serve(cli.flags),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(flags: Flags) -> ExitCode {
    let flags = match flags.with_file() {
        Ok(flags) => flags,
        Err(e) => return wrong_usage(&e),
    };
    let (level, format) = (flags.level(), flags.log_format);
    let settings = match flags.settings() {
        Ok(settings) => settings,
        Err(e) => return wrong_usage(&e),
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be printed where nothing can be written: a full disk must not end a node.
        .log_internal_errors(false);
    match format {
        Some(LogFormat::Json) => log.json().init(),
        None | Some(LogFormat::Text) => log.init(),
    }
    // What a shell allows is often too few for the connections there may be. Where it cannot be
    // more, those beyond are not accepted, and that is logged.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Runtime::new().context("starting threads");
    ended(runtime.and_then(|runtime| runtime.block_on(run(settings))))
}

fn wrong_usage(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}

/// Runs a node until it is told to end, or has stopped by itself.
async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut told = pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let ends = watch::Sender::new(false);
    let mut end = ends.subscribe();
    let mut starting = tokio::spawn(Instance::start_until(settings, async move {
        // An error: nobody is left who could tell.
        let _ = end.wait_for(|ends| *ends).await;
    }));
    let instance = tokio::select! {
        started = &mut starting => started??,
        () = &mut told => {
            // A store that is being opened must be closed before the process ends.
            tracing::info!("ending, as soon as it has started or given up");
            ends.send_replace(true);
            return match starting.await? {
                Ok(instance) => instance.shutdown().await,
                Err(_) => Ok(()),
            };
        }
    };
    let mut stopped = instance.node().watch_stopped();
    let cause = tokio::select! {
        () = &mut told => None,
        stopped = stopped.wait_for(Option::is_some) => {
            stopped.ok().and_then(|cause| cause.clone())
        }
    };
    match &cause {
        None => tracing::info!("ending"),
        Some(cause) => tracing::error!("the node has stopped: {cause}"),
    }
    instance.shutdown().await?;
    match cause {
        None => Ok(()),
        Some(cause) => Err(anyhow::anyhow!("the node has stopped: {cause}")),
    }
}
