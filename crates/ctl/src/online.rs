//! The commands that ask a running cluster, over gRPC.

pub mod args;
mod change;
mod view;
mod watch;

use anyhow::{Context as _, Result};
use raft_rocks_grpc::{ClusterClient, Tls};

use self::args::{AddArgs, MemberArgs, Target, WatchArgs};
use self::view::View;
use crate::args::Common;
use crate::commands::{print, print_json};
use crate::exit::Exit;

/// A node to ask.
struct Asked {
    client: ClusterClient,
    tls: Option<Tls>,
}

impl Asked {
    async fn connect(target: &Target) -> Result<Asked> {
        let tls = target.tls()?;
        let client = target.connect(tls.as_ref()).await?;
        Ok(Asked { client, tls })
    }

    async fn view(&mut self) -> Result<View> {
        Ok(View::of(&mut self.client, self.tls.as_ref()).await?)
    }
}

fn run(work: impl Future<Output = Result<()>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(work).map(|()| Exit::Sound)
}

pub fn status(common: &Common, target: &Target) -> Result<Exit> {
    run(async {
        let view = Asked::connect(target).await?.view().await?;
        match common.json {
            true => print_json(&view.json()),
            false => print(&view.json(), 0),
        }
    })
}

pub fn members(common: &Common, target: &Target) -> Result<Exit> {
    run(async {
        let view = Asked::connect(target).await?.view().await?;
        match common.json {
            true => print_json(&serde_json::json!({
                "members": view.members_json(),
                "from_leader": view.is_from_leader(),
            })),
            false => table(&view),
        }
    })
}

fn table(view: &View) -> Result<()> {
    let mut rows = vec![["id", "nodes", "clients", "role", "matched", "lag"].map(str::to_owned)];
    for member in &view.status.members {
        let json = view.member_json(member);
        let cell = |name: &str| match json.get(name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => "-".to_owned(),
        };
        rows.push(["id", "address", "client_address", "role", "matched", "lag"].map(cell));
    }
    let widths: Vec<usize> = (0..6)
        .map(|at| {
            rows.iter()
                .filter_map(|row| Some(row.get(at)?.len()))
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        say!("{}", line.join("  ").trim_end());
    }
    if !view.is_from_leader() {
        eprintln!("the leader does not answer: nobody knows how far the others are");
    }
    Ok(())
}

pub fn add(common: &Common, args: &AddArgs) -> Result<Exit> {
    run(change::add(common, args))
}

pub fn remove(common: &Common, args: &MemberArgs) -> Result<Exit> {
    run(change::remove(common, args))
}

pub fn transfer(common: &Common, args: &MemberArgs) -> Result<Exit> {
    run(change::transfer(common, args))
}

pub fn snapshot(common: &Common, target: &Target) -> Result<Exit> {
    run(change::snapshot(common, target))
}

pub fn watch(common: &Common, args: &WatchArgs) -> Result<Exit> {
    run(watch::run(common, args))
}
