//! stub
use clap::Args;
/// stub
#[derive(Args)]
pub struct Arguments {}
/// stub
/// # Errors
/// never
pub fn run(_: &Arguments) -> anyhow::Result<bool> {
    Ok(true)
}
