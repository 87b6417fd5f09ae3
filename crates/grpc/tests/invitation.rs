//! Nodes that wait until a cluster wants them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::time::Duration;

use common::{Cluster, DEADLINE, until};
use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::{AddError, ClientError, ClusterClient, Newcomer, Party, Tls, add_member};

fn newcomer(address: &str) -> Newcomer {
    Newcomer {
        address: address.to_owned(),
        id: None,
        as_voter: true,
    }
}

async fn voters(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.nodes[&1].status().await.unwrap();
    let mut voters = status.raft.conf_state.get_voters().to_vec();
    voters.sort_unstable();
    voters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_is_invited_and_becomes_a_voter() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    for command in 0..50 {
        cluster.propose(command).await;
    }
    let waiting = cluster.wait_for_invitation(2).await;
    let address = cluster.address(2);
    let told = ClusterClient::connect(&address, None)
        .await
        .unwrap()
        .status()
        .await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("waits to be invited"), "{told}");

    let mut client = ClusterClient::connect(&cluster.address(1), None)
        .await
        .unwrap();
    assert_eq!(client.add(&address, None, true).await.unwrap(), 2);
    assert_eq!(cluster.invited(waiting).await, Some(2));
    assert_eq!(voters(&cluster).await, [1, 2]);
    // It is one already.
    assert_eq!(client.add(&address, None, true).await.unwrap(), 2);
    let refused = client.add(&address, Some(3), true).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    assert!(
        refused.to_string().contains("is member 2, not 3"),
        "{refused}"
    );

    // With an id, through a follower, at first without a vote.
    let waiting = cluster.wait_for_invitation(3).await;
    let address = cluster.address(3);
    let mut client = ClusterClient::connect(&cluster.address(2), None)
        .await
        .unwrap();
    assert_eq!(client.add(&address, Some(7), false).await.unwrap(), 7);
    assert_eq!(cluster.invited(waiting).await, Some(7));
    assert_eq!(voters(&cluster).await, [1, 2]);
    assert_eq!(client.add(&address, None, true).await.unwrap(), 7);
    assert_eq!(voters(&cluster).await, [1, 2, 7]);
    cluster.agreed(50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_invited_belongs_to_one_cluster() {
    let mut blue = Cluster::new(false);
    let mut red = Cluster::new(false);
    blue.bootstrap().await;
    red.bootstrap().await;
    let waiting = blue.wait_for_invitation(2).await;
    let address = blue.address(2);
    let added = add_member(&blue.nodes[&1], None, newcomer(&address), DEADLINE).await;
    assert_eq!(added.unwrap(), 2);
    assert_eq!(blue.invited(waiting).await, Some(2));
    let refused = add_member(&red.nodes[&1], None, newcomer(&address), DEADLINE).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("node 2 of a cluster already"), "{refused}");
    assert_eq!(voters(&red).await, [1]);
    // And one that never waited for any.
    let address = blue.address(1);
    let refused = add_member(&red.nodes[&1], None, newcomer(&address), DEADLINE).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("does not wait to be invited"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_decide_who_may_invite() {
    let mut cluster = Cluster::new(true);
    cluster.bootstrap().await;
    let waiting = cluster.wait_for_invitation(2).await;
    let address = cluster.address(2);
    let node = &cluster.nodes[&1];
    let impostor = Authority::new("blue").unwrap();
    let pem = impostor.issue(&Party::Node(1)).unwrap();
    let ca = &cluster.authority.as_ref().unwrap().pem().certificate;
    let tls = Tls::from_pem(ca, &pem.certificate, &pem.key).unwrap();
    for tls in [None, Some(&tls)] {
        let refused = add_member(node, tls, newcomer(&address), DEADLINE).await;
        assert!(matches!(refused, Err(AddError::Invite(_))), "{refused:?}");
    }
    let tls = cluster.tls_of(&Party::Client);
    let client = ClusterClient::connect(&cluster.address(1), tls)
        .await
        .unwrap();
    let mut client = client.with_patience(DEADLINE);
    assert_eq!(client.add(&address, Some(2), true).await.unwrap(), 2);
    assert_eq!(cluster.invited(waiting).await, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_is_refused_says_why() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let waiting = cluster.wait_for_invitation(2).await;
    let taken = Newcomer {
        id: Some(1),
        ..newcomer(&cluster.address(2))
    };
    let refused = add_member(&cluster.nodes[&1], None, taken, DEADLINE).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("another store"), "{refused}");
    assert_eq!(cluster.invited(waiting).await, None);
    assert_eq!(voters(&cluster).await, [1]);
}

/// It was told as a node that cannot be invited, as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_whose_answer_is_lost_may_have_been_followed() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let invitations = cluster.waits_for_the_test(2).await;
    let there = cluster.address(2);
    let between = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap().to_string();
    let proxy = tokio::spawn(async move {
        let (mut near, _) = between.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(there).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let node = cluster.nodes[&1].clone();
    let added =
        tokio::spawn(async move { add_member(&node, None, newcomer(&address), DEADLINE).await });
    let _followed = invitations.next().await;
    proxy.abort();
    let error = added.await.unwrap().unwrap_err();
    assert!(error.is_open(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_invited_in_time_is_not_waited_for() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let node = &cluster.nodes[&1];
    let nobody = newcomer(&common::free_address());
    let refused = add_member(node, None, nobody, DEADLINE).await.unwrap_err();
    assert!(
        refused.to_string().contains("--await-invitation"),
        "{refused}"
    );
    // It accepts, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = newcomer(&silent.local_addr().unwrap().to_string());
    let patience = Duration::from_millis(300);
    let refused = add_member(node, None, silent, patience).await.unwrap_err();
    assert!(matches!(refused, AddError::NotSeen { .. }), "{refused}");
    until("the cluster goes on", || async {
        node.propose("x").await.ok().map(drop)
    })
    .await;
}
