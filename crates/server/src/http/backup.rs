//! A backup, as it is made, as a stream.
//!
//! The store is copied to a directory beside it, mostly by links; that is sent, and removed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use raft_rocks::RaftMachineStorage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::error::{ApiError, Failures};
use super::routes::Started;

/// What is sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait to be sent.
const CHUNKS: usize = 8;
/// The directory in the archive.
const NAME: &str = "raft-rocks-backup";

/// Where backups come from, one at a time.
pub struct Backups {
    storage: Mutex<Option<RaftMachineStorage>>,
    scratch: PathBuf,
    turn: Arc<Semaphore>,
}

impl Backups {
    /// Of this store, with copies below `dir`.
    pub fn new(storage: RaftMachineStorage, dir: &Path) -> Self {
        // A name that nobody gives to what is to stay.
        let scratch = dir.join(".backup-under-way");
        // Left over by a crash; if it cannot be removed a backup will say so.
        let _ = remove(&scratch);
        Backups {
            storage: Mutex::new(Some(storage)),
            scratch,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Lets go of the store.
    pub async fn close(&self) {
        self.storage.lock().take();
        // Who has the turn may hold it still.
        let _ = self.turn.acquire().await;
    }

    async fn make(&self) -> Result<Copy, ApiError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| {
            let problem = "a backup is under way; try again when it has ended";
            ApiError::new(StatusCode::CONFLICT, problem)
        })?;
        let storage = self.storage.lock().clone();
        let storage = storage
            .ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the node is ending"))?;
        let copy = Copy {
            dir: self.scratch.clone(),
            _turn: turn,
        };
        let made = tokio::task::spawn_blocking(move || {
            make_parent(&copy.dir)?;
            let store = storage.store();
            store.backup(copy.store()).map_err(io::Error::other)?;
            Ok(copy)
        });
        let made = made.await.map_err(io::Error::other).flatten();
        made.map_err(|e| {
            tracing::error!("there is no backup: {e}");
            let problem = format!("there is no backup: {e}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
        })
    }
}

/// A copy of the store, removed when it is dropped.
struct Copy {
    dir: PathBuf,
    _turn: OwnedSemaphorePermit,
}

impl Copy {
    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn send(&self, to: Chunks) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        archive.append_dir_all(NAME, self.store())?;
        archive.into_inner()?.flush()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.dir) {
            tracing::warn!("{} was not removed: {e}", self.dir.display());
        }
    }
}

fn make_parent(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    remove(dir)?;
    fs::DirBuilder::new().mode(0o700).create(dir)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Hands on what is written, in chunks.
struct Chunks {
    filling: BytesMut,
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Chunks {
    fn hand_on(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let chunk = self.filling.split().freeze();
        let sent = self.to.blocking_send(Ok(chunk));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the backup"))
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.filling.len().min(CHUNK_BYTES);
        let (taken, _) = bytes.split_at(bytes.len().min(room));
        self.filling.put(taken);
        if self.filling.len() >= CHUNK_BYTES {
            self.hand_on()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_on()
    }
}

/// A backup of this node's store, for a new node: `raft-rocks-ctl restore`.
#[utoipa::path(
    get, path = "/backup", tag = "node",
    responses(
        (status = 200, description = "A tar archive, to its end: one that breaks off is none.",
         content_type = "application/x-tar", body = Vec<u8>),
        Failures,
    )
)]
pub async fn get(Started(serving): Started) -> Result<Response, ApiError> {
    let id = serving.frontend.node().id();
    let copy = serving.backups.make().await?;
    let (to, chunks) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let archive = Chunks {
            filling: BytesMut::with_capacity(CHUNK_BYTES),
            to: to.clone(),
        };
        if let Err(e) = copy.send(archive) {
            tracing::warn!("a backup broke off: {e}");
            // Whoever reads it must not take it for whole.
            let _ = to.blocking_send(Err(e));
        }
    });
    let name = format!("attachment; filename=\"{NAME}-of-node-{id}.tar\"");
    let head = [
        (CONTENT_TYPE, "application/x-tar".to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    let body = Body::from_stream(ReceiverStream::new(chunks));
    Ok((head, body).into_response())
}
