//! Backups of a node that is in use.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use raft_rocks::driver::store_options;
use raft_rocks::{Options, RaftMachineStorage, tools};
use raft_rocks_server::instance::Backend;
use raft_rocks_server::kv::{FAMILY, Machine, RocksRows};
use reqwest::StatusCode;
use tokio_stream::StreamExt;

use crate::common::{Cluster, until};
use crate::refused;

/// The store that was backed up, opened as a restored one.
fn restored(archive: &[u8], scratch: &Path) -> RaftMachineStorage {
    let unpacked = scratch.join("unpacked");
    tar::Archive::new(archive).unpack(&unpacked).unwrap();
    let store = scratch.join("store");
    tools::restore(&unpacked.join("raft-rocks-backup"), &store).unwrap();
    let mut options = Options::default();
    options.column_families = vec![FAMILY.to_owned()];
    RaftMachineStorage::open(&store, store_options(options)).unwrap()
}

/// Every write that was acknowledged before it was asked for is in it, and of those under way
/// the first ones without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_one_moment() {
    let cluster = Cluster::of(1).await;
    let mut client = cluster.client(1).await;
    client.run::<()>("SET first 1").await;
    let (acknowledged, is_enough) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (count, enough) = (Arc::clone(&acknowledged), Arc::clone(&is_enough));
    let writer = tokio::spawn(async move {
        for n in 1.. {
            client.run::<()>(&format!("SET n {n}")).await;
            client.run::<()>(&format!("SET key{n} {n}")).await;
            count.store(n, Ordering::SeqCst);
            if enough.load(Ordering::SeqCst) {
                return;
            }
        }
    });
    until("writes are under way", || async {
        (acknowledged.load(Ordering::SeqCst) >= 20).then_some(())
    })
    .await;
    let before = acknowledged.load(Ordering::SeqCst);
    let answer = reqwest::get(cluster.url(1, "/backup")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/x-tar");
    let archive = answer.bytes().await.unwrap();
    until("more is written", || async {
        (acknowledged.load(Ordering::SeqCst) > before + 20).then_some(())
    })
    .await;
    is_enough.store(true, Ordering::SeqCst);
    writer.await.unwrap();

    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let storage = restored(&archive, scratch.path());
    let machine = Machine::open(RocksRows::new(storage.clone()).unwrap()).unwrap();
    let get = |key: &str| machine.get(key.as_bytes()).unwrap().map(|entry| entry.data);
    assert_eq!(get("first").as_deref(), Some(&b"1"[..]));
    let last = String::from_utf8(get("n").unwrap().to_vec()).unwrap();
    let last: u64 = last.parse().unwrap();
    assert!(last >= before, "{last} of {before}");
    for n in 1..last {
        let value = get(&format!("key{n}"));
        assert_eq!(value.as_deref(), Some(n.to_string().as_bytes()), "{n}");
    }
    let has_last = u64::from(get(&format!("key{last}")).is_some());
    assert_eq!(machine.len(), 2 + last - 1 + has_last);
    assert!(storage.applied_index() <= storage.last_index());
    // Nothing of it is left.
    let scratch = cluster.settings(1).dir.join("backup");
    until("the copy is removed", || async {
        (!scratch.exists()).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_backup_at_a_time_and_one_that_nobody_takes_ends() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.backend = Backend::Memory);
    cluster.start(1).await;
    let mut client = cluster.client(1).await;
    // More than what connections hold.
    let value = "x".repeat(1_000_000);
    for n in 0..30 {
        client.run::<()>(&format!("SET k{n} {value}")).await;
    }
    let url = cluster.url(1, "/backup");
    let first = reqwest::get(&url).await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let mut first = Box::pin(first.bytes_stream());
    assert!(first.next().await.unwrap().is_ok());
    let second = reqwest::get(&url).await.unwrap();
    refused(second, StatusCode::CONFLICT, "under way").await;
    drop(first);
    let third = until("there is another turn", || async {
        let third = reqwest::get(&url).await.unwrap();
        (third.status() == StatusCode::OK).then_some(third)
    })
    .await;
    assert!(third.bytes().await.unwrap().len() > 30_000_000);
    drop(client);
    cluster.shutdown().await;
}
