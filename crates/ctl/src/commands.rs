//! The commands.

pub mod copies;
pub mod doctor;
pub mod dump;
pub mod inspect;
mod read;
pub mod repair;
pub mod verify;

pub use self::inspect::print;
pub use self::read::{hex, print_json, progress_bar};
