//! HTTP, as its clients see it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

#[path = "../common/mod.rs"]
mod common;

mod backup;
mod eosc;
mod keys;
mod limits;
mod members;
mod numbers;
mod views;

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// What comes back, and that it is JSON.
async fn json(url: &str) -> Value {
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{url}");
    response.json().await.unwrap()
}

async fn ask(method: Method, url: &str, body: Option<Value>) -> Response {
    let client = reqwest::Client::builder();
    let client = client.redirect(reqwest::redirect::Policy::none());
    let request = client.build().unwrap().request(method, url);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    request.send().await.unwrap()
}

/// The error must be of this kind and say this.
async fn refused(response: Response, status: StatusCode, part: &str) {
    assert_eq!(response.status(), status);
    let problem: Value = response.json().await.unwrap();
    let problem = problem["error"].as_str().unwrap();
    assert!(problem.contains(part), "{problem}");
}
