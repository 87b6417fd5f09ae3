//! What a replicated state machine provides.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::log_store::Writes;

/// Where a machine's state survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nowhere but in snapshots: after a restart the machine is restored from the stored one,
    /// and the log behind it is applied again.
    Memory,
    /// In a place of the machine's own; [`StateMachine::applied_index`] says how far.
    Own,
    /// In column families of the store that holds the log, written through the [`Writes`] of
    /// [`StateMachine::apply_batch`], in one batch with the applied index. Restoring writes
    /// through a handle of the machine's own, in as many batches as it likes.
    Shared,
}

/// One command to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its place in the log.
    pub index: u64,
    /// What was proposed.
    pub data: &'a [u8],
}

/// Writes the data of a snapshot, elsewhere, while the machine goes on.
pub type SnapshotSource = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Called on the leader before a command is proposed; it may change or refuse it: to stamp a
/// time, for instance, that all nodes then agree on. An error is answered to who proposed it.
pub type Preprocessor = Arc<dyn Fn(Vec<u8>) -> Result<Vec<u8>, String> + Send + Sync>;

/// A deterministic state machine: what it becomes depends on the commands alone, and on their
/// order. Three methods suffice; the others have defaults.
///
/// ```
/// use raft_rocks::driver::StateMachine;
///
/// #[derive(Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
///         self.0 += command.len() as u64;
///         self.0.to_be_bytes().to_vec()
///     }
///
///     fn snapshot(&self) -> Vec<u8> {
///         self.0.to_be_bytes().to_vec()
///     }
///
///     fn restore(&mut self, snapshot: &[u8]) -> std::io::Result<()> {
///         let bytes = snapshot.try_into().map_err(std::io::Error::other)?;
///         self.0 = u64::from_be_bytes(bytes);
///         Ok(())
///     }
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// Applies one command; the answer goes to who proposed it. It cannot fail: what is wrong
    /// with a command is an answer, the same on every node.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// These bytes are no state; the node stops.
    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()>;

    /// Applies several commands, one answer each, in order. A machine of
    /// [`Durability::Shared`] puts what changes into `writes`.
    ///
    /// # Errors
    /// The machine's storage failed; nothing is answered, and the node stops.
    fn apply_batch(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        let _ = writes;
        let apply = |command: &Command<'_>| self.apply(command.index, command.data);
        Ok(commands.iter().map(apply).collect())
    }

    /// Freezes the state as it is, and returns who writes it, on another thread: for states
    /// larger than memory, or slow to write.
    ///
    /// # Errors
    /// None can be made now; it is tried again later.
    fn snapshot_source(&self) -> io::Result<SnapshotSource> {
        let data = self.snapshot();
        Ok(Box::new(move |out| out.write_all(&data)))
    }

    /// Replaces the whole state by what is read. A machine whose state is durable must leave
    /// something that it can restore again when it is interrupted: it is called again then.
    ///
    /// # Errors
    /// As [`restore`](StateMachine::restore).
    fn restore_from(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut data = Vec::new();
        source.read_to_end(&mut data)?;
        self.restore(&data)
    }

    /// How far the state that survives a restart has come, of a machine that keeps it in a
    /// place of its own: what was applied up to here is not applied again.
    fn applied_index(&self) -> Option<u64> {
        None
    }

    /// Where the state survives a restart.
    fn durability(&self) -> Durability {
        match self.applied_index() {
            Some(_) => Durability::Own,
            None => Durability::Memory,
        }
    }

    /// Who changes commands before they are proposed; taken once, when the node starts.
    fn preprocessor(&self) -> Option<Preprocessor> {
        None
    }
}
