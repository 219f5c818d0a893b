//! `--restart`: Docker's four words as what they are here.
//!
//! ```text
//! no                        a batch, as without the flag
//! on-failure[:MAX]          a batch whose task is started again when it failed
//! always, unless-stopped    a service; stopping it ends it for good, as everywhere here
//! ```

use gossip_core::restart::Restart;
use gossip_core::spec::JobKind;

use crate::api::types::Complaint;

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartWord {
    /// `no`
    Never,
    /// `on-failure`, at most so often.
    OnFailure(Option<u32>),
    /// `always` and `unless-stopped`
    Always,
}

/// Reads one.
pub(crate) fn word(text: &str) -> Result<RestartWord, String> {
    let (name, most) = match text.split_once(':') {
        Some((name, most)) => (name, Some(most)),
        None => (text, None),
    };
    match (name, most) {
        ("no", None) => Ok(RestartWord::Never),
        ("always" | "unless-stopped", None) => Ok(RestartWord::Always),
        ("on-failure", None) => Ok(RestartWord::OnFailure(None)),
        ("on-failure", Some(most)) => match most.parse::<u32>() {
            // Docker's 0 is no limit.
            Ok(0) => Ok(RestartWord::OnFailure(None)),
            Ok(most) => Ok(RestartWord::OnFailure(Some(most))),
            Err(_) => Err(format!("{most:?} is no number of restarts, like on-failure:3")),
        },
        ("no" | "always" | "unless-stopped", Some(_)) => {
            Err(format!("only on-failure takes a number, not {name}"))
        }
        _ => Err("write no, on-failure, on-failure:3, always or unless-stopped".to_owned()),
    }
}

/// The kind of job, how many copies, and the rule of its task.
pub(crate) fn kind(
    word: Option<RestartWord>,
    replicas: Option<u32>,
    array: Option<u32>,
) -> Result<(JobKind, u32, Option<Restart>), Complaint> {
    let refused = |why: &str, hint: &str| {
        Err(Complaint::new("bad_spec", "this cannot be a job").because(why).hint(hint))
    };
    match (word, replicas, array) {
        (None | Some(RestartWord::Always), Some(replicas), _) => {
            Ok((JobKind::Service, replicas, None))
        }
        (Some(_), Some(_), _) => refused(
            "--restart: the copies of --replicas are kept running however they end",
            "leave out --replicas, or --restart",
        ),
        (Some(RestartWord::Always), None, Some(_)) => refused(
            "--restart: the tasks of an --array run to their end",
            "--replicas N keeps N copies running; --restart on-failure tries tasks again",
        ),
        (Some(RestartWord::Always), None, None) => Ok((JobKind::Service, 1, None)),
        (Some(RestartWord::OnFailure(most)), None, array) => {
            Ok((JobKind::Batch, array.unwrap_or(1), Some(Restart::OnFailure { most })))
        }
        (None | Some(RestartWord::Never), None, array) => {
            Ok((JobKind::Batch, array.unwrap_or(1), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_words_are_what_they_are_here() {
        use RestartWord::{Always, Never, OnFailure};
        for (text, meant) in [
            ("no", Never),
            ("always", Always),
            ("unless-stopped", Always),
            ("on-failure", OnFailure(None)),
            ("on-failure:0", OnFailure(None)),
            ("on-failure:3", OnFailure(Some(3))),
        ] {
            assert_eq!(word(text), Ok(meant), "{text}");
        }
        for bad in ["", "yes", "always:3", "no:1", "on-failure:", "on-failure:-1", "on-failure:x"] {
            assert!(word(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_word_and_the_copies_make_a_kind_or_are_refused() {
        let read = |text: &str, replicas, array| {
            let meant = (!text.is_empty()).then(|| word(text).expect(text));
            kind(meant, replicas, array).ok()
        };
        let rule = |most| Some(Restart::OnFailure { most });
        for (text, replicas, array, expected) in [
            ("", None, None, Some((JobKind::Batch, 1, None))),
            ("", Some(3), None, Some((JobKind::Service, 3, None))),
            ("", None, Some(9), Some((JobKind::Batch, 9, None))),
            ("no", None, Some(9), Some((JobKind::Batch, 9, None))),
            ("always", None, None, Some((JobKind::Service, 1, None))),
            ("always", Some(3), None, Some((JobKind::Service, 3, None))),
            ("on-failure:2", None, None, Some((JobKind::Batch, 1, rule(Some(2))))),
            ("on-failure", None, Some(9), Some((JobKind::Batch, 9, rule(None)))),
            ("no", Some(3), None, None),
            ("on-failure", Some(3), None, None),
            ("always", None, Some(9), None),
        ] {
            assert_eq!(read(text, replicas, array), expected, "{text} {replicas:?} {array:?}");
        }
    }
}
