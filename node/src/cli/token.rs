//! A token as it is typed or piped in.

use std::io::Read as _;

use gossip_core::invite::{TOKEN_LENGTH_MAX, Token};

use crate::api::types::Complaint;
use crate::cli::errors::Failed;

/// Reads the token that was given, or the one on stdin for `-`; with its text.
pub(crate) fn read(given: String) -> Result<(Token, String), Failed> {
    let text = if given == "-" { from_stdin()? } else { given };
    let token = Token::from_text(&text).map_err(|bad| {
        Complaint::new("bad_token", "this token cannot be used")
            .because(bad)
            .hint("copy it whole from the output of `starling invite`")
    })?;
    Ok((token, text.trim().to_owned()))
}

/// A whole page of anything else is not read.
fn from_stdin() -> Result<String, Failed> {
    let mut text = String::new();
    let limit = u64::try_from(TOKEN_LENGTH_MAX).unwrap_or(u64::MAX) * 2;
    std::io::stdin().lock().take(limit).read_to_string(&mut text).map_err(|error| {
        Failed::from(Complaint::new("bad_token", "no token came from stdin").because(error))
    })?;
    Ok(text)
}
