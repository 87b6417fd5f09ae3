//! Keys and values.

use std::time::Duration;

use raft_rocks_server::resp::Redirect;
use reqwest::{Body, Client, Method, Response, StatusCode};

use crate::common::{Cluster, until};
use crate::{ask, refused};

async fn put(url: &str, value: impl Into<Body>) -> Response {
    Client::new().put(url).body(value).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_at_one_node_is_got_at_every_other() {
    let cluster = Cluster::of(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    // Bytes of every kind, in the key and in the value.
    let path = "/kv/a%2Fb%00%FF%20c";
    let value: Vec<u8> = (0..=255).collect();
    let set = put(&cluster.url(follower, path), value.clone()).await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    for id in 1..=3 {
        let found = reqwest::get(cluster.url(id, path)).await.unwrap();
        assert_eq!(found.headers()["content-type"], "application/octet-stream");
        assert_eq!(found.bytes().await.unwrap(), value);
    }
    let mut client = cluster.client(leader).await;
    let redis = redis::cmd("GET")
        .arg(b"a/b\0\xff c")
        .query_async::<Vec<u8>>(client.connection())
        .await;
    assert_eq!(redis.unwrap(), value);
    let url = cluster.url(follower, path);
    let gone = ask(Method::DELETE, &url, None).await;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    let none = ask(Method::DELETE, &url, None).await;
    refused(none, StatusCode::NOT_FOUND, "no such key").await;
    let none = reqwest::get(cluster.url(leader, path)).await.unwrap();
    refused(none, StatusCode::NOT_FOUND, "no such key").await;
    drop(client);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_may_expire() {
    let cluster = Cluster::of(1).await;
    let url = cluster.url(1, "/kv/k");
    let set = put(&format!("{url}?ttl_ms=100000"), "v").await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    let mut client = cluster.client(1).await;
    let left = client.run::<i64>("PTTL k").await;
    assert!((90_000..=100_000).contains(&left), "{left}");
    put(&format!("{url}?ttl_ms=30"), "v").await;
    until("it has expired", || async {
        let found = reqwest::get(&url).await.unwrap();
        (found.status() == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    for wrong in ["0", "-1", "x", "3153600000001"] {
        let answer = put(&format!("{url}?ttl_ms={wrong}"), "v").await;
        refused(answer, StatusCode::BAD_REQUEST, "ttl_ms").await;
    }
    let unknown = put(&format!("{url}?ttl=1"), "v").await;
    refused(unknown, StatusCode::BAD_REQUEST, "ttl_ms").await;
    drop(client);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_has_at_most_a_mebibyte() {
    let cluster = Cluster::of(1).await;
    let url = cluster.url(1, "/kv/k");
    let most = put(&url, vec![1; 1 << 20]).await;
    assert_eq!(most.status(), StatusCode::NO_CONTENT);
    let more = put(&url, vec![1; (1 << 20) + 1]).await;
    refused(more, StatusCode::PAYLOAD_TOO_LARGE, "1 MiB").await;
    let found = reqwest::get(&url).await.unwrap().bytes().await.unwrap();
    assert_eq!(found.len(), 1 << 20);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_redirects_sends_to_the_leader() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.clients.redirect = Redirect::Try);
    cluster.start_all(2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let elsewhere = cluster.url(leader, "/kv/k?ttl_ms=9000");
    let url = cluster.url(follower, "/kv/k?ttl_ms=9000");
    let redirected = until("it knows the leader", || async {
        let answer = ask(Method::PUT, &url, None).await;
        (answer.status() == StatusCode::TEMPORARY_REDIRECT).then_some(answer)
    })
    .await;
    assert_eq!(redirected.headers()["location"], elsewhere.as_str());
    // Who follows gets it.
    let set = put(&url, "v").await;
    assert_eq!(set.status(), StatusCode::NO_CONTENT);
    let found = reqwest::get(cluster.url(follower, "/kv/k")).await.unwrap();
    assert_eq!(found.text().await.unwrap(), "v");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_nothing_has_happened() {
    let mut cluster = Cluster::of(2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.kill(leader).await;
    cluster.kill(follower).await;
    cluster.adapt = Box::new(|settings| settings.clients.patience = Duration::ZERO);
    cluster.start(follower).await;
    let answer = put(&cluster.url(follower, "/kv/k"), "v").await;
    assert_eq!(answer.headers()["retry-after"], "1");
    refused(answer, StatusCode::SERVICE_UNAVAILABLE, "try again").await;
    cluster.kill(follower).await;
}
