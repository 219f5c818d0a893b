//! `version`: this program's; an agent's is in `status`.

use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `starling version`.
pub(crate) fn run(out: Output) -> Result<u8, Failed> {
    match out.format {
        Format::Json => out.json(format!(r#"{{"version":"{VERSION}"}}"#).as_bytes())?,
        Format::Quiet => out.line(VERSION)?,
        Format::Human => out.line(&format!("starling {VERSION}"))?,
    }
    Ok(0)
}
