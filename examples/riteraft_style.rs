//! A replicated map in the style of riteraft: a state machine of three methods; one node leads,
//! others join by the address of any member, whoever is asked carries a command to the leader,
//! and a node leaves. Over a network within the process, on durable stores.
//!
//! `cargo run --example riteraft_style --features driver`

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use raft_rocks::driver::{
    Builder, Consistency, JoinOptions, LocalNetwork, Node, NodeOptions, StateMachine, store_options,
};
use raft_rocks::{Options, RaftMachineStorage};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `key=value` sets a key; the answer is what it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Map(BTreeMap<String, String>);

impl StateMachine for Map {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        let command = String::from_utf8_lossy(command);
        let Some((key, value)) = command.split_once('=') else {
            return b"a command is key=value".to_vec();
        };
        let before = self.0.insert(key.to_owned(), value.to_owned());
        before.unwrap_or_default().into_bytes()
    }

    fn snapshot(&self) -> Vec<u8> {
        let lines = self.0.iter().map(|(key, value)| format!("{key}={value}\n"));
        lines.collect::<String>().into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        self.0.clear();
        for line in String::from_utf8_lossy(snapshot).lines() {
            self.apply(0, line.as_bytes());
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let dirs = tempfile::tempdir()?;
    runtime.block_on(demo(dirs.path()))
}

/// A node that is about to lead or to join: its store, its machine, its address.
fn node(
    dirs: &Path,
    network: &LocalNetwork,
    address: &str,
) -> Result<Builder<RaftMachineStorage, Map>, Failure> {
    let store = RaftMachineStorage::open(dirs.join(address), store_options(Options::default()))?;
    let transport = network.endpoint(address);
    let options = NodeOptions::new(address);
    let builder = Builder::new(store, Map::default(), transport, options)?;
    network.listen(address, builder.inbox());
    Ok(builder)
}

/// Sends a command through any node; again, while nothing has happened.
async fn send(node: &Node<Map>, command: &str) -> Result<String, Failure> {
    loop {
        match node.propose(command).await {
            Ok(applied) => return Ok(String::from_utf8(applied.answer.unwrap_or_default())?),
            Err(e) if e.is_retryable() => leader_known(node).await?,
            Err(e) => return Err(e.into()),
        }
    }
}

async fn leader_known(node: &Node<Map>) -> Result<(), Failure> {
    let mut leader = node.watch_leader();
    leader.wait_for(|known| known.leader != 0).await?;
    Ok(())
}

async fn demo(dirs: &Path) -> Result<(), Failure> {
    let network = LocalNetwork::new(0);
    let first = node(dirs, &network, "first")?.bootstrap()?;
    leader_known(&first).await?;
    send(&first, "colour=blue").await?;
    println!("node {} leads", first.id());

    let mut others = Vec::new();
    for address in ["second", "third"] {
        let seeds = vec!["first".to_owned()];
        let joined = node(dirs, &network, address)?.join(seeds, JoinOptions::default());
        let joined = joined.await?;
        leader_known(&joined).await?;
        println!("{address} joined as node {}", joined.id());
        others.push(joined);
    }

    for other in &others {
        let was = send(other, &format!("colour=green {}", other.id())).await?;
        println!("node {} changed the colour, which was {was:?}", other.id());
        let is = other.query(Consistency::Linearizable, |map| {
            map.0.get("colour").cloned()
        });
        println!("node {} reads {:?}", other.id(), is.await?);
    }

    if let Some(leaver) = others.pop() {
        leaver.leave().await?;
        leaver.shutdown().await;
        println!("node {} left", leaver.id());
    }
    let was = send(&first, "colour=red").await?;
    println!("the colour was {was:?}");
    for node in others.iter().chain([&first]) {
        node.shutdown().await;
    }
    match was == "green 3" {
        true => Ok(()),
        false => Err(format!("the colour was {was:?}").into()),
    }
}

#[cfg(test)]
#[test]
fn a_map_is_replicated_by_nodes_that_come_and_go() -> Result<(), Failure> {
    main()
}
