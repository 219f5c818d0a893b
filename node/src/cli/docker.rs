//! Docker's words that mean nothing here, and what does instead: for the error that whoever
//! typed one gets.
//!
//! Words that mean the same are plain aliases of ours and do not stand here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of `docker run` and its kin.
const FLAGS: [(&str, &str); 16] = [
    ("--rm", "what a task leaves goes with its job: starling rm JOB"),
    ("--restart", "--replicas N keeps N copies running, started again when they end"),
    ("--privileged", "--cap-add ALL, or --trust host-ids on nodes with --trust-jobs"),
    ("--security-opt", "--trust all-calls or system-paths, on nodes with --trust-jobs"),
    ("--userns", "a container has ids of its own; --trust host-ids gives it the node's"),
    ("--mount", "-v SOURCE:TARGET[:ro], or --tmpfs TARGET[:size=64m]"),
    ("--env-file", "-e NAME=VALUE sets one, -e NAME takes it from here"),
    ("--entrypoint", "what stands behind -- is all that runs: run … -- PROGRAM ARGUMENTS"),
    ("--gpus", "--device /dev/… shows a device of the node"),
    ("-P", "-p HOST:CONTAINER leads one port of the node into it"),
    ("--publish-all", "-p HOST:CONTAINER leads one port of the node into it"),
    ("--dns", "a container asks whom its node asks"),
    ("--ip", "addresses are given out by the node; -p leads into a container"),
    ("--cpu-shares", "--reserve-cpu CORES is its share under contention"),
    ("--log-driver", "starling logs JOB   keeps the last 8 to 16 MiB of each start"),
    ("--no-trunc", "columns are cut on a terminal alone; --json has all"),
];

/// Commands of `docker`.
const COMMANDS: [(&str, &str); 10] = [
    ("build", "build elsewhere; docker save IMAGE | starling image load"),
    ("history", "starling image inspect IMAGE"),
    ("inspect", "starling ps -a JOB --json, starling why JOB; starling image inspect IMAGE"),
    ("restart", "starling stop JOB, and run it again; services start again by themselves"),
    ("start", "starling run …; what was stopped stays so"),
    ("create", "starling run -d …"),
    ("info", "starling status, and starling doctor for this host"),
    ("volume", "-v NAME:TARGET makes a volume where its task runs"),
    ("network", "--network bridge, host or none"),
    ("compose", "one starling run for each service"),
];

/// Flags of other commands as well.
const EVERYWHERE: [&str; 2] = ["--rm", "--no-trunc"];

/// What to type instead, for an error about a word that is not known; `runs` if it was
/// typed behind `run`.
pub(super) fn hint(error: &clap::Error, runs: bool) -> Option<String> {
    let (kind, known): (_, &[_]) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, &FLAGS),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, &COMMANDS),
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(kind) else { return None };
    let word = word.split('=').next().unwrap_or_default();
    let (_, hint) = known.iter().find(|(of_docker, _)| *of_docker == word)?;
    let of_run = kind == ContextKind::InvalidArg && !runs && !EVERYWHERE.contains(&word);
    Some(if of_run { format!("in starling run: {hint}") } else { (*hint).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn refused(words: &str) -> clap::Error {
        let words = std::iter::once("starling").chain(words.split(' '));
        command().try_get_matches_from(words).expect_err("refused")
    }

    #[test]
    fn a_flag_is_never_taken_for_the_command_to_run() {
        for words in
            ["run --rootfs /r --rm -- sh", "run --exec --entrypoint=sh x", "run --mount a x"]
        {
            let error = refused(words);
            assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{words}");
            assert!(hint(&error, true).is_some(), "{words}: {error}");
        }
        let error = refused("exec --detach t sh");
        assert_eq!((error.kind(), hint(&error, false)), (ErrorKind::UnknownArgument, None));
        for fine in [
            "run --exec -- -weird",
            "run --exec sh -c x --rm",
            "exec t ls --rm",
            "rm -f x",
            "stats --no-stream",
            "run --rootfs /r --net host sh",
        ] {
            let words = std::iter::once("starling").chain(fine.split(' '));
            assert!(command().try_get_matches_from(words).is_ok(), "{fine}");
        }
    }

    #[test]
    fn commands_of_docker_lead_to_ours() {
        assert!(hint(&refused("build ."), false).is_some_and(|hint| hint.contains("image load")));
        assert!(
            hint(&refused("inspect web"), false).is_some_and(|hint| hint.contains("starling ps"))
        );
        assert_eq!(hint(&refused("frobnicate"), false), None);
    }

    #[test]
    fn no_word_of_ours_stands_among_dockers() {
        let command = command();
        for (word, _) in COMMANDS {
            assert!(command.find_subcommand(word).is_none(), "{word}");
        }
        let run = command.find_subcommand("run").expect("run");
        for (word, _) in FLAGS {
            let known =
                |arg: &clap::Arg| arg.get_long().is_some_and(|long| word == format!("--{long}"));
            assert!(!run.get_arguments().any(known), "{word}");
        }
    }
}
