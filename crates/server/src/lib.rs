//! A replicated key-value server that speaks the Redis protocol, on raft-rocks.
//!
//! - [`kv`]: the state machine.
//! - [`resp`]: the Redis protocol.
//! - [`http`]: HTTP, for people, tools and probes.
//! - [`frontend`], [`admin`]: what both do with a node.
//! - [`metrics`], [`latency`]: what is counted and measured.
//! - [`cli`], [`config`], [`certs`]: the program and what its command line says.
//! - [`expiry`]: what has expired is removed.
//! - [`instance`]: a node with everything that serves it.

pub mod address;
pub mod admin;
pub mod certs;
pub mod cli;
pub mod config;
pub mod expiry;
pub mod frontend;
pub mod http;
pub mod instance;
pub mod kv;
pub mod latency;
pub mod metrics;
pub mod resp;
mod start;
