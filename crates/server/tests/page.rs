//! The status page, in a browser.
//!
//! Wants `chromedriver` and Chromium (`scripts/setup clients` installs them): without, it says so,
//! and fails under `CI=true`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use common::{Cluster, until};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use raft_rocks_server::resp::Secret;
use serde_json::{Value, json};

/// A driver of a browser, and the browser.
struct Browser {
    driver: Child,
    page: Client,
}

impl Browser {
    /// `None`: there is no browser, and this is not CI.
    async fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let started = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .spawn();
        let driver = match started {
            Ok(driver) => driver,
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "chromedriver: {e}");
                eprintln!("not tested: chromedriver: {e}");
                return None;
            }
        };
        let mut capabilities = serde_json::Map::new();
        let arguments = [
            "--headless",
            // Its sandbox wants not to be root, and the page is ours.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let options = json!({ "args": arguments });
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
        let url = format!("http://127.0.0.1:{port}");
        let page = until("a browser", || async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities.clone());
            builder.connect(&url).await.ok()
        });
        let page = page.await;
        Some(Browser { driver, page })
    }

    async fn text(&self, selector: &str) -> String {
        let found = self.page.find(Locator::Css(selector)).await;
        found.unwrap().text().await.unwrap()
    }

    async fn shows(&self, selector: &str, part: &str) {
        let what = format!("{part:?} in {selector}");
        until(&what, || async {
            let text = self.text(selector).await;
            text.contains(part).then_some(())
        })
        .await;
    }

    async fn run(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    async fn close(mut self) {
        self.page.close().await.unwrap();
        self.driver.kill().unwrap();
        self.driver.wait().unwrap();
    }
}

fn url(cluster: &Cluster, id: u64) -> String {
    let address = cluster.nodes[&id].http_address().unwrap();
    format!("http://{address}/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_a_cluster_as_it_changes() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    browser.page.goto(&url(&cluster, leader)).await.unwrap();
    browser
        .shows("#health", &format!("Node {leader} leads"))
        .await;
    browser.shows("#health", "1 of 3 voters may fail").await;
    let names = browser
        .run("return document.querySelectorAll('#members tr').length")
        .await;
    assert_eq!(names, 3);
    browser.shows("#picture", "leads").await;

    // What clients write is seen.
    let mut client = cluster.client(leader).await;
    for n in 0..20 {
        client.run::<String>(&format!("SET key-{n} value")).await;
    }
    browser.shows("#facts", "20").await;
    until("a line of latencies", || async {
        let drawn = browser
            .run("return document.querySelectorAll('#commit path')[1].getAttribute('d')")
            .await;
        drawn
            .as_str()
            .is_some_and(|drawn| !drawn.is_empty())
            .then_some(())
    })
    .await;

    // A follower shows the same, from the leader.
    let follower = cluster.follower().await;
    browser.page.goto(&url(&cluster, follower)).await.unwrap();
    browser.shows("#health", "1 of 3 voters may fail").await;

    // On a phone nothing is wider than the screen.
    browser.page.set_window_size(390, 844).await.unwrap();
    let wide = browser
        .run("return document.documentElement.scrollWidth")
        .await;
    let screen = browser.run("return window.innerWidth").await;
    assert!(wide.as_f64() <= screen.as_f64(), "{wide} on {screen}");

    // It is whole by itself: nothing comes from elsewhere.
    let foreign = "return performance.getEntriesByType('resource').map(r => r.name)
        .filter(name => !name.startsWith(location.origin))";
    assert_eq!(browser.run(foreign).await, json!([]));

    // Who is gone is missed.
    let gone = *cluster
        .nodes
        .keys()
        .find(|id| **id != leader && **id != follower)
        .unwrap();
    cluster.kill(gone).await;
    browser
        .shows("#health", &format!("Not heard of: node {gone}"))
        .await;
    browser.shows("#health", "No other voter may fail").await;

    // The node that is asked goes, too.
    cluster.kill(follower).await;
    browser
        .shows("#health", "This node has not answered since")
        .await;
    browser.close().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_the_token() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| {
        settings.clients.secret = Some(Secret::of_token(b"swordfish"));
    });
    cluster.start_all(1).await;
    browser.page.goto(&url(&cluster, 1)).await.unwrap();
    browser.shows("#health", "This server wants a token").await;
    let enter = async |token: &str| {
        let input = browser.page.find(Locator::Css("#token")).await.unwrap();
        input.clear().await.unwrap();
        input.send_keys(token).await.unwrap();
        let button = browser
            .page
            .find(Locator::Css("#ask button"))
            .await
            .unwrap();
        button.click().await.unwrap();
    };
    enter("guess").await;
    browser.shows("#health", "not the token").await;
    enter("swordfish").await;
    browser.shows("#health", "leads").await;
    browser.close().await;
    cluster.shutdown().await;
}
