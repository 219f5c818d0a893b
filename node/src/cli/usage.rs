//! What is told of a command line that cannot be read: one error, one reason, one hint, in
//! the shape of every other failure, and as JSON for whoever asked for that.
//!
//! ```text
//! clap's error ──▶ error: what it is about      why: what clap or a flag's reader says
//!                   hint: Docker's word here, the word that was meant, or where help is
//! ```
//!
//! Clap's own tips are not shown: it proposes to pass a flag on behind `--`, which is no
//! help to whoever wanted that flag.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::agent::words;
use crate::api::types::Complaint;
use crate::cli::docker;
use crate::cli::errors::{Failed, Json};

/// How many letters may differ between what was typed and what is proposed.
const TYPOS_MAX: usize = 2;

/// Tells of a command line that cannot be read; the exit code.
pub(super) fn told(command: &Command, error: &clap::Error, words: &[OsString]) -> u8 {
    let before_program = words.iter().take_while(|word| *word != "--");
    let wants_json = before_program.into_iter().any(|word| word == "--json");
    let json = if wants_json { Json::Yes } else { Json::No };
    Failed::from(complaint(command, error, words)).report(json)
}

/// The complaint. `words` are those behind the program's name.
fn complaint(command: &Command, error: &clap::Error, words: &[OsString]) -> Complaint {
    let path = path(command, words);
    let called = path.iter().map(|command| command.get_name()).collect::<Vec<_>>().join(" ");
    let (message, why) = match (error.kind(), unknown(error)) {
        (ErrorKind::InvalidSubcommand, Some(word)) => {
            (format!("`{called}` has no command {word}"), Vec::new())
        }
        (ErrorKind::UnknownArgument, Some(word)) if word.starts_with('-') => {
            (format!("`{called}` has no flag {word}"), Vec::new())
        }
        (ErrorKind::UnknownArgument, Some(word)) => {
            (format!("`{called}` cannot do anything with {word:?}"), Vec::new())
        }
        _ => of_clap(error),
    };
    let complaint = Complaint::new("usage", message);
    let complaint = why.into_iter().fold(complaint, Complaint::because);
    complaint.hint(hint(command, &path, error, &called))
}

/// The commands that the words lead to, the program's own first.
fn path<'a>(command: &'a Command, words: &[OsString]) -> Vec<&'a Command> {
    let mut path = vec![command];
    for word in words.iter().filter_map(|word| word.to_str()) {
        let at = path.last().copied().unwrap_or(command);
        match at.find_subcommand(word) {
            Some(sub) => path.push(sub),
            None if at.has_subcommands() || word.starts_with('-') => {}
            None => break,
        }
    }
    path
}

/// The word that clap does not know.
fn unknown(error: &clap::Error) -> Option<&str> {
    let kind = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => ContextKind::InvalidArg,
    };
    match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word),
        _ => None,
    }
}

/// The first sentence of clap's, and what stands below it, without tips and usage.
fn of_clap(error: &clap::Error) -> (String, Vec<String>) {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let mut why: Vec<String> = Vec::new();
    let mut message = first.trim_end_matches(':').to_owned();
    if let Some(source) = std::error::Error::source(error).map(ToString::to_string) {
        if let Some(before) = first.strip_suffix(&source) {
            message = before.trim_end_matches([':', ' ']).to_owned();
        }
        why.push(source);
    } else {
        why.extend(lines.map(|line| line.trim_matches(['[', ']']).to_owned()));
    }
    (message, why)
}

fn hint(command: &Command, path: &[&Command], error: &clap::Error, called: &str) -> String {
    let at = path.last().copied().unwrap_or(command);
    let runs = at.get_name() == "run";
    let known = match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
            let meant = || meant(error).map(|word| format!("did you mean {word}?"));
            let docker = || docker::hint(error, runs);
            docker().or_else(meant).or_else(|| elsewhere(command, unknown(error)?))
        }
        ErrorKind::ValueValidation if runs => unknown(error).and_then(of_flag),
        _ => None,
    };
    known.unwrap_or_else(|| format!("{called} --help"))
}

/// What clap proposes, if it is only mistyped.
fn meant(error: &clap::Error) -> Option<&str> {
    let typed = unknown(error)?;
    let proposed = match error.get(ContextKind::SuggestedArg) {
        None => error.get(ContextKind::SuggestedSubcommand),
        found => found,
    };
    let proposed: Vec<&str> = match proposed {
        Some(ContextValue::String(word)) => vec![word],
        Some(ContextValue::Strings(words)) => words.iter().map(String::as_str).collect(),
        _ => return None,
    };
    let close = proposed.into_iter().map(|word| (typos(typed, word), word));
    let (typos, word) = close.min_by_key(|(typos, _)| *typos)?;
    // Of a short word two letters are most of it.
    (typos <= TYPOS_MAX && typos * 3 <= word.len()).then_some(word)
}

/// How many letters are to be changed, added, left out, or exchanged with the next.
fn typos(typed: &str, meant: &str) -> usize {
    let (typed, meant): (Vec<char>, Vec<char>) = (typed.chars().collect(), meant.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=meant.len()).collect()];
    for (i, a) in typed.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in meant.iter().enumerate() {
            let changed = rows[i][j] + usize::from(a != b);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == meant[j - 1] && typed[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[typed.len()][meant.len()]
}

/// The commands that have a flag which this one does not.
fn elsewhere(command: &Command, word: &str) -> Option<String> {
    let word = word.split('=').next().unwrap_or(word);
    let has = |sub: &&Command| {
        let mut arguments = sub.get_arguments();
        arguments.any(|arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => arg.get_short().is_some_and(|short| word == format!("-{short}")),
        })
    };
    let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let names: Vec<_> =
        subs.filter(has).map(|sub| format!("`starling {}`", sub.get_name())).collect();
    (!names.is_empty()).then(|| format!("{word} is a flag of {}", names.join(", ")))
}

/// What may be written behind a flag of `run`; clap names it like `--memory <MEMORY>`.
fn of_flag(argument: &str) -> Option<String> {
    let flag = argument.split(' ').next().unwrap_or(argument);
    words::of_flag(flag).map(|word| word.hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(words: &str) -> Complaint {
        let command = crate::cli::command();
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        let all = std::iter::once("starling".into()).chain(words.clone());
        let error = command.clone().try_get_matches_from(all).expect_err("refused");
        complaint(&command, &error, &words)
    }

    #[test]
    fn there_is_one_error_and_one_hint_that_helps() {
        for (words, message, why, hint) in [
            ("history", "`starling` has no command history", "", "starling image inspect"),
            ("nosuch", "`starling` has no command nosuch", "", "starling --help"),
            ("statsu", "`starling` has no command statsu", "", "did you mean stat"),
            ("ps --rm", "`starling ps` has no flag --rm", "", "of `starling run`"),
            ("run --nmae x --exec x", "`starling run` has no flag --nmae", "", "mean --name?"),
            ("run --foo --exec x", "`starling run` has no flag --foo", "", "starling run --help"),
            ("ps --replicas 2", "`starling ps` has no flag --replicas", "", "of `starling run`"),
            ("exec --privileged t sh", "has no flag --privileged", "", "in starling run: --cap"),
            ("node ls x", "`starling node ls` cannot do anything with \"x\"", "", "node ls --help"),
            ("run -m -5 --exec x", "invalid value '-5' for '--memory", "like 512m", "like 64m"),
            ("run -m --exec x", "invalid value '--exec' for", "like 512m", "like 64m"),
            ("run --tmpfs x y", "invalid value 'x' for '--tmpfs", "in the container", "like /tmp"),
            ("run --network x y", "invalid value 'x'", "bridge, host and none", "starling doctor"),
            ("logs --tail x c", "invalid value 'x' for '--tail", "like 20, or all", "logs --help"),
            ("run --exec", "required arguments were not provided", "<IMAGE|CMD>...", "run --help"),
            ("--json exec", "required arguments were not provided", "<TASK>", "exec --help"),
        ] {
            let told = told_of(words);
            let given = told.hint.clone().unwrap_or_default();
            assert!(told.message.contains(message), "{words}: {told:?}");
            assert!(told.why.join("\n").contains(why), "{words}: {told:?}");
            assert!(given.contains(hint) && !given.contains("-- -"), "{words}: {told:?}");
            assert!(!told.message.contains('\n') && told.why.len() <= 2, "{words}: {told:?}");
        }
    }

    #[test]
    fn only_what_is_mistyped_is_proposed() {
        for (typed, meant, count) in
            [("statsu", "status", 1), ("nmae", "name", 1), ("ps", "ps", 0), ("nosuch", "nodes", 4)]
        {
            assert_eq!(typos(typed, meant), count, "{typed}");
        }
    }
}
