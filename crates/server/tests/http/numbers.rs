//! Metrics and history.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::{Cluster, until};
use crate::json;

/// Names with their labels, and values.
async fn metrics(cluster: &Cluster, id: u64) -> BTreeMap<String, f64> {
    let answer = reqwest::get(cluster.url(id, "/metrics")).await.unwrap();
    let format = answer.headers()["content-type"].to_str().unwrap();
    assert!(format.starts_with("text/plain; version=0.0.4"), "{format}");
    let text = answer.text().await.unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let before = found.insert(name.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "twice: {name}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_is_told_of_store_and_server() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.fsync = raft_rocks::FsyncPolicy::Always);
    cluster.start_all(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut client = cluster.client(follower).await;
    for n in 0..20 {
        client.run::<()>(&format!("SET k{n} v")).await;
    }
    let of_follower = metrics(&cluster, follower).await;
    let get = |name: &str| of_follower[&format!("raft_rocks_server_{name}")];
    assert_eq!(get("has_leader"), 1.0);
    assert_eq!(get("is_leader"), 0.0);
    assert!(get("term") >= 1.0);
    assert!(get("leader_changes_seen_total") >= 1.0);
    assert!(get("proposals_committed_total") >= 20.0);
    assert!(get("proposals_applied_total") >= 1.0);
    assert_eq!(get("proposals_failed_total"), 0.0);
    assert_eq!(get("proposals_pending"), 0.0);
    assert_eq!(get("commit_duration_seconds_count"), 20.0);
    assert!(get("commit_duration_seconds_bucket{le=\"5\"}") >= 1.0);
    assert!(get("wal_fsync_duration_seconds_count") >= 20.0);
    let first_index = cluster.nodes[&follower].node().status().await.unwrap();
    assert_eq!(get("log_first_index"), first_index.raft.first_index as f64);
    assert!(get("log_last_index") >= 20.0);
    assert_eq!(get("connections"), 1.0);
    assert!(get("commands_total") >= 20.0);
    assert!(of_follower["raft_rocks_appended_entries_total"] >= 20.0);
    assert!(of_follower["raft_rocks_sync_seconds_count"] >= 20.0);
    let lag = |of: &BTreeMap<String, f64>| {
        let lags = of.keys();
        lags.filter(|name| name.starts_with("raft_rocks_server_peer_lag_entries"))
            .count()
    };
    assert_eq!(lag(&of_follower), 0);
    let of_leader = metrics(&cluster, leader).await;
    assert_eq!(of_leader["raft_rocks_server_is_leader"], 1.0);
    assert_eq!(lag(&of_leader), 2);
    // The proposals are those of the node that was asked.
    assert_eq!(
        of_leader["raft_rocks_server_commit_duration_seconds_count"],
        0.0
    );
    drop(client);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_minutes_are_kept_second_by_second() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.fsync = raft_rocks::FsyncPolicy::Always);
    cluster.start(1).await;
    let mut client = cluster.client(1).await;
    for n in 0..30 {
        client.run::<()>(&format!("SET k{n} v")).await;
    }
    let url = cluster.url(1, "/cluster/history");
    let commits = |history: &Value| -> u64 {
        let samples = history["samples"].as_array().unwrap().iter();
        samples
            .map(|sample| sample["commits"].as_u64().unwrap())
            .sum()
    };
    let history = until("all are counted", || async {
        let history = json(&url).await;
        (commits(&history) == 30).then_some(history)
    })
    .await;
    assert_eq!(history["interval_s"], 1);
    let samples = history["samples"].as_array().unwrap();
    let busy = samples
        .iter()
        .find(|sample| sample["commits"] != 0)
        .unwrap();
    let (p50, p99) = (&busy["commit_p50_ms"], &busy["commit_p99_ms"]);
    assert!(
        p50.as_f64().unwrap() > 0.0 && p50.as_f64() <= p99.as_f64(),
        "{busy}"
    );
    assert!(busy["syncs"].as_u64().unwrap() > 0, "{busy}");
    assert!(busy["sync_p50_ms"].as_f64().unwrap() > 0.0, "{busy}");
    let last = samples.last().unwrap();
    let status = cluster.nodes[&1].node().status().await.unwrap().raft;
    assert_eq!(last["first_index"], status.first_index);
    assert!(last["last_index"].as_u64().unwrap() >= 30);
    let since = last["at_ms"].as_u64().unwrap();
    let quiet = until("another second is over", || async {
        let later = json(&format!("{url}?since={since}")).await;
        later["samples"].as_array().unwrap().first().cloned()
    })
    .await;
    assert!(quiet["at_ms"].as_u64().unwrap() > since);
    assert_eq!(quiet["commits"], 0);
    assert_eq!(quiet["commit_p50_ms"], Value::Null);
    let wrong = reqwest::get(format!("{url}?since=x")).await.unwrap();
    crate::refused(wrong, reqwest::StatusCode::BAD_REQUEST, "since").await;
    drop(client);
    cluster.shutdown().await;
}
