//! The Redis protocol, in both its versions.
//!
//! - [`Server`]: accepts connections and serves a node to each.
//! - `framing`, `request`: what a client sends, bounded before anything is made of it.
//! - `command`: what it means; `table`: which commands there are.
//! - `data`, `about`, `members`: what is answered.
//!
//! Only what breaks the framing closes a connection: all other mistakes are error replies.

mod about;
mod budget;
mod command;
mod connection;
mod cursors;
mod data;
mod framing;
mod glob;
mod members;
mod reply;
mod request;
mod server;
mod session;
mod table;

pub use command::is_command;
pub use framing::{Broken, Limits};
pub use request::{Input, Received};
pub use server::{Context, Options, ReadConsistency, Redirect, Secret, Server};
