//! The commands.

pub mod copies;
pub mod doctor;
pub mod dump;
pub mod inspect;
mod read;
pub mod repair;
pub mod verify;

pub use self::read::progress_bar;
