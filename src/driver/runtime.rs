//! Starts the threads of a node, and waits for their ends.
//!
//! ```text
//! transport -> Inbox -> Mailbox -> raft thread -> LogStore::submit_ready -> Mailbox (persisted)
//!                                      |-> transport (messages)
//!                                      |-> ApplyQueue -> apply thread -> Mailbox (applied)
//!                                      |                     |-> snapshot thread (jobs)
//!                                      |-> a thread per outgoing snapshot
//!              Inbox -> receiving thread (snapshots) -> Mailbox (arrived)
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::applier::Applier;
use super::apply_queue::ApplyQueue;
use super::apply_thread::{ApplyThread, run_jobs};
use super::error::Result;
use super::log_store::LogStore;
use super::mailbox::Event;
use super::peer::{Peer, PersistedHook};
use super::raft_thread::{RaftThread, TurnState};
use super::shared::Shared;
use super::state_machine::StateMachine;
use super::streams::{Arrived, Streams, accept_frames, receive};

thread_local! {
    static OF_A_NODE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a thread of a node, which cannot wait for its own end.
pub(crate) fn is_of_a_node() -> bool {
    OF_A_NODE.get()
}

/// A node that runs.
pub(crate) struct Started<M: StateMachine> {
    pub queue: Arc<ApplyQueue<M>>,
    /// Hangs up when every thread has ended and let go of the store.
    pub ended: mpsc::Receiver<Infallible>,
}

/// What the raft thread ends with it.
struct Helpers {
    apply: JoinHandle<()>,
    jobs: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

/// Starts a node whose machine stands where the store has it.
pub(crate) fn start<S: LogStore, M: StateMachine>(
    shared: &Arc<Shared>,
    store: S,
    applier: Applier<S, M>,
) -> Result<Started<M>> {
    let hook: PersistedHook = {
        let shared = Arc::clone(shared);
        Arc::new(move |number, result| {
            shared.mailbox.tell(Event::Persisted(number, result));
        })
    };
    let mut options = shared.options.peer.clone();
    options.id = shared.id();
    options.incarnation = shared.incarnation;
    let (applied, book) = (applier.applied(), applier.book().clone());
    shared.set_book(book.clone());
    let peer = Peer::new(options, store.clone(), applied, book, hook)?;
    let preprocessor = applier.machine().preprocessor();
    let queue = Arc::new(ApplyQueue::new(shared.options.apply_bytes_max));
    let (jobs, to_do) = mpsc::channel();
    let arrived: Arc<Arrived<S>> = Arc::default();
    let snapshotting = Arc::new(AtomicBool::new(false));

    let apply = ApplyThread {
        store: store.clone(),
        applier,
        queue: Arc::clone(&queue),
        shared: Arc::clone(shared),
        jobs: jobs.clone(),
        snapshotting: Arc::clone(&snapshotting),
    };
    let raft = RaftThread {
        peer,
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        jobs,
        arrived: Arc::clone(&arrived),
        streams: Streams::new(store.clone(), Arc::clone(shared)),
        preprocessor,
        state: TurnState::new(shared.is_removed()),
    };
    let helpers = Helpers {
        apply: spawn("raft-apply", shared, apply, |mut apply| {
            apply.run().map_err(|e| e.to_string())
        })?,
        jobs: {
            let (store, of) = (store.clone(), Arc::clone(shared));
            spawn(
                "raft-snapshot",
                shared,
                (store, to_do),
                move |(store, to_do)| {
                    run_jobs(&store, &to_do, &of, &snapshotting).map_err(|e| e.to_string())
                },
            )?
        },
        receiver: {
            let (state, of) = ((store.clone(), accept_frames(shared)), Arc::clone(shared));
            spawn("raft-receive", shared, state, move |(store, frames)| {
                receive(store, frames, &of, &arrived);
                Ok(())
            })?
        },
    };
    let thread = std::thread::Builder::new().name("raft".to_owned());
    let (alive, ended) = mpsc::channel();
    let run = move || {
        OF_A_NODE.set(true);
        run(raft, store, helpers);
        drop(alive);
    };
    thread.spawn(run).map_err(no_thread)?;
    Ok(Started { queue, ended })
}

fn no_thread(e: std::io::Error) -> super::error::Error {
    super::error::Error::machine("starting a thread")(e)
}

/// A thread whose failure, a panic included, stops the node.
fn spawn<T: Send + 'static>(
    name: &str,
    shared: &Arc<Shared>,
    state: T,
    body: impl FnOnce(T) -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let (shared, named) = (Arc::clone(shared), name.to_owned());
    let thread = std::thread::Builder::new().name(name.to_owned());
    let run = move || {
        OF_A_NODE.set(true);
        let ended = catch_unwind(AssertUnwindSafe(|| body(state)));
        let cause = match ended {
            Ok(Ok(())) => return,
            Ok(Err(cause)) => cause,
            Err(_) => format!("thread {named} panicked"),
        };
        shared.mailbox.tell(Event::Failed(cause));
    };
    thread.spawn(run).map_err(no_thread)
}

/// The raft thread: at its end everything of the node is gone but its handles.
fn run<S: LogStore, M: StateMachine>(mut raft: RaftThread<S, M>, store: S, helpers: Helpers) {
    let (shared, queue) = (Arc::clone(&raft.shared), Arc::clone(&raft.queue));
    let ended = catch_unwind(AssertUnwindSafe(|| raft.run()));
    let ended = ended.unwrap_or_else(|_| Err("the raft thread panicked".to_owned()));
    let id = shared.id();
    match &ended {
        Ok(()) => log::info!("node {id} stops"),
        Err(cause) => log::error!("node {id} stops, and must be opened again: {cause}"),
    }
    let cause = ended
        .as_ref()
        .err()
        .map_or("it was shut down", String::as_str);
    shared.stop(Arc::from(cause));
    raft.streams.stop();
    drop(raft);
    queue.close(false);
    let _ = helpers.apply.join();
    let _ = helpers.jobs.join();
    let _ = helpers.receiver.join();
    if ended.is_ok()
        && let Err(e) = store.sync()
    {
        log::error!("node {id}: {e}");
    }
    drop(store);
    shared.finished.send_replace(true);
}
