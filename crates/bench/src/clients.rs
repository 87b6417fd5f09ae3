//! Who appends: the same code for every contender, and cheap enough not to be what is measured.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use parking_lot::{Condvar, Mutex};
use raft_rocks::raft::eraftpb::{Entry, HardState};

use crate::contenders::{Contender, System};
use crate::entries::{Noise, Source};

/// Entries a log keeps between two turns, and how many more it may have before it is compacted.
const KEPT: u64 = 10_000;

/// How the groups are driven. Each has one append in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A thread for each group, which waits for its append. One group needs no thread.
    Threads,
    /// One thread for all groups, which submits a group's next append as soon as it learns that
    /// the last one is durable, as the poller of a raftstore does.
    Poller,
}

impl Model {
    /// How a system is driven with so many groups; `None` where it has no part.
    pub fn of(system: System, groups: usize) -> Option<Model> {
        match (system, groups) {
            (System::RaftRocksThreads | System::RaftEngineWriterThreads, 1) => None,
            (System::RawAppend | System::RawOverwrite, 2..) => None,
            (System::MemStorage, _) => None,
            (System::RaftRocks | System::RaftRocksPlain | System::RaftEngineWriter, 2..) => {
                Some(Model::Poller)
            }
            _ => Some(Model::Threads),
        }
    }
}

/// What an append holds.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Entries of one append.
    pub batch: usize,
    /// Bytes of one entry's data.
    pub bytes: usize,
    /// Groups that append at the same time.
    pub groups: usize,
    /// Whether a hard state with a new commit comes along, as in most Readys.
    pub hard_state: bool,
}

/// One turn.
#[derive(Debug, Default)]
pub struct Burst {
    /// Of each append, from the call until it was known to be durable, in nanoseconds.
    pub latencies: Vec<u64>,
    /// From the first call until the last append was durable.
    pub elapsed: Duration,
}

/// One group's log, as its owner sees it.
pub struct Client {
    group: u64,
    source: Source,
    entries: Vec<Entry>,
    first_index: u64,
}

impl Client {
    /// Of an empty log.
    pub fn new(group: u64, noise: &Noise) -> Self {
        Client {
            group,
            source: Source::new(noise.clone(), group),
            entries: Vec::new(),
            first_index: 1,
        }
    }

    /// Appends once and says how long that took.
    pub fn append(&mut self, contender: &dyn Contender, shape: Shape) -> Result<Duration> {
        let hard_state = shape.hard_state.then(|| self.source.hard_state());
        self.source
            .fill(&mut self.entries, shape.batch, shape.bytes);
        let start = Instant::now();
        contender.append(self.group, &mut self.entries, hard_state.as_ref())?;
        Ok(start.elapsed())
    }

    /// What the next append holds, to be given away.
    fn next(&mut self, shape: Shape) -> (Vec<Entry>, Option<HardState>) {
        let hard_state = shape.hard_state.then(|| self.source.hard_state());
        let mut entries = Vec::with_capacity(shape.batch);
        self.source.fill(&mut entries, shape.batch, shape.bytes);
        (entries, hard_state)
    }

    /// Keeps the log short, between turns.
    pub fn shorten(&mut self, contender: &dyn Contender) -> Result<()> {
        let last = self.source.last_index();
        if last >= self.first_index + 2 * KEPT {
            self.first_index = last + 1 - KEPT;
            contender.set_applied(self.group, last)?;
            contender.compact(self.group, self.first_index)?;
        }
        Ok(())
    }
}

/// Lets the first groups append for `length`.
pub fn burst(
    contender: &dyn Contender,
    model: Model,
    clients: &mut [Client],
    shape: Shape,
    length: Duration,
) -> Result<Burst> {
    let clients = clients.get_mut(..shape.groups).context("too few groups")?;
    match (model, clients) {
        (Model::Threads, [client]) => append_until(contender, client, shape, length),
        (Model::Threads, clients) => threads(contender, clients, shape, length),
        (Model::Poller, clients) => poller(contender, clients, shape, length),
    }
}

fn append_until(
    contender: &dyn Contender,
    client: &mut Client,
    shape: Shape,
    length: Duration,
) -> Result<Burst> {
    let mut latencies = Vec::with_capacity(1 << 12);
    let start = Instant::now();
    while start.elapsed() < length {
        let latency = client.append(contender, shape)?;
        latencies.push(latency.as_nanos() as u64);
    }
    Ok(Burst {
        latencies,
        elapsed: start.elapsed(),
    })
}

fn threads(
    contender: &dyn Contender,
    clients: &mut [Client],
    shape: Shape,
    length: Duration,
) -> Result<Burst> {
    let (ready, started) = (Barrier::new(clients.len()), OnceLock::new());
    let run = |client: &mut Client| {
        ready.wait();
        let start = *started.get_or_init(Instant::now);
        let mut burst = append_until(contender, client, shape, length)?;
        burst.elapsed = start.elapsed();
        Ok(burst)
    };
    let bursts: Vec<Result<Burst>> = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| run(client)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Burst>>| {
            let panicked = |_| Err(anyhow!("a client panicked"));
            thread.join().unwrap_or_else(panicked)
        };
        threads.into_iter().map(join).collect()
    });
    let mut all = Burst::default();
    for burst in bursts {
        let burst = burst?;
        all.latencies.extend(burst.latencies);
        all.elapsed = all.elapsed.max(burst.elapsed);
    }
    Ok(all)
}

/// What a completion brings to the poller.
struct Completed {
    client: usize,
    latency: Duration,
    result: Result<()>,
}

/// Completions on their way to the poller.
///
/// One completion seldom comes alone. A poller that goes to sleep after each has itself woken
/// for the next, and where it shares a processor with the thread that reports them, the two
/// change places for every single one: that, and nothing of the store, would be measured. So it
/// lets others run for a moment before it sleeps, as a poller does that has more to do.
#[derive(Default)]
struct Completions {
    arrived: Mutex<Vec<Completed>>,
    count: AtomicUsize,
    wake: Condvar,
}

/// How long the poller looks for more before it sleeps.
const LINGER: Duration = Duration::from_micros(50);
/// Nothing takes as long, unless a contender forgot somebody.
const GIVE_UP: Duration = Duration::from_secs(60);

impl Completions {
    fn push(&self, completed: Completed) {
        let mut arrived = self.arrived.lock();
        arrived.push(completed);
        self.count.store(arrived.len(), Ordering::Release);
        // Costs nothing while nobody sleeps.
        self.wake.notify_one();
    }

    /// Everything that has arrived, at least one, in the place of what `into` held.
    fn take(&self, into: &mut Vec<Completed>) -> Result<()> {
        into.clear();
        let since = Instant::now();
        while self.count.load(Ordering::Acquire) == 0 && since.elapsed() < LINGER {
            thread::yield_now();
        }
        let mut arrived = self.arrived.lock();
        while arrived.is_empty() {
            let waited = self.wake.wait_for(&mut arrived, GIVE_UP);
            ensure!(
                !waited.timed_out() || !arrived.is_empty(),
                "an append was not reported durable within a minute"
            );
        }
        std::mem::swap(&mut *arrived, into);
        self.count.store(0, Ordering::Release);
        Ok(())
    }
}

fn poller(
    contender: &dyn Contender,
    clients: &mut [Client],
    shape: Shape,
    length: Duration,
) -> Result<Burst> {
    let completions = Arc::new(Completions::default());
    let mut in_flight = 0;
    let mut latencies = Vec::with_capacity(1 << 12);
    let start = Instant::now();
    for number in 0..clients.len() {
        submit(contender, clients, number, shape, &completions)?;
        in_flight += 1;
    }
    let mut arrived = Vec::new();
    while in_flight > 0 {
        completions.take(&mut arrived)?;
        for done in arrived.drain(..) {
            done.result?;
            in_flight -= 1;
            latencies.push(done.latency.as_nanos() as u64);
            if start.elapsed() < length {
                submit(contender, clients, done.client, shape, &completions)?;
                in_flight += 1;
            }
        }
    }
    Ok(Burst {
        latencies,
        elapsed: start.elapsed(),
    })
}

fn submit(
    contender: &dyn Contender,
    clients: &mut [Client],
    number: usize,
    shape: Shape,
    completions: &Arc<Completions>,
) -> Result<()> {
    let client = clients.get_mut(number).context("no such group")?;
    let (entries, hard_state) = client.next(shape);
    let completions = Arc::clone(completions);
    let start = Instant::now();
    let done = move |result| {
        completions.push(Completed {
            client: number,
            latency: start.elapsed(),
            result,
        });
    };
    contender.submit(client.group, entries, hard_state, Box::new(done))
}
