//! What is known of one connection.

use super::framing::Limits;
use super::reply::Protocol;

/// Longer names are refused: they are kept.
pub const NAME_BYTES_MAX: usize = 256;

/// Who is connected, and how he wants his answers.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    pub peer: String,
    pub protocol: Protocol,
    /// It has shown the token, or none is asked for.
    pub is_known: bool,
    pub name: String,
    /// Nothing follows the next reply.
    pub is_closing: bool,
}

impl Session {
    pub fn limits(&self) -> &'static Limits {
        match self.is_known {
            true => &Limits::KNOWN,
            false => &Limits::STRANGER,
        }
    }
}
