//! HTTP: how a node and its cluster stand.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use common::{Cluster, until};
use raft_rocks_server::instance::Instance;
use reqwest::StatusCode;
use serde_json::Value;

async fn json(url: &str) -> Value {
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{url}");
    response.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_tells_how_the_cluster_stands() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(leader).await;
    client.run::<()>("MSET a 1 b 2").await;
    for id in 1..=3 {
        let url = cluster.url(id, "/cluster");
        let view = until("everybody has everything", || async {
            let view = json(&url).await;
            let is_level = |member: &Value| member["lag"] == 0 && member["active"] == true;
            let all = view["members"].as_array().unwrap().iter().all(is_level);
            (all && view["node"]["keys"] == 2).then_some(view)
        })
        .await;
        assert_eq!(view["from_leader"], true);
        assert_eq!(view["cluster_id"].as_str().unwrap().len(), 32);
        assert_eq!(view["version"], env!("CARGO_PKG_VERSION"));
        let node = &view["node"];
        assert_eq!(node["id"], id);
        assert_eq!(node["leader"], leader);
        let role = if id == leader { "leader" } else { "follower" };
        assert_eq!(node["role"], role);
        assert_eq!(node["removed"], false);
        assert_eq!(node["applied"], node["last_index"]);
        assert!(node["uptime_s"].as_f64().unwrap() > 0.0);
        let connections = u64::from(id == leader);
        assert_eq!(node["connections"], connections);
        let members = view["members"].as_array().unwrap();
        assert_eq!(members.len(), 3);
        for (member, of) in members.iter().zip(1..) {
            let instance = &cluster.nodes[&of];
            assert_eq!(member["id"], of);
            let http = instance.http_address().unwrap().to_string();
            assert_eq!(member["http_address"], http);
            assert_eq!(member["client_address"], cluster.address(of));
            assert_eq!(member["address"], instance.peer_address().to_string());
            assert_eq!(member["voter"], true);
            assert_eq!(member["role"] == "leader", of == leader);
            assert_eq!(member["matched"], node["last_index"]);
            assert_eq!(member["pending_snapshot"], 0);
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_it_says_so() {
    let mut cluster = Cluster::of(2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ready = reqwest::get(cluster.url(follower, "/readyz")).await;
    assert_eq!(ready.unwrap().status(), StatusCode::OK);
    cluster.kill(leader).await;
    let url = cluster.url(follower, "/readyz");
    let answer = until("it is not ready", || async {
        let response = reqwest::get(&url).await.unwrap();
        (response.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(response)
    })
    .await;
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.text().await.unwrap(), "no leader known");
    let live = reqwest::get(cluster.url(follower, "/livez")).await.unwrap();
    assert_eq!(live.text().await.unwrap(), "ok");
    let view = json(&cluster.url(follower, "/cluster")).await;
    assert_eq!(view["from_leader"], false);
    assert_eq!(view["node"]["leader"], Value::Null);
    assert_eq!(view["members"][0]["lag"], Value::Null);
    cluster.kill(follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Cluster::new();
    let mut settings = cluster.settings(1);
    let address = taken.local_addr().unwrap().to_string();
    settings.http_listen = Some(address.clone());
    let refused = Instance::start(settings).await.err().unwrap();
    let refused = format!("{refused:#}");
    assert!(
        refused.starts_with(&format!("--http-listen {address}: cannot listen there")),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn off_means_none() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.http_listen = None);
    cluster.start(1).await;
    assert_eq!(cluster.nodes[&1].http_address(), None);
    cluster.shutdown().await;
}
