//! Nodes that wait until a member adds them, however that is asked for.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use common::{Cluster, free_address, until};
use raft_rocks_server::instance::Instance;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A node that starts once it is invited.
struct Waiting {
    peers: String,
    http: String,
    starting: JoinHandle<anyhow::Result<Instance>>,
}

impl Waiting {
    async fn start(cluster: &Cluster, id: u64) -> Self {
        let mut settings = cluster.settings(id);
        settings.id = None;
        settings.join.clear();
        settings.await_invitation = true;
        settings.peer_listen = free_address();
        settings.http_listen = Some(free_address());
        let waiting = Waiting {
            peers: settings.peer_listen.clone(),
            http: settings.http_listen.clone().unwrap(),
            starting: tokio::spawn(Instance::start(settings)),
        };
        until("it waits", || async {
            let asked = reqwest::get(format!("http://{}/readyz", waiting.http)).await;
            let told = asked.ok()?.text().await.unwrap();
            told.contains("waiting to be invited").then_some(())
        })
        .await;
        waiting
    }

    /// What it has become.
    async fn joined(self, cluster: &mut Cluster) -> u64 {
        let instance = self.starting.await.unwrap().unwrap();
        let id = instance.node().id();
        cluster.nodes.insert(id, instance);
        id
    }
}

async fn is_voter(cluster: &Cluster, id: u64) -> bool {
    let status = cluster.nodes[&1].node().status().await.unwrap().raft;
    status.conf_state.get_voters().contains(&id)
}

async fn post(url: String, body: Value) -> (u16, Value) {
    let asked = reqwest::Client::new().post(url);
    let asked = asked.header("content-type", "application/json");
    let answer = asked.body(body.to_string()).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_adds_whoever_waits_for_it() {
    let mut cluster = Cluster::of(1).await;
    let mut client = cluster.client(1).await;
    let http = cluster.nodes[&1].http_address().unwrap();

    let waiting = Waiting::start(&cluster, 2).await;
    let add = format!("RAFTADDPEER {}", waiting.peers);
    assert_eq!(client.run::<String>(&add).await, "OK");
    // When it is answered it is a voter, not before.
    assert!(is_voter(&cluster, 2).await);
    assert_eq!(waiting.joined(&mut cluster).await, 2);
    assert_eq!(client.run::<String>(&add).await, "OK");

    let waiting = Waiting::start(&cluster, 7).await;
    let body = json!({ "address": waiting.peers, "id": 7, "voter": true });
    let (status, answer) = post(format!("http://{http}/cluster/members"), body).await;
    assert_eq!((status, &answer["id"]), (200, &json!(7)), "{answer}");
    assert!(is_voter(&cluster, 7).await);
    assert_eq!(waiting.joined(&mut cluster).await, 7);

    let waiting = Waiting::start(&cluster, 9).await;
    let body = json!({ "id": 9, "host": waiting.peers });
    let (_, answer) = post(format!("http://{http}/raft/api/addNode"), body).await;
    assert_eq!(answer["code"], "000000", "{answer}");
    assert_eq!(waiting.joined(&mut cluster).await, 9);
    let mut last = cluster.client(9).await;
    assert_eq!(last.run::<String>("SET a 1").await, "OK");
    drop((client, last));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_is_named() {
    let cluster = Cluster::of(1).await;
    let mut client = cluster.client(1).await;
    let nobody = client
        .fails(&format!("RAFTADDPEER {}", free_address()))
        .await;
    assert!(nobody.contains("--await-invitation"), "{nobody}");
    // A cluster of its own.
    let other = Cluster::of(1).await;
    let address = other.nodes[&1].peer_address();
    let refused = client.fails(&format!("RAFTADDPEER {address}")).await;
    assert!(refused.contains("does not wait to be invited"), "{refused}");
    drop(client);
    other.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_told_to_wait_comes_back_as_itself() {
    let mut cluster = Cluster::of(1).await;
    let waiting = Waiting::start(&cluster, 2).await;
    let mut client = cluster.client(1).await;
    let add = format!("RAFTADDPEER {}", waiting.peers);
    assert_eq!(client.run::<String>(&add).await, "OK");
    let mut settings = cluster.settings(2);
    settings.join.clear();
    settings.await_invitation = true;
    settings.peer_listen = waiting.peers.clone();
    assert_eq!(waiting.joined(&mut cluster).await, 2);
    cluster.kill(2).await;
    let back = Instance::start(settings).await.unwrap();
    assert_eq!(back.node().id(), 2);
    drop(client);
    cluster.nodes.insert(2, back);
    cluster.shutdown().await;
}
