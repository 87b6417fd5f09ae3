//! A state much larger than what may be in memory: made, streamed, installed.

use std::io::{self, Read, Write};

use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{
    Builder, Consistency, JoinOptions, LocalNetwork, NodeOptions, SnapshotSource, StateMachine,
    store_options,
};

use crate::cluster::{status_when, unsynced};

const STATE_BYTES: u64 = 1 << 30;
const MEMORY_MAX: u64 = 64 << 20;
const BLOCK: usize = 64 << 10;

/// A state that is a function of a number: it is written and compared piece by piece.
#[derive(Default)]
struct Generated {
    seed: u64,
}

fn block(seed: u64, at: u64, out: &mut [u8]) {
    let mut state = seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in out.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_be_bytes());
    }
}

impl StateMachine for Generated {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        self.seed = u64::from_be_bytes(command.try_into().unwrap());
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        unreachable!("it is too large")
    }

    fn restore(&mut self, _snapshot: &[u8]) -> io::Result<()> {
        unreachable!("it is too large")
    }

    fn snapshot_source(&self) -> io::Result<SnapshotSource> {
        let seed = self.seed;
        Ok(Box::new(move |out: &mut dyn Write| {
            out.write_all(&seed.to_be_bytes())?;
            let mut data = vec![0; BLOCK];
            let blocks = if seed == 0 {
                0
            } else {
                STATE_BYTES / BLOCK as u64
            };
            for at in 0..blocks {
                block(seed, at, &mut data);
                out.write_all(&data)?;
            }
            Ok(())
        }))
    }

    fn restore_from(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut seed = [0; 8];
        source.read_exact(&mut seed)?;
        self.seed = u64::from_be_bytes(seed);
        let (mut data, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
        let blocks = if self.seed == 0 {
            0
        } else {
            STATE_BYTES / BLOCK as u64
        };
        for at in 0..blocks {
            source.read_exact(&mut data)?;
            block(self.seed, at, &mut expected);
            if data != expected {
                return Err(io::Error::other("another state"));
            }
        }
        Ok(())
    }
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Both nodes are in this process: what both take together is bounded by what one may.
#[tokio::test]
#[ignore = "writes 2 GiB and reads them several times; `make large` runs it"]
async fn a_state_of_1_gib_is_streamed_with_less_than_64_mib_of_memory() {
    let dirs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let network = LocalNetwork::new(0);
    let builder = |name: &str| {
        let store = RaftMachineStorage::open(dirs.path().join(name), store_options(unsynced()));
        let options = NodeOptions::new(name);
        let transport = network.endpoint(name);
        let builder = Builder::new(store.unwrap(), Generated::default(), transport, options);
        let builder = builder.unwrap();
        network.listen(name, builder.inbox());
        builder
    };
    let leader = builder("a").bootstrap().unwrap();
    status_when(&leader, "it leads", |status| status.raft.leader == 1).await;
    leader.propose(77_u64.to_be_bytes()).await.unwrap();
    let newcomer = builder("b");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let newcomer = newcomer
        .join(vec!["a".to_owned()], JoinOptions::default())
        .await
        .unwrap();
    loop {
        // It takes as long as it takes, and moves or fails.
        let seed = newcomer
            .query(Consistency::Stale, |machine| machine.seed)
            .await
            .unwrap();
        if seed == 77 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let taken = memory("VmHWM:").saturating_sub(before);
    eprintln!(
        "{} MiB more resident memory at the most, of both nodes",
        taken >> 20
    );
    assert!(taken < MEMORY_MAX, "{taken} bytes");
    leader.shutdown().await;
    newcomer.shutdown().await;
}
