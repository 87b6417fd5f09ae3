//! How nodes stop, and what is left of them.

use super::{Event, SECOND, Step, World, io, unexplained};
use crate::driver::Error;
use crate::testing::sim::network::MILLISECOND;
use crate::testing::sim::node::Node;
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    /// A node could not go on. Where its disk has failed, or a fault was planted, it is taken for
    /// dead and started again later.
    pub(super) fn stopped(&mut self, id: u64, error: Error) -> Step {
        let explained = matches!(error, Error::Stopped(_))
            || self.nodes.get(&id).is_some_and(|node| node.disk_failed);
        if !explained {
            return Err(unexplained(id)(error));
        }
        self.note(|| format!("node {id} stops: {error}"));
        self.crash(id, false)
    }

    /// Ends a process; it is started again `soon`, or at some time.
    pub(super) fn crash(&mut self, id: u64, soon: bool) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        let unsynced = running.peer.store().unsynced();
        let kept = self.rng.usize(0..=unsynced);
        node.crash(kept).map_err(io(id))?;
        if kept < unsynced {
            self.count("unsynced writes lost");
        }
        self.note(|| format!("node {id} crashes, {kept} of {unsynced} unsynced writes stay"));
        self.forget_what_nobody_saw(id);
        let down = match soon {
            true => MILLISECOND..10 * MILLISECOND,
            false => 10 * MILLISECOND..SECOND,
        };
        let at = self.now + self.rng.u64(down);
        self.schedule(at, Event::Restart { node: id });
        Ok(())
    }

    /// Entries that were neither durable nor sent may come again, other ones.
    fn forget_what_nobody_saw(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let nodes = &self.nodes;
        self.checks.forget(|index, term| {
            let has = |log: &S| log.term(index).ok() == Some(term);
            node.written.contains(&(index, term)) && !nodes.values().filter_map(Node::log).any(has)
        });
    }
}
