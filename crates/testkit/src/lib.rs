//! What the tests and tools of clusters on one machine share: addresses for their nodes, and
//! waiting for a condition.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Below what systems give to those who connect (32768 and up on Linux): while a node is down, a
/// connection of somebody else must not be given the port it comes back to.
const PORTS: Range<u16> = 10_000..32_000;

/// What this process has been given. A port is free between the look and its use, and while its
/// node is down; nobody else in this process may get it then.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address of this machine on which nobody listens, for a node that may stop and come back
/// there: no other caller in this process gets it, and no connection outwards.
///
/// # Errors
/// `AddrNotAvailable`: a thousand ports were tried and all taken.
pub fn free_address() -> io::Result<SocketAddr> {
    find(PORTS, &GIVEN)
}

fn find(ports: Range<u16>, given: &Mutex<BTreeSet<u16>>) -> io::Result<SocketAddr> {
    for _ in 0..1_000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(ports.clone())));
        if given.lock().insert(address.port()) && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    let told = format!(
        "no port from {} to {} was found free; end what listens there",
        ports.start, ports.end
    );
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, told))
}

/// For whatever takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until it is so.
///
/// # Panics
/// It is not so within [`DEADLINE`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_twice() {
        let given: BTreeSet<_> = (0..500).map(|_| free_address().unwrap()).collect();
        assert_eq!(given.len(), 500);
        assert!(given.iter().all(|address| PORTS.contains(&address.port())));
    }

    #[test]
    fn an_address_on_which_somebody_listens_is_not_given() {
        let taken = free_address().unwrap();
        let alone = taken.port()..taken.port() + 1;
        let listener = TcpListener::bind(taken).unwrap();
        let refused = find(alone.clone(), &Mutex::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        drop(listener);
        assert_eq!(find(alone, &Mutex::default()).unwrap(), taken);
    }

    #[tokio::test]
    async fn it_looks_until_it_is_so() {
        let mut looks = 0;
        let found = until("the third look", || {
            looks += 1;
            let look = looks;
            async move { (look == 3).then_some(look) }
        });
        assert_eq!(found.await, 3);
    }
}
