//! Proposals, reads, queries: how they end, and where they may be asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft_rocks::driver::{
    Builder, Consistency, Faults, Forwarding, LocalNetwork, MemoryLog, RequestError, Session,
};

use crate::cluster::{
    Cluster, DEADLINE, address, commands, node_options, retried, status_when, until,
};
use crate::machines::{Journal, PANIC};

#[tokio::test]
async fn a_command_is_applied_everywhere_and_answered_with_its_result() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    for place in 0..20_u64 {
        let proposed = leader.propose(format!("command {place}")).await.unwrap();
        assert_eq!(proposed.answer, Some(place.to_be_bytes().to_vec()));
    }
    assert_eq!(cluster.agreed(20).await.len(), 20);
}

#[tokio::test]
async fn a_follower_hands_a_command_on() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let follower = cluster.follower().await;
    let proposed = retried("a proposal", || follower.propose("handed on")).await;
    assert_eq!(proposed.answer, Some(0_u64.to_be_bytes().to_vec()));
    cluster.agreed(1).await;
}

/// It stopped the node.
#[tokio::test]
async fn a_query_that_panics_ends_with_who_asked() {
    let cluster = Cluster::of(&[1]).await;
    let node = cluster.leader().await;
    let asked = tokio::spawn(async move {
        node.query(Consistency::Stale, |_| panic!("on purpose"))
            .await
    });
    assert!(asked.await.unwrap_err().is_panic());
    cluster.propose("still there").await;
}

/// It was waited for until the request's patience was over: ten seconds, when a leader crashed.
#[tokio::test]
async fn what_was_asked_of_a_node_that_is_gone_is_not_waited_for() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.peer.request_ticks = 100_000);
    let cluster = cluster.start(&[1, 2, 3]).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.network.isolate(&address(leader.id()));
    let asking = follower.clone();
    let asked = tokio::spawn(async move { asking.propose("lost").await });
    status_when(&follower, "it is under way", |status| status.requests > 0).await;
    // As a transport says when a connection breaks.
    follower.inbox().unreachable(leader.id());
    let ended = tokio::time::timeout(DEADLINE, asked).await;
    assert!(ended.unwrap().unwrap().is_err());
    drop(leader);
}

/// A transport that repeats packets made two commands of one.
#[tokio::test]
async fn a_request_that_is_delivered_twice_is_carried_out_once() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let follower = cluster.follower().await;
    cluster.network.set_faults(Faults {
        duplicate: 1000,
        ..Faults::default()
    });
    for command in 0..20 {
        let command = command.to_string();
        retried("a proposal", || follower.propose(command.clone())).await;
    }
    assert_eq!(cluster.agreed(20).await.len(), 20);
}

/// An entry without data was taken for a new leader's, and its proposer got no answer.
#[tokio::test]
async fn a_command_may_be_empty() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let proposed = leader.propose("").await.unwrap();
    assert_eq!(proposed.answer, Some(0_u64.to_be_bytes().to_vec()));
    assert_eq!(cluster.agreed(1).await, [b""]);
}

#[tokio::test]
async fn a_follower_that_does_not_hand_on_says_who_leads() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.forwarding = Forwarding::Redirect);
    let cluster = cluster.start(&[1, 2, 3]).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    // It may not have heard of the leader yet that the others follow.
    let node = until("it says who leads", || async {
        let refused = follower.propose("no").await.unwrap_err();
        assert!(refused.is_retryable());
        match refused {
            RequestError::NotLeader { leader } => leader,
            other => panic!("{other}"),
        }
    });
    let node = node.await;
    assert_eq!((node.id, node.address), (leader.id(), address(leader.id())));
}

#[tokio::test]
async fn a_repeated_command_is_applied_once_and_gets_its_first_answer() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let session = |sequence| Session {
        client: 77,
        sequence,
    };
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let first = leader.propose_in(session(1), "once").await.unwrap();
    leader.propose("between").await.unwrap();
    let again = follower.propose_in(session(1), "once").await.unwrap();
    assert_eq!(first.answer, again.answer);
    leader.propose_in(session(2), "next").await.unwrap();
    let stale = leader.propose_in(session(1), "once").await;
    assert_eq!(stale, Err(RequestError::Stale));
    assert_eq!(cluster.agreed(3).await.len(), 3);
}

#[tokio::test]
async fn a_read_sees_what_was_acknowledged_before_it_on_every_node() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    for round in 1..=20 {
        cluster.propose("more").await;
        for node in cluster.nodes.values() {
            let seen = retried("a read", || {
                node.query(Consistency::Linearizable, |journal| journal.commands.len())
            });
            assert_eq!(seen.await, round);
        }
    }
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    assert!(leader.read(Consistency::Leader).await.is_ok());
    let refused = follower.read(Consistency::Leader).await;
    assert!(matches!(refused, Err(RequestError::NotLeader { .. })));
    assert!(follower.read(Consistency::Stale).await.is_ok());
}

#[tokio::test]
async fn a_read_that_no_quorum_confirms_ends() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.peer.request_ticks = 30);
    let cluster = cluster.start(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    cluster.network.isolate(&address(leader.id()));
    let unserved = leader.read(Consistency::Linearizable).await;
    assert_eq!(unserved, Err(RequestError::Dropped));
}

#[tokio::test]
async fn the_machine_may_change_or_refuse_a_command_on_the_leader() {
    let mut cluster = Cluster::empty();
    cluster.machine.stamp = Some(b'!');
    let cluster = cluster.start(&[1, 2, 3]).await;
    let follower = cluster.follower().await;
    retried("a proposal", || follower.propose("stamped")).await;
    assert_eq!(cluster.agreed(1).await, [b"!stamped"]);
    let refused = cluster.leader().await.propose("").await;
    assert!(
        matches!(refused, Err(RequestError::Rejected(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_command_that_is_too_long_is_refused() {
    let cluster = Cluster::of(&[1]).await;
    let (bytes, max) = ((1 << 20) + 1, 1 << 20);
    let refused = cluster.node(1).propose(vec![0; bytes]).await;
    assert_eq!(refused, Err(RequestError::TooLarge { bytes, max }));
}

#[tokio::test]
async fn what_does_not_fit_is_seen_as_busy_or_waits() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.requests_max = 2);
    let cluster = cluster.start(&[1]).await;
    let node = cluster.node(1);
    cluster.machine.pause.store(100, Ordering::SeqCst);
    let propose = |name: &'static str| {
        let node = node.clone();
        async move { node.propose(name).await }
    };
    let (one, two, busy, waits) = tokio::join!(
        propose("one"),
        propose("two"),
        node.try_propose("busy"),
        propose("waits")
    );
    assert_eq!(busy, Err(RequestError::Busy));
    assert!(one.is_ok() && two.is_ok() && waits.is_ok());
    assert_eq!(commands(&node).await.len(), 3);
}

#[tokio::test]
async fn entries_that_wait_for_a_slow_machine_are_left_in_the_log() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| {
        options.apply_bytes_max = 10 << 10;
        options.peer.committed_bytes_max = 2 << 10;
    });
    let cluster = cluster.start(&[1]).await;
    let node = cluster.node(1);
    cluster.machine.pause.store(5, Ordering::SeqCst);
    let mut proposals = tokio::task::JoinSet::new();
    for number in 0..200_u32 {
        let node = node.clone();
        proposals.spawn(async move {
            let command = [&number.to_be_bytes()[..], &[0; 1000]].concat();
            node.propose(command).await
        });
    }
    let status = status_when(&node, "all are committed", |status| {
        status.raft.commit > 200
    })
    .await;
    assert!(status.raft.applied < status.raft.commit, "{status:?}");
    assert!(status.apply.1 <= 10 << 10, "{:?}", status.apply);
    let answers = proposals.join_all().await;
    let mut places: Vec<_> = answers.into_iter().map(|of| of.unwrap().answer).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 200);
}

#[tokio::test]
async fn a_node_whose_log_fails_is_dead_and_says_why() {
    let network = LocalNetwork::new(0);
    let log = MemoryLog::new([1; 16]);
    let transport = network.endpoint(address(1));
    let builder = Builder::new(log.clone(), Journal::default(), transport, node_options(1));
    let node = builder.unwrap().bootstrap().unwrap();
    status_when(&node, "it leads", |status| status.raft.leader == 1).await;
    node.propose("before").await.unwrap();
    log.fail();
    // The write of a commit may have found out before.
    let lost = node.propose("lost").await.unwrap_err();
    assert!(!lost.is_retryable(), "{lost:?}");
    let mut stopped = node.watch_stopped();
    stopped.wait_for(Option::is_some).await.unwrap();
    let refused = node.propose("after").await.unwrap_err();
    assert!(
        matches!(refused, RequestError::Stopped { .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("a test failed the disk"),
        "{refused}"
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_machine_that_panics_stops_its_node_and_nobody_waits_for_ever() {
    let cluster = Cluster::of(&[1]).await;
    let node = cluster.node(1);
    until("it leads", || async {
        (node.leader().leader == 1).then_some(())
    })
    .await;
    let lost = node.propose(PANIC).await;
    assert_eq!(lost, Err(RequestError::OutcomeUnknown));
    let cause: Option<Arc<str>> = until("it has stopped", || async {
        let stopped = node.watch_stopped();
        let cause = stopped.borrow().clone();
        cause.map(Some)
    })
    .await;
    assert!(cause.unwrap().contains("panicked"));
}
