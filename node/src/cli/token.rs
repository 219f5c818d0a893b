//! A token as it is typed or piped in.
//!
//! What is typed stands in the arguments of a process, which every user of the
//! host can list. So a command that finds a token there begins again at once,
//! with `-` in its place and the token in a pipe.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use gossip_core::invite::{TOKEN_LENGTH_MAX, TOKEN_PREFIX, Token};

use crate::api::types::Complaint;
use crate::cli::errors::Failed;

/// Replaces this process by one without a token in its arguments, if there is one. Where that
/// cannot be done the command goes on as it was typed.
pub(crate) fn hide() {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Some((safe, token)) = hidden(&words) else { return };
    let Ok((reader, mut writer)) = std::io::pipe() else { return };
    // It fits the pipe: nobody has to read yet.
    if token.len() > TOKEN_LENGTH_MAX || writer.write_all(token.as_bytes()).is_err() {
        return;
    }
    drop(writer);
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = words.first() {
        again.arg0(name);
    }
    let error = again.args(safe).stdin(Stdio::from(reader)).exec();
    tracing::debug!(%error, "the token stays in the arguments");
}

/// Flags that may stand before a command, with a value behind them.
const VALUED: [&str; 3] = ["--data", "--socket", "--peer"];

/// The arguments with `-` for a token that `join` or `login` was given, and that token.
fn hidden(words: &[OsString]) -> Option<(Vec<OsString>, OsString)> {
    // The first word that is neither a flag nor the value of one.
    let mut command = 1;
    while words.get(command)?.as_bytes().starts_with(b"-") {
        let has_value = VALUED.iter().any(|flag| words[command] == *flag);
        command += if has_value { 2 } else { 1 };
    }
    if words[command] != "join" && words[command] != "login" {
        return None;
    }
    let is_token = |word: &OsString| word.as_bytes().starts_with(TOKEN_PREFIX.as_bytes());
    let at = words.iter().skip(command).position(is_token)? + command;
    let mut safe = words.get(1..)?.to_vec();
    let token = std::mem::replace(safe.get_mut(at - 1)?, "-".into());
    Some((safe, token))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_arguments_is_found_where_one_is_taken() {
        let hidden = |text: &str| {
            let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            hidden(&words).map(|(safe, token)| (safe.join(" ".as_ref()), token))
        };
        let found = |safe: &str| Some((safe.into(), "sl1-abc".into()));
        assert_eq!(hidden("starling join sl1-abc"), found("join -"));
        assert_eq!(
            hidden("starling --data d join --name x sl1-abc --foreground"),
            found("--data d join --name x - --foreground")
        );
        assert_eq!(hidden("starling login sl1-abc"), found("login -"));
        for other in [
            "starling",
            "starling --data",
            "starling join -",
            "starling --data join run x sl1-abc",
            "starling run --exec -- tool join sl1-abc",
        ] {
            assert_eq!(hidden(other), None, "{other}");
        }
    }
}
