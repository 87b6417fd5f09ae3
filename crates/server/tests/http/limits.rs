//! Who may ask, and how much.

use std::time::Duration;

use raft_rocks_server::resp::Secret;
use reqwest::{Client, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{Cluster, DEADLINE, until};
use crate::refused;

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_strangers_get_no_further_than_the_probes() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.clients.secret = Some(Secret::of_token(b"blue")));
    cluster.start(1).await;
    cluster.leader().await;
    for open in ["/", "/livez", "/readyz"] {
        let answer = reqwest::get(cluster.url(1, open)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{open}");
    }
    let guarded = [
        (Method::GET, "/cluster"),
        (Method::GET, "/cluster/history"),
        (Method::POST, "/cluster/members"),
        (Method::DELETE, "/cluster/members/1"),
        (Method::POST, "/cluster/transfer"),
        (Method::POST, "/snapshot"),
        (Method::GET, "/backup"),
        (Method::GET, "/metrics"),
        (Method::GET, "/openapi.json"),
        (Method::GET, "/kv/k"),
        (Method::PUT, "/kv/k"),
        (Method::DELETE, "/kv/k"),
        (Method::POST, "/raft/api/set"),
        (Method::POST, "/raft/api/addNode"),
        (Method::POST, "/raft/api/deleteNode"),
        (Method::GET, "/raft/api/getPeerList"),
    ];
    for (method, path) in guarded {
        for shown in [None, Some("Bearer red"), Some("Basic blue"), Some("blue")] {
            let mut request = Client::new().request(method.clone(), cluster.url(1, path));
            if let Some(shown) = shown {
                request = request.header("authorization", shown);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path}");
            refused(answer, StatusCode::UNAUTHORIZED, "--auth-token-file").await;
        }
    }
    let request = Client::new().put(cluster.url(1, "/kv/k")).body("v");
    let answer = request.bearer_auth("blue").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    cluster.shutdown().await;
}

/// Such a page has an origin of its own, or has turned its own name to this address.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_pages_of_other_sites_are_refused() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| {
        settings.http_advertise = Some("node.example:7483".to_owned());
    });
    cluster.start(1).await;
    cluster.leader().await;
    let url = cluster.url(1, "/cluster");
    let own = cluster.nodes[&1].http_address().unwrap().to_string();
    let asked = async |host: &str, origin: Option<&str>| {
        let mut request = Client::new().get(&url).header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap().status()
    };
    for host in [
        &own[..],
        "localhost:7483",
        "[::1]:7483",
        "node.example:7483",
    ] {
        assert_eq!(asked(host, None).await, StatusCode::OK, "{host}");
        let origin = format!("http://{host}");
        assert_eq!(asked(host, Some(&origin)).await, StatusCode::OK, "{host}");
        let foreign = Some("http://evil.example");
        assert_eq!(asked(host, foreign).await, StatusCode::FORBIDDEN, "{host}");
        assert_eq!(asked(host, Some("null")).await, StatusCode::FORBIDDEN);
    }
    let turned = asked("evil.example:7483", Some("http://evil.example:7483")).await;
    assert_eq!(turned, StatusCode::FORBIDDEN);
    assert_eq!(asked("evil.example", None).await, StatusCode::FORBIDDEN);
    cluster.shutdown().await;
}

/// One more than may be is refused, and room is made when one goes.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let cluster = Cluster::of(1).await;
    let address = cluster.nodes[&1].http_address().unwrap();
    let mut held = Vec::new();
    for _ in 0..1_024 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    until("there is no room", || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        let read = timeout(
            Duration::from_millis(500),
            stream.read_to_string(&mut answer),
        );
        let is_refused = matches!(read.await, Ok(Ok(_)));
        (is_refused && answer.starts_with("HTTP/1.1 503 ")).then_some(())
    })
    .await;
    drop(held);
    until("there is room", || async {
        let answer = reqwest::get(format!("http://{address}/livez")).await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_cut_off() {
    let cluster = Cluster::of(1).await;
    let address = cluster.nodes[&1].http_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let line = format!("x: {}\r\n", "y".repeat(8 << 10));
    let mut answer = Vec::new();
    let told = async {
        // It may close before everything is sent.
        while stream.write_all(line.as_bytes()).await.is_ok() {
            let mut some = [0; 1024];
            if let Ok(Ok(read)) = timeout(Duration::from_millis(1), stream.read(&mut some)).await {
                answer.extend_from_slice(&some[..read]);
                return;
            }
        }
    };
    timeout(DEADLINE, told).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_the_end_up() {
    let cluster = Cluster::of(1).await;
    let address = cluster.nodes[&1].http_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    // As long as connections may take at the most.
    timeout(Duration::from_secs(9), cluster.shutdown())
        .await
        .unwrap();
    assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
}
