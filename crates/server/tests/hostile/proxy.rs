//! Somebody between two nodes, who lets so many bytes through and then nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

pub struct Proxy {
    left: Arc<AtomicI64>,
}

impl Proxy {
    pub fn start(at: &str, to: &str, bytes: i64) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let left = Arc::new(AtomicI64::new(bytes));
        let (to, shared) = (to.to_owned(), Arc::clone(&left));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&to)) else {
                    continue;
                };
                let (back, away) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let left = Arc::clone(&shared);
                thread::spawn(move || pump(client, server, &left));
                thread::spawn(move || pump(back, away, &AtomicI64::new(i64::MAX)));
            }
        });
        Proxy { left }
    }

    pub fn is_exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 0
    }

    pub fn let_everything_through(&self) {
        self.left.store(i64::MAX, Ordering::Relaxed);
    }
}

/// What comes when nothing is let through any more vanishes, and the connection stays.
fn pump(mut from: TcpStream, mut to: TcpStream, left: &AtomicI64) {
    let mut bytes = [0; 16 << 10];
    let mut is_cut = false;
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        is_cut |= left.fetch_sub(read as i64, Ordering::Relaxed) <= 0;
        if !is_cut && to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // The other side may be gone.
    let _ = to.shutdown(Shutdown::Both);
}
