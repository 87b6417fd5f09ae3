//! Three nodes of raft-rocks-server.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use redis::aio::MultiplexedConnection;

use super::nodes::{Node, free_addresses, until};
use crate::args::ClusterArgs;

const NODES: usize = 3;

/// A cluster that runs.
pub struct Server {
    clients: Vec<String>,
    _nodes: Vec<Node>,
}

impl Server {
    /// Starts it with empty directories.
    pub async fn start(args: &ClusterArgs, dir: &Path) -> Result<Server> {
        let program = program(args)?;
        let addresses = free_addresses(2 * NODES)?;
        let (clients, peers) = addresses.split_at(NODES);
        let mut nodes = Vec::new();
        for (n, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let mut command = Command::new(&program);
            command
                .args(["--durability", "high", "--consistency", "high"])
                .args([
                    "--log-level",
                    "warn",
                    "--listen",
                    client,
                    "--peer-listen",
                    peer,
                ])
                .env("RAFT_ROCKS_HTTP_LISTEN", "off")
                .arg("--dir")
                .arg(dir.join(format!("node{n}")));
            if let Some(first) = peers.first().filter(|first| *first != peer) {
                command.args(["--join", first]);
            }
            let name = format!("raft-rocks-server-{n}");
            nodes.push(Node::start(command, dir, name)?);
            let voters = n + 1;
            let what = format!("{voters} voters of raft-rocks-server");
            until(&what, &mut nodes, || has_voters(client, voters)).await?;
        }
        Ok(Server {
            clients: clients.to_vec(),
            _nodes: nodes,
        })
    }

    /// Where clients reach the leader.
    pub async fn leader(&self) -> Result<String> {
        let first = self.clients.first().context("no node")?;
        let mut connection = connect(first).await?;
        let asked = redis::cmd("RAFTLEADER");
        let leader: Option<String> = asked.query_async(&mut connection).await?;
        leader.context("raft-rocks-server has no leader")
    }
}

/// As named, or beside this program, where cargo puts it.
fn program(args: &ClusterArgs) -> Result<PathBuf> {
    let program = match &args.server {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("raft-rocks-server"),
    };
    let hint = "build it: cargo build --release --package raft-rocks-server";
    ensure!(
        program.exists(),
        "{} is not there; {hint}",
        program.display()
    );
    Ok(program)
}

pub async fn connect(address: &str) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

async fn has_voters(address: &str, count: usize) -> Result<bool> {
    let mut connection = connect(address).await?;
    let asked = redis::cmd("RAFTPEERS");
    let peers: Vec<(String, String)> = asked.query_async(&mut connection).await?;
    let voters = peers.iter().filter(|(_, state)| state != "Learner");
    let has_leader = peers.iter().any(|(_, state)| state == "Leader");
    Ok(has_leader && voters.count() == count)
}
