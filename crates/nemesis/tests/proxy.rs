//! What the proxies do to what is sent.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raft_rocks_nemesis::dialer::Dialers;
use raft_rocks_nemesis::node::Addresses;
use raft_rocks_nemesis::proxy::{Network, Rule};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// Says a letter, and then back whatever it hears.
async fn echo(letter: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&[letter]).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn hears(stream: &mut TcpStream) -> Option<u8> {
    let read = timeout(SOON, stream.read_u8()).await.unwrap();
    read.ok()
}

/// A network in which this process is node 1, and the address of node 2 in it.
async fn network() -> (Network, SocketAddr) {
    let dialers = Dialers::default();
    dialers.set(1, std::process::id().try_into().unwrap());
    let mut network = Network::new(dialers);
    let at = Addresses::free().unwrap().advertised;
    network.proxy(2, at, echo(b'a').await).await.unwrap();
    (network, at)
}

#[tokio::test]
async fn a_cut_ends_connections_and_lets_none_begin() {
    let (network, at) = network().await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, Some(b'a'));
    network.set([(2, 1)], Rule::Cut);
    stream.write_all(b"x").await.unwrap();
    assert_eq!(hears(&mut stream).await, Some(b'x'), "the other direction");
    network.set([(1, 2)], Rule::Cut);
    assert_eq!(hears(&mut stream).await, None);
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, None);
    network.heal();
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, Some(b'a'));
}

#[tokio::test]
async fn what_is_stalled_arrives_when_the_network_is_whole() {
    let (network, at) = network().await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, Some(b'a'));
    network.set([(1, 2)], Rule::Stall);
    stream.write_all(b"x").await.unwrap();
    assert!(timeout(SHORT, stream.read_u8()).await.is_err());
    network.heal();
    assert_eq!(hears(&mut stream).await, Some(b'x'));
}

#[tokio::test]
async fn what_is_delayed_arrives_later() {
    let (network, at) = network().await;
    network.set([(1, 2)], Rule::Delay(SHORT));
    let begun = Instant::now();
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, Some(b'a'));
    assert!(begun.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_connection_led_astray_reaches_another_and_comes_back() {
    let (network, at) = network().await;
    let mut first = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut first).await, Some(b'a'));
    network.set([(1, 2)], Rule::Astray(echo(b'b').await));
    assert_eq!(hears(&mut first).await, None, "it would stay at home");
    let mut second = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut second).await, Some(b'b'));
    assert_eq!(network.strayed(), 1);
    network.heal();
    assert_eq!(hears(&mut second).await, None, "it would stay away");
    let mut third = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut third).await, Some(b'a'));
}

#[tokio::test]
async fn nobody_knows_a_stranger() {
    let mut network = Network::new(Dialers::default());
    let at = Addresses::free().unwrap().advertised;
    network.proxy(2, at, echo(b'a').await).await.unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(hears(&mut stream).await, None);
}
