//! Snapshot data: staged in a file, read back verified, referred to by raft.
//!
//! ```text
//! header      "RRSNAP" 0x00 0x01 | group: 8 | index: 8 | term: 8 | CRC-32C of these 32: 4
//! chunk       length: 4 (1 to 1 MiB) | CRC-32C: 4 | data
//! ...
//! end         length: 4 (0)          | CRC-32C: 4 | data bytes: 8 | CRC-32C of the data: 4
//! ```
//!
//! Invariants:
//! 1. A file has its final name only when every byte of it has been synced; until then it
//!    ends in `.tmp`. The directory is synced after the rename, before any record names it.
//! 2. A chunk's checksum covers the header's checksum and the chunk's number, so that a chunk
//!    of another file or in another place is refused.
//! 3. A final name is never used twice while a record may name it.
//! 4. A staged file that is not installed is removed when it is dropped, or, after a crash,
//!    when its group is opened: no record names it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prost::Message;
use raft::eraftpb;

use crate::error::{Error, Result};
use crate::record;

const MAGIC: [u8; 8] = *b"RRSNAP\0\x01";
const HEADER_LEN: usize = 36;
const CHUNK_HEADER_LEN: usize = 8;
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const LOCK_FILE: &str = "lock";
pub(crate) const FINAL_SUFFIX: &str = ".snap";
const TMP_SUFFIX: &str = ".snap.tmp";

/// The place and the term a snapshot was taken at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotId {
    pub group: u64,
    pub index: u64,
    pub term: u64,
}

/// What raft carries instead of the data under
/// [`SnapshotPayload::Reference`](crate::SnapshotPayload::Reference): enough to fetch the data
/// from the sender and to know that it is the right one.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SnapshotReference {
    /// The index the data was taken at.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// The term at that index.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// The bytes of data.
    #[prost(uint64, tag = "3")]
    pub data_bytes: u64,
    /// The CRC-32C of the data.
    #[prost(uint32, tag = "4")]
    pub data_crc: u32,
}

const REFERENCE_MAGIC: &[u8] = b"RRSREF\0\x01";

impl SnapshotReference {
    /// The bytes that stand in `Snapshot.data`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = REFERENCE_MAGIC.to_vec();
        out.extend_from_slice(&self.encode_to_vec());
        out
    }

    /// Reads the data of a received snapshot.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`] when it is not a reference: the sender hands out the data
    /// itself.
    pub fn from_bytes(data: &[u8]) -> Result<Self> {
        data.strip_prefix(REFERENCE_MAGIC)
            .and_then(|rest| SnapshotReference::decode(rest).ok())
            .ok_or_else(|| {
                Error::invalid_batch(
                    "the snapshot's data is not a reference; set snapshot_payload to Reference \
                     on every node of the group, or on none",
                )
            })
    }
}

/// The directory of a store's snapshot files. Locked while anything refers to it, because
/// files that the store does not know are removed: two stores must not share one, and a file
/// that is being staged must not outlive its store.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    held: Arc<Mutex<Held>>,
    /// `None` where no store is open on it.
    _lock: Option<Arc<File>>,
}

/// Who keeps files from being removed, and what waits for that.
#[derive(Debug, Default)]
struct Held {
    holders: usize,
    waiting: Vec<PathBuf>,
}

/// While it lives, no file is removed: a copy of the records still finds all that they name.
pub(crate) struct Hold {
    held: Arc<Mutex<Held>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.holders -= 1;
        if held.holders == 0 {
            held.waiting
                .drain(..)
                .for_each(|path| remove_or_warn(&path));
        }
    }
}

impl SnapshotDir {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        make_dir(&path)?;
        let lock = lock(&path.join(LOCK_FILE))?;
        Ok(SnapshotDir {
            path,
            held: Arc::default(),
            _lock: Some(Arc::new(lock)),
        })
    }

    /// Of a store that nobody opens, or that is only read: nothing is created, nothing locked.
    pub(crate) fn unlocked(path: PathBuf) -> Self {
        SnapshotDir {
            path,
            held: Arc::default(),
            _lock: None,
        }
    }

    /// Keeps all files that are there.
    pub(crate) fn hold(&self) -> Hold {
        self.held.lock().holders += 1;
        Hold {
            held: Arc::clone(&self.held),
        }
    }

    /// Removes a file, or leaves that to whoever holds it. A failure leaves an orphan for the next
    /// open, and is logged.
    fn remove(&self, path: PathBuf) {
        let mut held = self.held.lock();
        if held.holders == 0 {
            remove_or_warn(&path);
        } else {
            held.waiting.push(path);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file_path(&self, file: &record::SnapshotFile) -> PathBuf {
        self.path.join(&file.name)
    }

    /// Starts a file under a name that neither exists nor has existed since the store was
    /// opened.
    fn create(&self, id: SnapshotId) -> Result<(BufWriter<File>, String)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let SnapshotId { group, index, term } = id;
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{group:016x}-{index:016x}-{term:016x}-{number:x}");
            if self.path.join(format!("{name}{FINAL_SUFFIX}")).exists() {
                continue;
            }
            let path = self.path.join(format!("{name}{TMP_SUFFIX}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((BufWriter::with_capacity(CHUNK_BYTES, file), name)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", &path, e)),
            }
        }
    }

    /// Removes the files that `orphan` says so of, by group and name, as far as they can be: one
    /// that stays is found again at the next open. Files that are not ours are left alone.
    pub(crate) fn remove_orphans(&self, orphan: impl Fn(u64, &str) -> bool) -> Result<()> {
        let listing = fs::read_dir(&self.path).map_err(|e| Error::io("list", &self.path, e))?;
        for file in listing {
            let file = file.map_err(|e| Error::io("list", &self.path, e))?;
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some(group) = group_of_file(name) else {
                continue;
            };
            if orphan(group, name) {
                log::info!("removing {}: no record names it", file.path().display());
                self.remove(file.path());
            }
        }
        Ok(())
    }

    /// Removes a file that the durable record no longer names. A failure only leaves an
    /// orphan for the next open, so it is logged and not returned.
    pub(crate) fn discard(&self, file: &record::SnapshotFile) {
        self.remove(self.file_path(file));
    }
}

/// The group whose snapshot file has this name; `None` for names that are not ours.
pub(crate) fn group_of_file(name: &str) -> Option<u64> {
    let stem = name
        .strip_suffix(FINAL_SUFFIX)
        .or_else(|| name.strip_suffix(TMP_SUFFIX))?;
    let mut parts = stem.split('-');
    let group = parts.next().filter(|hex| hex.len() == 16)?;
    let group = u64::from_str_radix(group, 16).ok()?;
    (parts.count() == 3).then_some(group)
}

fn remove_or_warn(path: &Path) {
    if let Err(e) = remove_file(path) {
        log::warn!("{e}");
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Creates a directory, with its parents, so that it survives a power cut.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", path, e));
        }
        _ => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Takes a lock that is held as long as the file is open, in this process or another.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = file.map_err(|e| Error::io("open", path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}

/// Makes what was created, renamed or removed in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("sync", path, e))
}

/// Writes a snapshot's data to a file beside the database: [`io::Write`], then
/// [`finish`](SnapshotWriter::finish). Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    dir: SnapshotDir,
    id: SnapshotId,
    conf_state: record::ConfState,
    out: BufWriter<File>,
    name: String,
    chunk: Vec<u8>,
    chunks: u64,
    header_crc: u32,
    data_bytes: u64,
    data_crc: u32,
    finished: bool,
    /// A write failed: how much of it is in the file is unknown.
    failed: bool,
}

impl SnapshotWriter {
    pub(crate) fn create(
        dir: &SnapshotDir,
        id: SnapshotId,
        conf_state: record::ConfState,
    ) -> Result<Self> {
        let (out, name) = dir.create(id)?;
        let header = encode_header(id);
        let mut writer = SnapshotWriter {
            dir: dir.clone(),
            id,
            conf_state,
            out,
            name,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            chunks: 0,
            header_crc: crc32c::crc32c(&header),
            data_bytes: 0,
            data_crc: 0,
            finished: false,
            failed: false,
        };
        let written = writer.out.write_all(&header);
        written.map_err(|e| Error::io("write", &writer.tmp_path(), e))?;
        Ok(writer)
    }

    fn tmp_path(&self) -> PathBuf {
        self.dir.path.join(format!("{}{TMP_SUFFIX}", self.name))
    }

    fn put_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let crc = chunk_crc(self.header_crc, self.chunks, &self.chunk);
        self.put_chunk_header(self.chunk.len(), crc)?;
        self.out.write_all(&self.chunk)?;
        self.data_bytes += self.chunk.len() as u64;
        self.data_crc = crc32c::crc32c_append(self.data_crc, &self.chunk);
        self.chunks += 1;
        self.chunk.clear();
        Ok(())
    }

    fn put_chunk_header(&mut self, len: usize, crc: u32) -> io::Result<()> {
        let len = u32::try_from(len).map_err(io::Error::other)?;
        self.out.write_all(&len.to_be_bytes())?;
        self.out.write_all(&crc.to_be_bytes())
    }

    /// Runs a write, unless an earlier one has failed.
    fn unless_failed(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(
                "an earlier write failed; start the file anew",
            ));
        }
        let written = write(self);
        self.failed = written.is_err();
        written
    }

    fn put_end(&mut self) -> io::Result<()> {
        self.put_chunk()?;
        let mut end = self.data_bytes.to_be_bytes().to_vec();
        end.extend_from_slice(&self.data_crc.to_be_bytes());
        self.put_chunk_header(0, chunk_crc(self.header_crc, self.chunks, &end))?;
        self.out.write_all(&end)?;
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }

    /// Syncs the file and gives it its name. It can then be installed, once.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing is left of the file.
    pub fn finish(mut self) -> Result<StagedSnapshot> {
        let tmp = self.tmp_path();
        self.unless_failed(Self::put_end)
            .map_err(|e| Error::io("write", &tmp, e))?;
        let name = format!("{}{FINAL_SUFFIX}", self.name);
        let path = self.dir.path.join(&name);
        fs::rename(&tmp, &path).map_err(|e| Error::io("rename", &tmp, e))?;
        self.finished = true;
        let file = record::SnapshotFile {
            name,
            data_bytes: self.data_bytes,
            data_crc: self.data_crc,
        };
        let staged = StagedSnapshot {
            dir: self.dir.clone(),
            id: self.id,
            conf_state: std::mem::take(&mut self.conf_state),
            file,
            keep: false,
        };
        sync_dir(&self.dir.path)?;
        Ok(staged)
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let taken = data.len().min(room);
        self.chunk.extend(data.iter().take(taken));
        if self.chunk.len() == CHUNK_BYTES {
            self.unless_failed(Self::put_chunk)?;
        }
        Ok(taken)
    }

    /// Hands whole chunks to the system. Durability comes with
    /// [`finish`](SnapshotWriter::finish) alone.
    fn flush(&mut self) -> io::Result<()> {
        self.unless_failed(|writer| writer.out.flush())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            remove_or_warn(&self.tmp_path());
        }
    }
}

/// A snapshot file that is whole and durable, and that no record names yet. Dropped without
/// being installed, it is removed.
#[derive(Debug)]
pub struct StagedSnapshot {
    dir: SnapshotDir,
    id: SnapshotId,
    conf_state: record::ConfState,
    file: record::SnapshotFile,
    keep: bool,
}

impl StagedSnapshot {
    /// The index the data was taken at.
    pub fn index(&self) -> u64 {
        self.id.index
    }

    /// The term at that index.
    pub fn term(&self) -> u64 {
        self.id.term
    }

    /// The configuration at that index.
    pub fn conf_state(&self) -> eraftpb::ConfState {
        (&self.conf_state).into()
    }

    /// What the other nodes are told of it.
    pub fn reference(&self) -> SnapshotReference {
        SnapshotReference {
            index: self.id.index,
            term: self.id.term,
            data_bytes: self.file.data_bytes,
            data_crc: self.file.data_crc,
        }
    }

    /// Refuses when the file is gone.
    pub(crate) fn check_present(&self) -> Result<()> {
        let path = self.dir.file_path(&self.file);
        match fs::metadata(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::invalid_batch(format!(
                "the staged file {} is gone, because its group was destroyed; stage it anew",
                path.display()
            ))),
            Err(e) => Err(Error::io("find", &path, e)),
        }
    }

    pub(crate) fn group(&self) -> u64 {
        self.id.group
    }

    pub(crate) fn record(&self) -> record::SnapshotRecord {
        record::SnapshotRecord {
            index: self.id.index,
            term: self.id.term,
            conf_state: self.conf_state.clone(),
            data: Vec::new(),
            file: Some(self.file.clone()),
        }
    }

    /// From here on a record may name the file, even if the write that says so is reported
    /// as failed: only an open can tell.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for StagedSnapshot {
    fn drop(&mut self) {
        if !self.keep {
            self.dir.discard(&self.file);
        }
    }
}

/// Reads a stored snapshot's data, verifying each chunk before handing out its bytes.
/// Damage is an [`io::Error`] of kind `InvalidData`.
#[derive(Debug)]
pub struct SnapshotReader {
    source: Source,
    reference: SnapshotReference,
}

#[derive(Debug)]
enum Source {
    Record(Cursor<Vec<u8>>),
    File(ChunkReader),
}

impl SnapshotReader {
    /// Opens the data of a record.
    pub(crate) fn open(
        dir: &SnapshotDir,
        group: u64,
        record: &record::SnapshotRecord,
    ) -> Result<Self> {
        let reference = reference_of(record);
        let Some(file) = &record.file else {
            let source = Source::Record(Cursor::new(record.data.clone()));
            return Ok(SnapshotReader { source, reference });
        };
        let path = dir.file_path(file);
        let id = SnapshotId {
            group,
            index: record.index,
            term: record.term,
        };
        let opened = match File::open(&path) {
            Ok(opened) => opened,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let expected = "the file that the snapshot record names";
                return Err(corrupt(&path, expected, "no such file"));
            }
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let source = ChunkReader::new(io::BufReader::new(opened), id, file.clone())
            .map_err(|e| reading(&path, e))?;
        Ok(SnapshotReader {
            source: Source::File(source),
            reference,
        })
    }

    /// What the data must be.
    pub fn reference(&self) -> &SnapshotReference {
        &self.reference
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Record(data) => data.read(out),
            Source::File(chunks) => chunks.read(out),
        }
    }
}

/// What a record's data is, for [`SnapshotReference`] and the checks at open.
pub(crate) fn reference_of(record: &record::SnapshotRecord) -> SnapshotReference {
    let (data_bytes, data_crc) = match &record.file {
        Some(file) => (file.data_bytes, file.data_crc),
        None => (record.data.len() as u64, crc32c::crc32c(&record.data)),
    };
    SnapshotReference {
        index: record.index,
        term: record.term,
        data_bytes,
        data_crc,
    }
}

/// Reads all the data of a record into memory.
pub(crate) fn read_all(
    dir: &SnapshotDir,
    group: u64,
    record: &record::SnapshotRecord,
) -> Result<Vec<u8>> {
    let Some(file) = &record.file else {
        return Ok(record.data.clone());
    };
    let mut data = Vec::new();
    let mut reader = SnapshotReader::open(dir, group, record)?;
    reader
        .read_to_end(&mut data)
        .map_err(|e| reading(&dir.file_path(file), e))?;
    Ok(data)
}

/// Checks a record's file: that it is there and is the one that was written; with `whole`
/// every chunk of it.
pub(crate) fn verify(
    dir: &SnapshotDir,
    group: u64,
    record: &record::SnapshotRecord,
    whole: bool,
) -> Result<()> {
    let Some(file) = &record.file else {
        return Ok(());
    };
    let mut reader = SnapshotReader::open(dir, group, record)?;
    if whole {
        let copied = io::copy(&mut reader, &mut io::sink());
        copied.map_err(|e| reading(&dir.file_path(file), e))?;
    }
    Ok(())
}

fn reading(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            corrupt(path, "the data that was written", &e.to_string())
        }
        _ => Error::io("read", path, e),
    }
}

fn corrupt(path: &Path, expected: &str, found: &str) -> Error {
    Error::corruption("snapshot file", path.display().to_string(), expected, found)
}

fn encode_header(id: SnapshotId) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (body, crc) = header.split_at_mut(HEADER_LEN - 4);
    let fields = [
        MAGIC,
        id.group.to_be_bytes(),
        id.index.to_be_bytes(),
        id.term.to_be_bytes(),
    ];
    body.copy_from_slice(fields.as_flattened());
    crc.copy_from_slice(&crc32c::crc32c(body).to_be_bytes());
    header
}

fn chunk_crc(header_crc: u32, number: u64, data: &[u8]) -> u32 {
    let seeded = crc32c::crc32c_append(header_crc, &number.to_be_bytes());
    crc32c::crc32c_append(seeded, data)
}

/// The chunks of a file, one in memory at a time.
#[derive(Debug)]
struct ChunkReader {
    input: io::BufReader<File>,
    file: record::SnapshotFile,
    header_crc: u32,
    chunk: Cursor<Vec<u8>>,
    chunks: u64,
    data_bytes: u64,
    data_crc: u32,
    ended: bool,
}

impl ChunkReader {
    fn new(
        mut input: io::BufReader<File>,
        id: SnapshotId,
        file: record::SnapshotFile,
    ) -> io::Result<Self> {
        let mut header = [0; HEADER_LEN];
        input.read_exact(&mut header)?;
        if header != encode_header(id) {
            return Err(invalid(
                "the header is not the one of this group, index and term",
            ));
        }
        Ok(ChunkReader {
            input,
            file,
            header_crc: crc32c::crc32c(&header),
            chunk: Cursor::default(),
            chunks: 0,
            data_bytes: 0,
            data_crc: 0,
            ended: false,
        })
    }

    /// Reads and verifies the next chunk; an empty one is the end.
    fn next_chunk(&mut self) -> io::Result<()> {
        let mut header = [0; CHUNK_HEADER_LEN];
        self.input.read_exact(&mut header)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
        let crc = u32::from_be_bytes([c0, c1, c2, c3]);
        // Bounded before anything is allocated: the length itself may be the damage.
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if len > CHUNK_BYTES_MAX {
            return Err(invalid("a chunk is longer than 1 MiB"));
        }
        let mut data = vec![0; if len == 0 { 12 } else { len }];
        self.input.read_exact(&mut data)?;
        if chunk_crc(self.header_crc, self.chunks, &data) != crc {
            return Err(invalid(&format!(
                "the checksum of chunk {} does not fit",
                self.chunks
            )));
        }
        if len == 0 {
            return self.check_end(&data);
        }
        self.chunks += 1;
        self.data_bytes += data.len() as u64;
        self.data_crc = crc32c::crc32c_append(self.data_crc, &data);
        self.chunk = Cursor::new(data);
        Ok(())
    }

    fn check_end(&mut self, end: &[u8]) -> io::Result<()> {
        self.ended = true;
        let mut stated = self.data_bytes.to_be_bytes().to_vec();
        stated.extend_from_slice(&self.data_crc.to_be_bytes());
        let recorded = (self.file.data_bytes, self.file.data_crc);
        if end != stated || recorded != (self.data_bytes, self.data_crc) {
            return Err(invalid("the whole is not what the record says"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(invalid("the file goes on after its end"));
        }
        Ok(())
    }
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(out)?;
            if read > 0 || out.is_empty() || self.ended {
                return Ok(read);
            }
            self.next_chunk()?;
        }
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SnapshotId = SnapshotId {
        group: 3,
        index: 40,
        term: 5,
    };

    fn staged(dir: &SnapshotDir, data: &[u8]) -> StagedSnapshot {
        let mut writer = SnapshotWriter::create(dir, ID, record::ConfState::default()).unwrap();
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    fn temp() -> (tempfile::TempDir, SnapshotDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::open(temp.path().join("snapshots")).unwrap();
        (temp, dir)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(len as u64);
        std::iter::repeat_with(|| random.u8(..)).take(len).collect()
    }

    #[test]
    fn data_of_any_length_comes_back() {
        let (_temp, dir) = temp();
        for len in [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES + 5,
        ] {
            let data = noise(len);
            let staged = staged(&dir, &data);
            assert_eq!(read_all(&dir, 3, &staged.record()).unwrap(), data);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (_temp, dir) = temp();
        let staged = staged(&dir, b"some data");
        let record = staged.record();
        let path = dir.file_path(record.file.as_ref().unwrap());
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let error = verify(&dir, 3, &record, true).unwrap_err();
            assert!(
                matches!(error, Error::Corruption { .. }),
                "bit {bit}: {error}"
            );
        }
    }

    #[test]
    fn a_file_cut_short_or_grown_or_gone_is_refused() {
        let (_temp, dir) = temp();
        let staged = staged(&dir, &noise(2 * CHUNK_BYTES));
        let record = staged.record();
        let path = dir.file_path(record.file.as_ref().unwrap());
        let whole = fs::read(&path).unwrap();
        for cut in [0, 1, HEADER_LEN, HEADER_LEN + CHUNK_BYTES, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(verify(&dir, 3, &record, true).is_err(), "cut at {cut}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(verify(&dir, 3, &record, true).is_err());
        fs::remove_file(&path).unwrap();
        let error = verify(&dir, 3, &record, false).unwrap_err();
        assert!(error.to_string().contains("no such file"), "{error}");
    }

    #[test]
    fn a_file_of_another_snapshot_is_refused() {
        let (_temp, dir) = temp();
        let staged = staged(&dir, b"data");
        let mut record = staged.record();
        record.index += 1;
        assert!(verify(&dir, 3, &record, false).is_err());
        assert!(verify(&dir, 4, &staged.record(), false).is_err());
    }

    /// After a write that failed half-way, more data would stand in the wrong place.
    #[test]
    fn a_writer_that_failed_once_fails_for_good() {
        let (_temp, dir) = temp();
        let mut writer = SnapshotWriter::create(&dir, ID, record::ConfState::default()).unwrap();
        // A file that was opened for reading refuses to be written, as a full disk would.
        let read_only = File::open(writer.tmp_path()).unwrap();
        let good = std::mem::replace(&mut writer.out, BufWriter::with_capacity(0, read_only));
        assert!(writer.write_all(&noise(2 * CHUNK_BYTES)).is_err());
        writer.out = good;
        assert!(
            writer.write(&noise(CHUNK_BYTES)).is_err(),
            "the file is good again"
        );
        assert!(writer.finish().is_err());
        assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 1, "the lock");
    }

    #[test]
    fn what_is_dropped_leaves_no_file() {
        let (_temp, dir) = temp();
        let mut writer = SnapshotWriter::create(&dir, ID, record::ConfState::default()).unwrap();
        writer.write_all(b"unfinished").unwrap();
        drop(writer);
        drop(staged(&dir, b"finished, not installed"));
        assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 1, "the lock");
    }

    #[test]
    fn orphans_are_removed_and_strangers_are_not() {
        let (_temp, dir) = temp();
        let kept = staged(&dir, b"kept");
        let orphan = staged(&dir, b"orphan");
        let orphan_path = dir.file_path(&orphan.file);
        orphan.keep();
        let unfinished = dir.path.join(format!("{:016x}-1-1-9{TMP_SUFFIX}", 3));
        let stranger = dir.path.join("README.snap");
        fs::write(&unfinished, b"").unwrap();
        fs::write(&stranger, b"").unwrap();
        dir.remove_orphans(|group, name| group == 3 && name != kept.file.name)
            .unwrap();
        assert!(!orphan_path.exists() && !unfinished.exists());
        assert!(stranger.exists() && dir.file_path(&kept.file).exists());
    }

    #[test]
    fn a_reference_comes_back_and_data_is_not_taken_for_one() {
        let reference = SnapshotReference {
            index: 1,
            term: 2,
            data_bytes: 3,
            data_crc: 4,
        };
        assert_eq!(
            SnapshotReference::from_bytes(&reference.to_bytes()).unwrap(),
            reference
        );
        assert!(SnapshotReference::from_bytes(b"the state itself").is_err());
    }
}
