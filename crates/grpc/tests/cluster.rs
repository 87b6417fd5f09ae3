//! Nodes in one process, over gRPC on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::time::Duration;

use common::{Cluster, until};
use raft_rocks::driver::{
    Ask, Body, NodeInfo, Packet, Request as NodeRequest, RequestKey, SendError, Transport,
};
use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::proto::cluster_client::ClusterClient;
use raft_rocks_grpc::proto::peer_client::PeerClient;
use raft_rocks_grpc::proto::{Frame, Nothing, ProposeRequest, ReadRequest};
use raft_rocks_grpc::{GrpcTransport, LEADER_KEY, PROTOCOL_KEY, Party, Tls, TransportOptions};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Ends when the server ends the stream.
async fn send_frames(channel: Channel, packets: Vec<Vec<u8>>) -> Result<(), Status> {
    let frames = packets.into_iter().map(|packet| Frame {
        packet: packet.into(),
    });
    let (hold, held) = tokio::sync::mpsc::channel(8);
    for frame in frames {
        hold.send(frame).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(held);
    let mut client = PeerClient::new(channel);
    let sent = client.messages(spoken(stream));
    let ended = tokio::time::timeout(common::DEADLINE, sent).await.unwrap();
    drop(hold);
    ended.map(drop)
}

/// A call in this version of the protocol.
fn spoken<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let version = "1".parse().unwrap();
    request.metadata_mut().insert(PROTOCOL_KEY, version);
    request
}

fn join_packet(cluster_id: Vec<u8>, from: u64, node_id: u64) -> Packet {
    Packet {
        cluster_id,
        from,
        from_store: vec![9; 16],
        from_address: "127.0.0.1:1".to_owned(),
        to: 0,
        to_store: Vec::new(),
        body: Body::Request(NodeRequest {
            key: RequestKey {
                incarnation: 1,
                counter: fastrand::u64(..),
            },
            reply_to: "127.0.0.1:1".to_owned(),
            ask: Ask::Join(NodeInfo {
                id: node_id,
                address: "127.0.0.1:1".to_owned(),
                store_id: vec![9; 16],
                ..NodeInfo::default()
            }),
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_replicate_restart_and_catch_up_under_mutual_tls() {
    let mut cluster = Cluster::new(true);
    cluster.bootstrap().await;
    cluster.join(2).await;
    cluster.join(3).await;
    for command in 0..50 {
        cluster.propose(command).await;
    }
    cluster.agreed(50).await;
    // Through a follower.
    let leader = cluster.leader().await;
    let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.propose_at(follower, 50).await;
    // One that was away longer than the log goes back gets a snapshot.
    cluster.stop(follower).await;
    for command in 51..200 {
        cluster.propose(command).await;
    }
    cluster.reopen(follower).await;
    cluster.agreed(200).await;
    let first = cluster.nodes[&follower].status().await.unwrap().raft;
    assert!(first.first_index > 60, "no snapshot: {first:?}");
    // The leader goes.
    cluster.stop(leader).await;
    cluster.propose(200).await;
    cluster.reopen(leader).await;
    cluster.agreed(201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_service_proposes_reads_and_changes_the_membership() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    cluster.join(2).await;
    let address = cluster.address(2);
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = ClusterClient::new(channel.connect().await.unwrap());
    let command = ProposeRequest {
        command: b"from a client".to_vec().into(),
        client: Some(7),
        sequence: 1,
    };
    let first = client.propose(spoken(command.clone())).await.unwrap();
    let again = client.propose(spoken(command)).await.unwrap();
    assert_eq!(first.get_ref().answer, again.get_ref().answer);
    let read = client.read(spoken(ReadRequest::default())).await.unwrap();
    assert!(read.get_ref().index >= first.get_ref().index);
    let status = client
        .status(spoken(Nothing {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.id, status.members.len()), (2, 2));
    let bad = ReadRequest { consistency: 99 };
    let refused = client.read(spoken(bad)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    client.snapshot(spoken(Nothing {})).await.unwrap();
    until("it has left", || async {
        // On a machine with much to do there may be an election, of which this would be told.
        let _ = client.clone().leave(spoken(Nothing {})).await;
        let status = cluster.nodes[&1].status().await.unwrap();
        (*status.raft.conf_state.get_voters() == [1]).then_some(())
    })
    .await;
    let old = client.status(Request::new(Nothing {})).await.unwrap_err();
    assert_eq!(old.code(), Code::FailedPrecondition);
    assert!(old.message().contains(PROTOCOL_KEY), "{old}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_does_not_hand_on_names_the_leader() {
    let mut cluster = Cluster::new(false);
    cluster.redirect = true;
    cluster.bootstrap().await;
    cluster.join(2).await;
    let channel = Endpoint::from_shared(format!("http://{}", cluster.address(2))).unwrap();
    let client = ClusterClient::new(channel.connect().await.unwrap());
    let expected = cluster.address(1);
    let named = until("it names the leader", || async {
        let mut client = client.clone();
        let refused = client.propose(spoken(ProposeRequest::default())).await;
        let refused = refused.unwrap_err();
        let named = refused.metadata().get(LEADER_KEY).cloned();
        let expected = match named {
            Some(_) => Code::FailedPrecondition,
            None => Code::Unavailable,
        };
        assert_eq!(refused.code(), expected, "{refused}");
        named
    });
    assert_eq!(named.await.to_str().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_what_is_not_for_this_node_is_ended() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let channel = Endpoint::from_shared(format!("http://{}", cluster.address(1))).unwrap();
    let channel = channel.connect().await.unwrap();
    let garbage = send_frames(channel.clone(), vec![vec![0xff; 100]]).await;
    assert_eq!(garbage.unwrap_err().code(), Code::InvalidArgument);
    let mut stranger = join_packet(vec![8; 16], 2, 2);
    stranger.to = 1;
    let stranger = send_frames(channel.clone(), vec![stranger.encode().unwrap()]).await;
    let stranger = stranger.unwrap_err();
    assert_eq!(stranger.code(), Code::FailedPrecondition);
    assert!(stranger.message().contains("another cluster"), "{stranger}");
    // tonic refuses it by its declared length.
    let oversized = send_frames(channel.clone(), vec![vec![0; 9 << 20]]).await;
    assert_eq!(oversized.unwrap_err().code(), Code::OutOfRange);
    let other_version = PeerClient::new(channel)
        .messages(tokio_stream::empty::<Frame>())
        .await;
    assert_eq!(other_version.unwrap_err().code(), Code::FailedPrecondition);
    cluster.propose(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_makes_its_node_and_nobody_else() {
    let mut cluster = Cluster::new(true);
    cluster.bootstrap().await;
    let uri = format!("https://{}", cluster.address(1));
    let connect = |tls: Tls, to| {
        let endpoint = Endpoint::from_shared(uri.clone()).unwrap();
        let endpoint = endpoint.tls_config(tls.client_config(to)).unwrap();
        async move { endpoint.connect().await }
    };
    let tls = |authority: &Authority, party: &Party| {
        let pem = authority.issue(party).unwrap();
        Tls::from_pem(&authority.pem().certificate, &pem.certificate, &pem.key).unwrap()
    };
    let authority = cluster.authority.as_ref().unwrap();

    // Node 2 as itself, and then as node 3, which it would make join.
    let second = connect(tls(authority, &Party::Node(2)), 1).await.unwrap();
    let lie = join_packet(Vec::new(), 0, 3);
    let refused = send_frames(second.clone(), vec![lie.encode().unwrap()]).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let lie = join_packet(cluster.nodes[&1].cluster_id(), 3, 3);
    let refused = send_frames(second.clone(), vec![lie.encode().unwrap()]).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // It would take the place of node 3.
    let lie = join_packet(Vec::new(), 2, 3);
    let refused = send_frames(second, vec![lie.encode().unwrap()]).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    // A client asks, and sends no packets.
    let client = connect(tls(authority, &Party::Client), 0).await.unwrap();
    let refused = send_frames(client.clone(), vec![]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let status = ClusterClient::new(client).status(spoken(Nothing {})).await;
    assert_eq!(status.unwrap().get_ref().id, 1);

    // It is not node 7 that answers there.
    let expecting_another = connect(tls(authority, &Party::Node(2)), 7).await;
    assert!(expecting_another.is_err());

    // Another authority under the same name, another cluster of an authority that is trusted
    // here too, no certificate, and no TLS at all.
    let impostor = Authority::new("blue").unwrap();
    for tls in [
        tls(&impostor, &Party::Node(2)),
        tls(&Authority::new("red").unwrap(), &Party::Node(2)),
    ] {
        let connected = connect(tls, 1).await;
        assert!(connected.is_err());
    }
    let red = Authority::from_pem("red", authority.pem().clone()).unwrap();
    let pem = red.issue(&Party::Node(2)).unwrap();
    let red = Endpoint::from_shared(uri.clone()).unwrap().tls_config(
        tonic::transport::ClientTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(
                &pem.certificate,
                &pem.key,
            ))
            .ca_certificate(tonic::transport::Certificate::from_pem(
                &authority.pem().certificate,
            ))
            .domain_name("node-1.blue.raft-rocks.internal"),
    );
    let red = red.unwrap().connect().await.unwrap();
    let refused = ClusterClient::new(red).status(spoken(Nothing {})).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let plain = Endpoint::from_shared(uri.replace("https", "http")).unwrap();
    let plain = plain.connect().await;
    let answered = match plain {
        Err(_) => false,
        Ok(plain) => ClusterClient::new(plain)
            .status(spoken(Nothing {}))
            .await
            .is_ok(),
    };
    assert!(!answered);
    cluster.propose(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_fills_its_own_queue_alone() {
    // It accepts, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = TransportOptions::default();
    options.packets_max = 10;
    let transport = GrpcTransport::new(options, None).unwrap();
    let node = |id, address: String| NodeInfo {
        id,
        address,
        ..NodeInfo::default()
    };
    let silent = node(2, silent.local_addr().unwrap().to_string());
    let mut ends = (0..100).map(|_| transport.send(&silent, join_packet(vec![1; 16], 1, 1)));
    assert!(ends.any(|end| end == Err(SendError::Full)));
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let first = node(1, cluster.address(1));
    transport
        .send(&first, join_packet(vec![1; 16], 1, 1))
        .unwrap();
    // Nobody listens.
    let nobody = node(3, "127.0.0.1:1".to_owned());
    until("it is seen to be unreachable", || async {
        let sent = transport.send(&nobody, join_packet(vec![1; 16], 1, 1));
        (sent == Err(SendError::Unreachable)).then_some(())
    })
    .await;
}

/// The handshake was waited for for ever, and what was sent meanwhile was taken as sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_accepts_and_shows_no_certificate_is_unreachable() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::new("blue").unwrap();
    let pem = authority.issue(&Party::Node(1)).unwrap();
    let tls = Tls::from_pem(&authority.pem().certificate, &pem.certificate, &pem.key);
    let mut options = TransportOptions::default();
    options.connect_patience = Duration::from_millis(200);
    let transport = GrpcTransport::new(options, Some(tls.unwrap())).unwrap();
    let silent = NodeInfo {
        id: 2,
        address: silent.local_addr().unwrap().to_string(),
        ..NodeInfo::default()
    };
    until("it is seen to be unreachable", || async {
        let sent = transport.send(&silent, join_packet(vec![1; 16], 1, 1));
        (sent == Err(SendError::Unreachable)).then_some(())
    })
    .await;
}

/// A connection without a word kept the server from ending, and its place for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_word_are_closed_and_do_not_keep_a_server_from_ending() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    let connect = || tokio::net::TcpStream::connect(cluster.address(1));
    let (mut silent, mut half) = (connect().await.unwrap(), connect().await.unwrap());
    half.write_all(b"PRI").await.unwrap();
    for stream in [&mut silent, &mut half] {
        let mut settings = Vec::new();
        let closed = stream.read_to_end(&mut settings);
        // With an error or without.
        drop(
            tokio::time::timeout(common::DEADLINE, closed)
                .await
                .unwrap(),
        );
    }
    let _late = connect().await.unwrap();
    let stopped = tokio::time::timeout(common::DEADLINE, cluster.stop(1)).await;
    stopped.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_again() {
    let mut cluster = Cluster::new(false);
    cluster.bootstrap().await;
    cluster.join(2).await;
    cluster.join(3).await;
    cluster.stop(2).await;
    cluster.move_to(2, &common::free_address());
    cluster.reopen(2).await;
    cluster.propose(7).await;
    cluster.agreed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_changes_nothing() {
    let mut blue = Cluster::new(false);
    let mut red = Cluster::new(false);
    blue.bootstrap().await;
    red.bootstrap().await;
    red.join(2).await;
    for command in 0..10 {
        red.propose(command).await;
    }
    // Red's node 2 comes back where blue's node 1 expects nobody, and the other way round: blue's
    // node takes the place that red's node 2 has in its book.
    red.stop(2).await;
    let place = red.address(2);
    blue.stop(1).await;
    blue.move_to(1, &place);
    blue.reopen(1).await;
    let before = blue.nodes[&1].status().await.unwrap();
    for command in 10..20 {
        let _ = tokio::time::timeout(
            Duration::from_millis(20),
            red.nodes[&1].propose(vec![command]),
        )
        .await;
    }
    until("it refuses them", || async {
        let status = blue.nodes[&1].status().await.unwrap();
        (status.packets_refused > before.packets_refused).then_some(())
    })
    .await;
    blue.propose(0).await;
    assert_eq!(blue.agreed(1).await.len(), 1);
}

/// A task of its own accepted connections, and had the listener for a while yet: a node that was
/// started again at once found its port in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_free_when_its_server_has_ended() {
    for with_tls in [false, true] {
        let mut cluster = Cluster::new(with_tls);
        cluster.bootstrap().await;
        for _ in 0..20 {
            cluster.crash(1).await;
            drop(std::net::TcpListener::bind(cluster.address(1)).unwrap());
            cluster.reopen(1).await;
        }
    }
}
