//! The client: what it does with answers, hints, certificates, and those who are no nodes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::time::Duration;

use common::{Cluster, until};
use raft_rocks::driver::{Consistency, MemberChange, Session};
use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::{ClientError, ClusterClient, Party, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_proposes_reads_and_changes_the_membership() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    cluster.join(2).await;
    let mut client = ClusterClient::connect(&cluster.address(2), None)
        .await
        .unwrap();
    let session = Session {
        client: 7,
        sequence: 1,
    };
    let first = client.propose("x", Some(session)).await.unwrap();
    let again = client.propose("x", Some(session)).await.unwrap();
    assert_eq!(first.answer, Some(b"1".to_vec()));
    assert_eq!(first.answer, again.answer);
    let read = client.read(Consistency::Linearizable).await.unwrap();
    assert!(read >= first.index);
    let status = client.status().await.unwrap();
    assert_eq!((status.id, status.members.len()), (2, 2));

    client.snapshot().await.unwrap();
    until("there is a snapshot", || async {
        let status = client.clone().status().await.unwrap();
        (status.snapshot_index >= first.index).then_some(())
    })
    .await;
    client.transfer_leader(2).await.unwrap();
    assert_eq!(cluster.nodes[&2].leader().leader, 2);
    let unknown = vec![MemberChange::Promote(9)];
    let refused = client.change_membership(unknown).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
    client.leave().await.unwrap();
    until("it has left", || async {
        let status = cluster.nodes[&1].status().await.unwrap();
        (*status.raft.conf_state.get_voters() == [1]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_where_the_leader_is() {
    let mut cluster = Cluster::new(false);
    cluster.redirect = true;
    cluster.bootstrap().await;
    cluster.join(2).await;
    let follower = cluster.nodes.keys().copied().find(|id| *id != 1).unwrap();
    assert_eq!(cluster.leader().await, 1);
    let mut client = ClusterClient::connect(&cluster.address(follower), None)
        .await
        .unwrap();
    client.propose("x", None).await.unwrap();
    // Nobody leads: it asks until the deadline, and says that nothing has happened.
    cluster.stop(1).await;
    until("it has lost the leader", || async {
        (cluster.nodes[&follower].leader().leader == 0).then_some(())
    })
    .await;
    let mut client = client.with_patience(Duration::from_millis(300));
    let refused = client.propose("x", None).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    // It comes back while it is asked.
    let mut client = client.with_patience(common::DEADLINE);
    let proposed = tokio::spawn(async move { client.propose("x", None).await });
    cluster.reopen(1).await;
    proposed.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_of_the_cluster_is_told_so() {
    let mut cluster = Cluster::new(true);
    cluster.bootstrap().await;
    let address = cluster.address(1);
    let connect = async |tls| ClusterClient::connect(&address, tls).await.map(drop);
    connect(cluster.tls_of(&Party::Client)).await.unwrap();
    connect(cluster.tls_of(&Party::Node(9))).await.unwrap();

    let impostor = Authority::new("blue").unwrap();
    let pem = impostor.issue(&Party::Client).unwrap();
    let tls = |ca: &str| Tls::from_pem(ca, &pem.certificate, &pem.key).unwrap();
    // It does not know us; we do not know it.
    let blue = cluster
        .authority
        .as_ref()
        .unwrap()
        .pem()
        .certificate
        .clone();
    for ca in [&blue, &impostor.pem().certificate] {
        let refused = connect(Some(tls(ca))).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Certificate { .. }),
            "{refused}"
        );
    }
    let plain = connect(None).await.unwrap_err();
    assert!(matches!(plain, ClientError::NotANode { .. }), "{plain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_node_is_named() {
    let mut plain = Cluster::new(false);
    plain.bootstrap().await;
    let authority = Authority::new("blue").unwrap();
    let pem = authority.issue(&Party::Client).unwrap();
    let tls = Tls::from_pem(&authority.pem().certificate, &pem.certificate, &pem.key).unwrap();
    let connect = async |address: &str, tls| ClusterClient::connect(address, tls).await.map(drop);

    let without_tls = connect(&plain.address(1), Some(tls)).await.unwrap_err();
    assert!(
        matches!(without_tls, ClientError::NotANode { .. }),
        "{without_tls}"
    );
    let nobody = connect(&common::free_address(), None).await.unwrap_err();
    assert!(
        matches!(nobody, ClientError::Unreachable { .. }),
        "{nobody}"
    );
    for bad in ["here", "127.0.0.1:", "127.0.0.1:99999", "a b:1"] {
        let refused = connect(bad, None).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Address(_)),
            "{bad}: {refused}"
        );
    }
    // It answers in another protocol.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = other.accept().await.unwrap();
            let mut some = [0; 24];
            stream.read_exact(&mut some).await.unwrap();
            let answer = b"-ERR unknown command 'PRI'\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    let refused = connect(&address, None).await.unwrap_err();
    assert!(matches!(refused, ClientError::NotANode { .. }), "{refused}");
    answering.abort();
}

/// It accepts, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let connecting = ClusterClient::connect(&address, None);
    let ended = tokio::time::timeout(common::DEADLINE, connecting)
        .await
        .unwrap();
    let ended = ended.map(drop).unwrap_err();
    assert!(
        matches!(
            ended,
            ClientError::Silent { .. } | ClientError::NotANode { .. }
        ),
        "{ended}"
    );
}
