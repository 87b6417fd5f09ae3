//! Starts nodes, stops them abruptly, and notices when one ends by itself.
//!
//! What a stop stands for: the node's thread leaves its loop in the middle of its work and drops
//! everything it holds in memory: raft's state, entries not yet written or applied, messages and
//! answers not yet sent, the inbox. Only its directory remains, and the next start reads nothing
//! else. It is less than a killed process or a power cut: the store is closed, which syncs it,
//! so that nothing which was written can go missing. This shows that the parts work together
//! across restarts; that what was acknowledged survives a kill, and was synced at all, is shown
//! by the tests of the store itself (`tests/crash.rs`, `tests/fsync.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Failure;
use crate::network::{Network, node_ids};
use crate::node::{Compaction, Halt, Place, Setup, StopSignal};

/// A thread that has not ended by then hangs.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// The node that makes the group.
pub const FIRST_NODE: u64 = 1;

pub fn node_dir(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("node-{id}"))
}

struct Running {
    stop: Arc<StopSignal>,
    /// Closed when the thread has ended, however it did.
    ended: Receiver<()>,
    thread: JoinHandle<Halt>,
}

pub struct Cluster {
    dir: PathBuf,
    compaction: Compaction,
    network: Arc<Network>,
    running: BTreeMap<u64, Running>,
}

impl Cluster {
    pub fn new(dir: &Path, compaction: Compaction) -> Self {
        Cluster {
            dir: dir.to_path_buf(),
            compaction,
            network: Arc::default(),
            running: BTreeMap::new(),
        }
    }

    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    pub fn start(&mut self, id: u64) -> Result<(), Failure> {
        let stop = Arc::new(StopSignal::default());
        let setup = Setup {
            id,
            dir: node_dir(&self.dir, id),
            bootstraps: id == FIRST_NODE,
            compaction: self.compaction,
            network: Arc::clone(&self.network),
            stop: Arc::clone(&stop),
        };
        let inbox = self.network.connect(id);
        let (alive, ended): (SyncSender<()>, _) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("node-{id}"))
            .spawn(move || {
                let _alive = alive;
                setup.run(&inbox)
            })?;
        self.running.insert(
            id,
            Running {
                stop,
                ended,
                thread,
            },
        );
        Ok(())
    }

    /// Stops nodes, all of them before waiting for any, each at the place it comes to. Returns
    /// where they stopped.
    pub fn stop(&mut self, ids: &[u64], place: Place) -> Result<Vec<(u64, Place)>, Failure> {
        for id in ids {
            if let Some(node) = self.running.get(id) {
                node.stop.stop_at(place);
            }
        }
        let mut stopped = Vec::new();
        for id in ids {
            let Some(node) = self.running.remove(id) else {
                continue;
            };
            if node.ended.recv_timeout(STOP_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                return Err(format!("node {id} does not stop").into());
            }
            self.network.disconnect(*id);
            stopped.push((*id, join(*id, node.thread)?));
        }
        Ok(stopped)
    }

    pub fn stop_all(&mut self) -> Result<(), Failure> {
        let ids: Vec<u64> = node_ids().collect();
        self.stop(&ids, Place::Idle).map(drop)
    }

    /// An error if a node has ended that nobody has stopped.
    pub fn check(&mut self) -> Result<(), Failure> {
        let ended = self
            .running
            .iter()
            .find(|(_, node)| node.thread.is_finished());
        let Some(id) = ended.map(|(id, _)| *id) else {
            return Ok(());
        };
        let Some(node) = self.running.remove(&id) else {
            return Ok(());
        };
        let place = join(id, node.thread)?;
        Err(format!("node {id} stopped by itself {}", place.describe()).into())
    }
}

fn join(id: u64, thread: JoinHandle<Halt>) -> Result<Place, Failure> {
    match thread.join() {
        Ok(Halt::Stopped(place)) => Ok(place),
        Ok(Halt::Failed(failure)) => Err(format!("node {id} failed: {failure}").into()),
        Err(_) => Err(format!("node {id} panicked (see above)").into()),
    }
}
