//! Members, leadership, snapshots.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::common::{Cluster, until};
use crate::{ask, refused};

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_and_members_removed_at_any_node() {
    let mut cluster = Cluster::of(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let transfer = cluster.url(follower, "/cluster/transfer");
    // In JSON 2.0 is 2.
    let to = json!({ "to": follower as f64 });
    let moved = ask(Method::POST, &transfer, Some(to)).await;
    assert_eq!(moved.status(), StatusCode::NO_CONTENT);
    assert_eq!(cluster.leader().await, follower);
    for wrong in [
        json!({ "to": 1.5 }),
        json!({ "to": -1 }),
        json!({ "to": "1" }),
    ] {
        let wrong = ask(Method::POST, &transfer, Some(wrong)).await;
        refused(wrong, StatusCode::BAD_REQUEST, "to: ").await;
    }
    let nobody = ask(Method::POST, &transfer, Some(json!({ "to": 9 }))).await;
    refused(nobody, StatusCode::NOT_FOUND, "GET /cluster").await;

    // The leader of now, at one that is not.
    let member = format!("/cluster/members/{follower}");
    let gone = ask(Method::DELETE, &cluster.url(leader, &member), None).await;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    until("it is gone", || async {
        let view = crate::json(&cluster.url(leader, "/cluster")).await;
        (view["members"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    let again = ask(Method::DELETE, &cluster.url(leader, &member), None).await;
    refused(again, StatusCode::NOT_FOUND, "no member").await;
    let wrong = cluster.url(leader, "/cluster/members/x");
    let wrong = ask(Method::DELETE, &wrong, None).await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    cluster.kill(follower).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_member_is_one_and_who_is_not_is_told_how_to_join() {
    let cluster = Cluster::of(2).await;
    let url = cluster.url(1, "/cluster/members");
    let address = cluster.nodes[&2].peer_address().to_string();
    for body in [
        json!({ "address": address }),
        json!({ "address": address, "id": 2, "voter": true }),
        json!({ "address": cluster.address(2) }),
    ] {
        let known = ask(Method::POST, &url, Some(body)).await;
        assert_eq!(known.status(), StatusCode::OK);
        let known: serde_json::Value = known.json().await.unwrap();
        assert_eq!(known, json!({ "id": 2 }));
    }
    let other = json!({ "address": address, "id": 3 });
    let other = ask(Method::POST, &url, Some(other)).await;
    refused(other, StatusCode::CONFLICT, "is node 2, not 3").await;
    let learner = json!({ "address": address, "voter": false });
    let learner = ask(Method::POST, &url, Some(learner)).await;
    refused(learner, StatusCode::CONFLICT, "votes already").await;
    let stranger = json!({ "address": "127.0.0.1:1" });
    let stranger = ask(Method::POST, &url, Some(stranger)).await;
    refused(stranger, StatusCode::CONFLICT, "--join").await;
    for wrong in [json!({}), json!({ "address": 1 }), json!({ "addres": "a" })] {
        let wrong = ask(Method::POST, &url, Some(wrong)).await;
        refused(wrong, StatusCode::BAD_REQUEST, "address").await;
    }
    let form = reqwest::Client::new().post(&url).body("address=a");
    let form = form.send().await.unwrap();
    refused(form, StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_made_when_it_is_asked_for() {
    let cluster = Cluster::of(1).await;
    let mut client = cluster.client(1).await;
    client.run::<()>("SET a 1").await;
    let url = cluster.url(1, "/snapshot");
    let asked = ask(Method::POST, &url, None).await;
    assert_eq!(asked.status(), StatusCode::ACCEPTED);
    let before: serde_json::Value = asked.json().await.unwrap();
    assert_eq!(before["requested"], true);
    until("it is made", || async {
        let view = crate::json(&cluster.url(1, "/cluster")).await;
        let at = view["node"]["snapshot_index"].as_u64().unwrap();
        (at > before["snapshot_index"].as_u64().unwrap()).then_some(())
    })
    .await;
    drop(client);
    cluster.shutdown().await;
}
