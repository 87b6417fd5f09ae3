//! How a node and its cluster stand.

use std::io::Write as _;

use raft_rocks_server::instance::Instance;
use reqwest::StatusCode;
use serde_json::Value;

use crate::common::{Cluster, free_address, until};
use crate::json;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_member_any_more_is_not_ready() {
    let mut cluster = Cluster::of(2).await;
    cluster.nodes[&1].node().transfer_leader(1).await.unwrap();
    let url = cluster.url(2, "/readyz");
    cluster.nodes[&1].node().remove(2).await.unwrap();
    let reason = until("it is not ready", || async {
        let response = reqwest::get(&url).await.unwrap();
        let text = response.text().await.unwrap();
        text.starts_with("removed: ").then_some(text)
    })
    .await;
    assert!(reason.contains("no longer a member"), "{reason}");
    cluster.kill(2).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_stopped_says_why() {
    let mut cluster = Cluster::of(1).await;
    let node = cluster.nodes[&1].node().clone();
    let url = cluster.url(1, "/readyz");
    node.halt().await;
    let response = reqwest::get(&url).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let reason = response.text().await.unwrap();
    assert!(reason.starts_with("stopped: "), "{reason}");
    let view = reqwest::get(cluster.url(1, "/cluster")).await.unwrap();
    crate::refused(view, StatusCode::SERVICE_UNAVAILABLE, "has stopped").await;
    cluster.kill(1).await;
}

/// A store of many entries takes long to open; whoever restarts what is not alive would restart it
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_is_still_opened_is_alive_and_not_ready() {
    let mut cluster = Cluster::of(1).await;
    cluster.kill(1).await;
    let mut settings = cluster.settings(1);
    let address = free_address();
    settings.http_listen = Some(address.clone());
    // A file that is not read to its end before somebody writes it.
    let current = settings.dir.join("store/db/CURRENT");
    let kept = current.with_extension("kept");
    std::fs::rename(&current, &kept).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&current).status();
    assert!(made.unwrap().success());
    let starting = tokio::spawn(Instance::start(settings));
    let ask = async |path: &str| {
        let response = reqwest::get(format!("http://{address}{path}")).await;
        Some(response.ok()?.text().await.unwrap())
    };
    let reason = until("it answers", || ask("/readyz")).await;
    assert_eq!(reason, "starting: the store is opened and verified");
    assert_eq!(ask("/livez").await.unwrap(), "ok");
    let opened = tokio::task::spawn_blocking(move || {
        let text = std::fs::read(&kept).unwrap();
        let mut pipe = std::fs::OpenOptions::new()
            .write(true)
            .open(&current)
            .unwrap();
        // What is opened from here on is the file.
        std::fs::rename(&kept, &current).unwrap();
        pipe.write_all(&text).unwrap();
    });
    let node = starting.await.unwrap().unwrap();
    opened.await.unwrap();
    until("it is ready", || async {
        (ask("/readyz").await? == "ok").then_some(())
    })
    .await;
    node.shutdown().await.unwrap();
}

/// It would wait for the members that it is to join.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_is_alive_and_not_ready() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free_address();
    let cluster = Cluster::new();
    let mut settings = cluster.settings(1);
    settings.join = vec![nobody.local_addr().unwrap().to_string()];
    settings.http_listen = Some(address.clone());
    let starting = tokio::spawn(Instance::start(settings));
    let reason = until("it answers", || async {
        let response = reqwest::get(format!("http://{address}/readyz"))
            .await
            .ok()?;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let reason = response.text().await.ok()?;
        reason.contains("joins a cluster").then_some(reason)
    })
    .await;
    assert!(reason.starts_with("starting: "), "{reason}");
    let live = reqwest::get(format!("http://{address}/livez")).await;
    assert_eq!(live.unwrap().status(), StatusCode::OK);
    let view = reqwest::get(format!("http://{address}/cluster")).await;
    let view = view.unwrap();
    assert_eq!(view.headers()["retry-after"], "1");
    crate::refused(view, StatusCode::SERVICE_UNAVAILABLE, "starting").await;
    drop(nobody);
    // It gives up by itself, in good order.
    assert!(starting.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_the_document_are_there() {
    let cluster = Cluster::of(1).await;
    let page = reqwest::get(cluster.url(1, "/")).await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(page.text().await.unwrap().contains("</html>"));
    let document = json(&cluster.url(1, "/openapi.json")).await;
    let paths = document["paths"].as_object().unwrap();
    let expected = [
        "/",
        "/backup",
        "/cluster",
        "/cluster/history",
        "/cluster/members",
        "/cluster/members/{id}",
        "/cluster/transfer",
        "/kv/{key}",
        "/livez",
        "/metrics",
        "/openapi.json",
        "/raft/api/addNode",
        "/raft/api/deleteNode",
        "/raft/api/getPeerList",
        "/raft/api/set",
        "/readyz",
        "/snapshot",
    ];
    assert!(paths.keys().eq(expected), "{:?}", paths.keys());
    let nowhere = reqwest::get(cluster.url(1, "/nowhere")).await.unwrap();
    crate::refused(nowhere, StatusCode::NOT_FOUND, "/openapi.json").await;
    let post = crate::ask(reqwest::Method::POST, &cluster.url(1, "/cluster"), None).await;
    assert_eq!(post.headers()["allow"], "GET,HEAD");
    crate::refused(post, StatusCode::METHOD_NOT_ALLOWED, "method").await;
    cluster.shutdown().await;
}
