//! One connection: its requests are answered in their order.
//!
//! What has come at once is taken together: the changes among it that follow each other are one
//! command of the log, the reads one look at the state. What it holds in memory is bounded: its
//! input by the limits of a request, its output because nothing more is taken until it is sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::about;
use super::budget::{FREE_BYTES, Share};
use super::command::{Command, Read, is_for_strangers, parse};
use super::data;
use super::members;
use super::reply::{Protocol, Reply};
use super::request::{Input, Received};
use super::server::Context;
use super::session::Session;
use crate::kv::Operation;

/// A request that has begun is whole within this time.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// Who does not take his replies for this long is cut off.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Who must say who he is does so in this time.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for at once of the operating system.
const READ_BYTES: usize = 16 << 10;
/// As long as nothing has come: most connections wait most of the time.
const IDLE_BYTES: usize = 2 << 10;
/// Replies are sent when there are this many bytes of them.
const SEND_BYTES: usize = 64 << 10;

/// Requests that become one.
const BATCH_MAX: usize = 256;
/// Bytes of changes that become one command of the log; a single one may be larger.
const BATCH_BYTES: usize = 256 << 10;

/// Requests of one kind that follow each other.
enum Batch {
    None,
    Reads(Vec<Read>),
    Writes(Vec<Operation>, usize),
}

pub struct Connection<S> {
    stream: S,
    context: Arc<Context>,
    session: Session,
    input: Input,
    out: BytesMut,
    batch: Batch,
    input_share: Share,
    output_share: Arc<Mutex<Share>>,
    ends: watch::Receiver<bool>,
    begun: Instant,
    /// Since when there is a part of a request.
    part_since: Option<Instant>,
}

/// What is to be done next.
enum Next {
    /// Read until there are this many bytes.
    Receive(usize),
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(
        stream: S,
        peer: String,
        context: Arc<Context>,
        ends: watch::Receiver<bool>,
    ) -> Self {
        let session = Session {
            id: context.accepted.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            protocol: Protocol::default(),
            is_known: context.options.secret.is_none(),
            name: String::new(),
            is_closing: false,
        };
        Connection {
            stream,
            session,
            input: Input::default(),
            out: BytesMut::new(),
            batch: Batch::None,
            input_share: context.budget.share(),
            output_share: Arc::new(Mutex::new(context.budget.share())),
            context,
            ends,
            begun: Instant::now(),
            part_since: None,
        }
    }

    /// Answers until the client goes, or breaks the framing, or the server ends.
    ///
    /// # Errors
    /// The connection failed, or somebody took too long.
    pub async fn serve(mut self) -> io::Result<()> {
        loop {
            let next = self.answer().await?;
            self.send().await?;
            self.output_share.lock().release();
            let Next::Receive(needed) = next else {
                return self.stream.shutdown().await;
            };
            if !self.receive(needed).await? {
                return Ok(());
            }
        }
    }

    /// Answers everything that is there.
    async fn answer(&mut self) -> io::Result<Next> {
        loop {
            let received = self.input.next(self.session.limits());
            if !matches!(received, Ok(Received::Part { .. })) {
                self.part_since = None;
            }
            match received {
                Ok(Received::Part { needed }) => {
                    self.run_batch().await?;
                    return Ok(Next::Receive(needed));
                }
                Ok(Received::Request(words)) if words.is_empty() => continue,
                Ok(Received::Request(words)) if is_http(&words) => {
                    let peer = &self.session.peer;
                    let closed = || format!("a connection of {peer} is closed: it speaks HTTP");
                    self.context.broken.warn(closed);
                    return Ok(Next::Close);
                }
                Ok(Received::Request(words)) => match parse(words) {
                    Ok(command) => self.take(command).await?,
                    Err(error) => self.reply_after_batch(error).await?,
                },
                Ok(Received::Unbalanced) => {
                    let error = Reply::error("Protocol error: unbalanced quotes in request");
                    self.reply_after_batch(error).await?;
                }
                Err(broken) => {
                    let peer = &self.session.peer;
                    let closed = || format!("a connection of {peer} is closed: {broken}");
                    self.context.broken.warn(closed);
                    self.reply_after_batch(Reply::error(broken)).await?;
                    return Ok(Next::Close);
                }
            }
            if self.session.is_closing {
                return Ok(Next::Close);
            }
        }
    }

    async fn take(&mut self, command: Command) -> io::Result<()> {
        if !self.session.is_known && !is_for_strangers(&command) {
            let error = "NOAUTH Authentication required.".to_owned();
            return self.reply_after_batch(Reply::Error(error)).await;
        }
        match command {
            Command::Read(read) => self.add_read(read).await,
            Command::Write(operation) => self.add_write(operation).await,
            Command::Keys(pattern) => {
                self.run_batch().await?;
                let reply = data::keys(&self.context, pattern, &self.output_share).await;
                self.reply(reply).await
            }
            Command::About(about) => {
                self.run_batch().await?;
                let reply = about::answer(&self.context, &mut self.session, about).await;
                self.reply(reply).await
            }
            Command::Member(member) => {
                self.run_batch().await?;
                let reply = members::answer(&self.context, member).await;
                self.reply(reply).await
            }
        }
    }

    async fn add_read(&mut self, read: Read) -> io::Result<()> {
        if !matches!(&self.batch, Batch::Reads(reads) if reads.len() < BATCH_MAX) {
            self.run_batch().await?;
            self.batch = Batch::Reads(Vec::new());
        }
        if let Batch::Reads(reads) = &mut self.batch {
            reads.push(read);
        }
        Ok(())
    }

    async fn add_write(&mut self, operation: Operation) -> io::Result<()> {
        let more = data::bytes_of(&operation);
        let fits = |operations: &Vec<Operation>, bytes: usize| {
            operations.len() < BATCH_MAX && bytes + more <= BATCH_BYTES
        };
        if !matches!(&self.batch, Batch::Writes(operations, bytes) if fits(operations, *bytes)) {
            self.run_batch().await?;
            self.batch = Batch::Writes(Vec::new(), 0);
        }
        // Its answer may be as long as a value: it goes alone, so that answers fit a packet.
        let is_alone = matches!(
            &operation,
            Operation::Set {
                return_old: true,
                ..
            }
        );
        if let Batch::Writes(operations, bytes) = &mut self.batch {
            *bytes += more + if is_alone { BATCH_BYTES } else { 0 };
            operations.push(operation);
        }
        Ok(())
    }

    async fn run_batch(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.batch, Batch::None) {
            Batch::None => Ok(()),
            Batch::Writes(operations, _) => {
                let replies = data::change(&self.context, &operations, &self.output_share).await;
                for reply in replies {
                    self.reply(reply).await?;
                }
                Ok(())
            }
            Batch::Reads(reads) => {
                let reads: Arc<[Read]> = reads.into();
                let mut at = 0;
                while at < reads.len() {
                    let share = &self.output_share;
                    let replies = data::look(&self.context, &reads, at, share).await;
                    at += replies.len();
                    for reply in replies {
                        self.reply(reply).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn reply_after_batch(&mut self, reply: Reply) -> io::Result<()> {
        self.run_batch().await?;
        self.reply(reply).await
    }

    async fn reply(&mut self, reply: Reply) -> io::Result<()> {
        self.context.commands.fetch_add(1, Ordering::Relaxed);
        reply.encode(self.session.protocol, &mut self.out);
        match self.out.len() >= SEND_BYTES {
            true => self.send().await,
            false => Ok(()),
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            let sent = timeout(SEND_PATIENCE, self.stream.write_all(&self.out));
            sent.await
                .map_err(|_| late("does not take its replies"))??;
        }
        match self.out.capacity() > IDLE_BYTES {
            true => self.out = BytesMut::new(),
            false => self.out.clear(),
        }
        Ok(())
    }

    /// Whether something came.
    async fn receive(&mut self, needed: usize) -> io::Result<bool> {
        let deadline = self.deadline();
        if self.input.bytes.is_empty() && self.input.bytes.capacity() > IDLE_BYTES {
            self.input.bytes = BytesMut::new();
            self.input_share.release();
        }
        while self.input.bytes.len() < needed {
            // The buffer grows with what has come, not with what was declared, and to twice as
            // much at the most.
            let held = 2 * (self.input.bytes.len() + READ_BYTES);
            if held > FREE_BYTES && !self.input_share.hold(held).await {
                return Err(late("gets no memory: others have all"));
            }
            let is_idle = self.input.bytes.is_empty();
            let room = if is_idle { IDLE_BYTES } else { READ_BYTES };
            self.input.bytes.reserve(room);
            let room = (&mut self.stream).take(READ_BYTES as u64);
            tokio::pin!(room);
            let read = tokio::select! {
                read = timeout_at(deadline, room.read_buf(&mut self.input.bytes)) => read,
                // An error: the server is gone.
                _ = self.ends.wait_for(|ends| *ends) => return Ok(false),
            };
            if read.map_err(|_| late("sends nothing"))?? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// When whatever is missing must have come.
    fn deadline(&mut self) -> Instant {
        if !self.session.is_known {
            return self.begun + STRANGER_PATIENCE;
        }
        let now = Instant::now();
        match self.input.bytes.is_empty() {
            true => now + self.context.options.idle,
            false => *self.part_since.get_or_insert(now) + REQUEST_PATIENCE,
        }
    }
}

/// A browser that a page of somebody else's sends here: what follows would be commands. Redis closes
/// such connections, too.
fn is_http(words: &[Bytes]) -> bool {
    let first = words.first().map(|word| word.to_ascii_uppercase());
    first.is_some_and(|first| first == b"POST" || first == b"HOST:")
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it {what}"))
}
