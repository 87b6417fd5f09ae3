//! Which of our processes is at the other end of a connection.
//!
//! The system knows: the port it came from names a socket (`/proc/net/tcp`), and the socket is
//! open in a process (`/proc/<pid>/fd`). So nodes need not say who they are, and a node that is
//! mistaken about it is found nevertheless.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use parking_lot::Mutex;

/// The processes that may connect, by the number of their node.
#[derive(Clone, Default)]
pub struct Dialers(Arc<Mutex<BTreeMap<usize, i32>>>);

impl Dialers {
    /// The node runs in this process.
    pub fn set(&self, node: usize, pid: i32) {
        self.0.lock().insert(node, pid);
    }

    /// The node's process has ended.
    pub fn remove(&self, node: usize) {
        self.0.lock().remove(&node);
    }

    /// The node that has connected from `port` of this machine; none when it is no node of ours,
    /// or has closed already.
    pub fn find(&self, port: u16) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let socket = format!("socket:[{}]", inode(&table, port)?);
        let processes = self.0.lock().clone();
        let mut processes = processes.into_iter();
        let (node, _) = processes.find(|(_, pid)| has_open(*pid, &socket))?;
        Some(node)
    }
}

/// The socket on 127.0.0.1 at this port that is connected.
fn inode(table: &str, port: u16) -> Option<&str> {
    // Addresses stand there as the machine has them in memory.
    let local = format!("0100007F:{port:04X}");
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_it = fields.nth(1) == Some(&local);
        let inode = fields.nth(7).filter(|inode| *inode != "0");
        inode.filter(|_| is_it)
    })
}

fn has_open(pid: i32, socket: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut open = open.flatten();
    open.any(|entry| fs::read_link(entry.path()).is_ok_and(|path| path.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_process_at_the_other_end_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = stream.local_addr().unwrap().port();
        let dialers = Dialers::default();
        assert_eq!(dialers.find(port), None);
        dialers.set(1, 1);
        dialers.set(2, std::process::id().try_into().unwrap());
        assert_eq!(dialers.find(port), Some(2));
        drop(stream);
        dialers.remove(2);
        assert_eq!(dialers.find(port), None);
    }
}
