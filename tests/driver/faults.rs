//! Random faults of the network, crashes, and clients that repeat what they do not know the end
//! of.

use std::time::Duration;

use raft_rocks::driver::{Faults, Session};

use crate::cluster::{Cluster, address, seed, until};

#[tokio::test]
async fn every_command_is_applied_once_through_faults_of_the_network_and_crashes() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| {
        options.compaction.every_entries = 40;
        options.compaction.keep_entries = 10;
        options.snapshot_patience = Duration::from_secs(2);
        options.peer.request_ticks = 25;
    });
    let mut cluster = cluster.start(&[1, 2, 3]).await;
    let mut rng = fastrand::Rng::with_seed(seed());
    cluster.network.set_faults(Faults {
        drop: 20,
        duplicate: 50,
        reorder: 50,
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(4),
    });
    let mut cut = None;
    for round in 0..300_u64 {
        if rng.u8(..) < 8 {
            let id = rng.u64(1..=3);
            cluster.halt(id).await;
            cluster.reopen(id);
        }
        if rng.u8(..) < 8 && cut.is_none() {
            cut = Some(round + 20);
            cluster
                .network
                .cut(&address(rng.u64(1..=3)), &address(rng.u64(1..=3)));
        }
        if cut.is_some_and(|until| until == round) {
            cut = None;
            cluster.network.heal();
        }
        let session = Session {
            client: 5,
            sequence: round,
        };
        let via = cluster.node(rng.u64(1..=3));
        until("a proposal is acknowledged", || async {
            // Whatever became of it: a repetition is applied once.
            let asked = via.propose_in(session, format!("command {round}"));
            if asked.await.is_ok() {
                return Some(());
            }
            let other = cluster.leader().await;
            other
                .propose_in(session, format!("command {round}"))
                .await
                .ok()?;
            Some(())
        })
        .await;
    }
    cluster.heal();
    let expected: Vec<_> = (0..300)
        .map(|round| format!("command {round}").into_bytes())
        .collect();
    assert_eq!(cluster.agreed(300).await, expected);
    let traffic = cluster.network.traffic();
    assert!(
        traffic.dropped > 0 && traffic.duplicated > 0 && traffic.reordered > 0,
        "{traffic:?}"
    );
}
