//! The state machine of the simulation: registers, and a hash of everything ever applied, so that
//! what is applied twice, not at all, or in another order shows at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::driver::{Command, Durability, StateMachine, Writes};

/// The column family of a machine that shares the store.
pub(crate) const MACHINE_FAMILY: &str = "sim-machine";
const IMAGE_KEY: &[u8] = b"image";

/// Registers by key, and the hash of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    registers: BTreeMap<u64, u64>,
    pub history: u64,
    pub applied: u64,
}

/// A disk of the machine's own, which it writes when it likes.
pub(crate) type OwnDisk = Arc<Mutex<Image>>;

/// Writes what a machine that shares the store has been restored to.
pub(crate) type WriteShared = Box<dyn Fn(&Writes) -> crate::Result<()> + Send>;

pub(crate) struct Registers {
    image: Image,
    durability: Durability,
    disk: OwnDisk,
    write_shared: WriteShared,
    /// The history after each command since it was last looked at.
    trail: Vec<(u64, u64)>,
}

/// `[key, new value]`, or a command that nothing was to be done with.
pub(crate) fn swap(key: u64, new: u64) -> Vec<u8> {
    [key.to_be_bytes(), new.to_be_bytes()].concat()
}

pub(crate) fn answered(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

impl Registers {
    /// A machine after a start: what it has is what it finds.
    pub(crate) fn open(
        durability: Durability,
        disk: &OwnDisk,
        shared: Option<Vec<u8>>,
        write_shared: WriteShared,
    ) -> Self {
        let image = match durability {
            Durability::Memory => Image::default(),
            Durability::Own => disk.lock().clone(),
            Durability::Shared => shared
                .and_then(|bytes| Image::decode(&bytes).ok())
                .unwrap_or_default(),
        };
        Registers {
            image,
            durability,
            disk: Arc::clone(disk),
            write_shared,
            trail: Vec::new(),
        }
    }

    /// Where the image of a sharing machine is kept.
    pub(crate) fn place() -> (&'static str, &'static [u8]) {
        (MACHINE_FAMILY, IMAGE_KEY)
    }

    pub(crate) fn get(&self, key: u64) -> u64 {
        self.image.registers.get(&key).copied().unwrap_or_default()
    }

    pub(crate) fn take_trail(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.trail)
    }

    /// A machine with a disk of its own writes what it has there.
    pub(crate) fn persist(&self) {
        *self.disk.lock() = self.image.clone();
    }
}

impl Image {
    fn encode(&self) -> Vec<u8> {
        let registers = self
            .registers
            .iter()
            .flat_map(|(key, value)| [*key, *value]);
        let words = [self.history, self.applied].into_iter().chain(registers);
        words.flat_map(u64::to_be_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut words = Vec::new();
        for word in bytes.chunks(8) {
            words.push(answered(word).ok_or(io::ErrorKind::InvalidData)?);
        }
        let (&[history, applied], rest) = words
            .split_first_chunk()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let pairs = rest.chunks_exact(2);
        let registers = pairs.filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
        Ok(Image {
            registers: registers.collect(),
            history,
            applied,
        })
    }
}

/// FNV-1a, which is enough to tell two histories apart.
fn hashed(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
}

impl StateMachine for Registers {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let image = &mut self.image;
        image.applied = index;
        image.history = hashed(image.history, &index.to_be_bytes());
        image.history = hashed(image.history, command);
        self.trail.push((index, image.history));
        let (Some(key), Some(new)) = (
            command.get(..8).and_then(answered),
            command.get(8..).and_then(answered),
        ) else {
            return Vec::new();
        };
        let old = image.registers.insert(key, new).unwrap_or_default();
        old.to_be_bytes().to_vec()
    }

    fn apply_batch(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        let apply = |command: &Command<'_>| self.apply(command.index, command.data);
        let answers = commands.iter().map(apply).collect();
        if self.durability == Durability::Shared {
            writes.put(MACHINE_FAMILY, IMAGE_KEY, self.image.encode());
        }
        Ok(answers)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.image.encode()
    }

    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        self.image = Image::decode(snapshot)?;
        match self.durability {
            Durability::Memory => {}
            Durability::Own => self.persist(),
            Durability::Shared => {
                let mut writes = Writes::default();
                writes.put(MACHINE_FAMILY, IMAGE_KEY, self.image.encode());
                (self.write_shared)(&writes).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn applied_index(&self) -> Option<u64> {
        (self.durability == Durability::Own).then_some(self.image.applied)
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}
