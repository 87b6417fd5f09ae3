//! What clients of eosc's raft send, and the envelope that they get.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::ask;
use crate::common::Cluster;

async fn post(cluster: &Cluster, id: u64, path: &str, body: Value) -> Value {
    let answer = ask(Method::POST, &cluster.url(id, path), Some(body)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

fn success(data: Value) -> Value {
    json!({ "code": "000000", "msg": "success", "data": data, "error": "" })
}

fn fails(answer: &Value, code: &str, part: &str) {
    assert_eq!(answer["code"], code);
    assert_eq!(answer["msg"], "fail");
    assert_eq!(answer["data"], Value::Null);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains(part), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_paths_answer_in_its_envelope() {
    let mut cluster = Cluster::of(2).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let set = json!({ "key": "k", "value": "v" });
    let answer = post(&cluster, follower, "/raft/api/set", set).await;
    assert_eq!(answer, success(Value::Null));
    let mut client = cluster.client(leader).await;
    assert_eq!(client.run::<String>("GET k").await, "v");

    let peers = crate::json(&cluster.url(follower, "/raft/api/getPeerList")).await;
    let named = json!({ "1": cluster.address(1), "2": cluster.address(2) });
    assert_eq!(peers, success(json!({ "peers": named, "count": 2 })));

    let host = cluster.nodes[&2].peer_address().to_string();
    for id in [json!(2), json!("2")] {
        let node = json!({ "id": id, "host": host });
        let answer = post(&cluster, 1, "/raft/api/addNode", node).await;
        assert_eq!(answer, success(Value::Null));
    }
    let stranger = json!({ "id": 3, "host": "127.0.0.1:1" });
    let answer = post(&cluster, 1, "/raft/api/addNode", stranger).await;
    fails(&answer, "000002", "--join");
    let answer = post(
        &cluster,
        1,
        "/raft/api/addNode",
        json!({ "id": "x", "host": "" }),
    )
    .await;
    fails(&answer, "000001", "no number");
    let answer = post(
        &cluster,
        1,
        "/raft/api/set",
        json!({ "key": "", "value": "" }),
    )
    .await;
    fails(&answer, "000001", "key");
    let answer = post(&cluster, 1, "/raft/api/set", json!(["k"])).await;
    fails(&answer, "000001", "");

    let nobody = json!({ "id": 9 });
    let answer = post(&cluster, 1, "/raft/api/deleteNode", nobody).await;
    fails(&answer, "000002", "no member");
    let node = json!({ "id": follower });
    let answer = post(&cluster, leader, "/raft/api/deleteNode", node).await;
    assert_eq!(answer, success(Value::Null));
    drop(client);
    cluster.kill(follower).await;
    cluster.shutdown().await;
}
