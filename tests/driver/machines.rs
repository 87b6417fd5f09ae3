//! State machines.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{Command, Durability, Preprocessor, SnapshotSource, StateMachine, Writes};

/// Keeps every command, in order. The answer is the command's place.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub commands: Vec<Vec<u8>>,
    /// How long a command takes.
    pub pause: Arc<AtomicU64>,
    /// What the leader puts before each command.
    pub stamp: Option<u8>,
    /// No snapshot can be made.
    pub jammed: Arc<AtomicBool>,
}

/// The command at which the machine panics.
pub const PANIC: &str = "panic";

impl StateMachine for Journal {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        assert_ne!(command, PANIC.as_bytes(), "on purpose");
        pause(Duration::from_millis(self.pause.load(Ordering::SeqCst)));
        self.commands.push(command.to_vec());
        (self.commands.len() as u64 - 1).to_be_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        let part = |command: &Vec<u8>| {
            let len = u32::try_from(command.len()).unwrap().to_be_bytes();
            [&len[..], command].concat()
        };
        self.commands.iter().flat_map(part).collect()
    }

    fn snapshot_source(&self) -> io::Result<SnapshotSource> {
        if self.jammed.load(Ordering::SeqCst) {
            return Err(io::Error::other("jammed"));
        }
        let data = self.snapshot();
        Ok(Box::new(move |out| out.write_all(&data)))
    }

    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        self.commands.clear();
        let mut rest = snapshot;
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let (command, behind) = behind.split_at(u32::from_be_bytes(*len) as usize);
            self.commands.push(command.to_vec());
            rest = behind;
        }
        Ok(())
    }

    fn preprocessor(&self) -> Option<Preprocessor> {
        let stamp = self.stamp?;
        Some(Arc::new(move |command| match command.is_empty() {
            true => Err("an empty command".to_owned()),
            false => Ok([&[stamp][..], &command].concat()),
        }))
    }
}

/// Lets time pass as a slow disk or a slow machine would.
pub fn pause(how_long: Duration) {
    if !how_long.is_zero() {
        let (_never, waits) = std::sync::mpsc::channel::<()>();
        let _ = waits.recv_timeout(how_long);
    }
}

/// Where the durable machine keeps its count.
pub const FAMILY: &str = "application";

/// Counts commands in the store that holds the log, in one batch with the applied index.
pub struct Durable {
    pub count: u64,
}

impl Durable {
    pub fn load(store: &RaftMachineStorage) -> Self {
        let database = store.store().database();
        let family = database.cf_handle(FAMILY).unwrap();
        let count = database.get_cf(&family, b"count").unwrap();
        let count = count.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        Durable { count }
    }
}

impl StateMachine for Durable {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
        unreachable!("commands come in batches")
    }

    fn apply_batch(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        self.count += commands.len() as u64;
        writes.put(FAMILY, *b"count", self.count.to_be_bytes());
        Ok(vec![Vec::new(); commands.len()])
    }

    fn snapshot(&self) -> Vec<u8> {
        self.count.to_be_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        self.count = u64::from_be_bytes(snapshot.try_into().unwrap());
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Shared
    }
}
