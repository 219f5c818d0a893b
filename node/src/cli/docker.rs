//! Docker's words that mean nothing here, and what does instead: for the error that whoever
//! typed one gets.
//!
//! Words that mean the same are plain aliases of ours and do not stand here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of `docker run` and its kin, and of `podman run` where people know those better.
const FLAGS: [(&str, &str); 59] = [
    ("--annotation", LABELS),
    ("--attach", FOREGROUND),
    ("-a", FOREGROUND),
    ("--blkio-weight-device", "--blkio-weight is for all disks; --device-read-bps limits one"),
    ("--cgroup-parent", CGROUPS),
    ("--cgroupns", CGROUPS),
    ("--cpu-count", CORES),
    ("--cpu-percent", CORES),
    ("--cpu-period", CORES),
    ("--cpu-quota", CORES),
    ("--cpu-rt-period", REAL_TIME),
    ("--cpu-rt-runtime", REAL_TIME),
    ("--cpu-shares", "--reserve-cpu CORES is its share under contention"),
    ("-c", "--reserve-cpu CORES is its share under contention"),
    ("--cpuset-mems", "--cpuset-cpus LIST binds it to processors; memory follows them"),
    ("--detach-keys", "Ctrl-P Ctrl-Q leaves starling attach; they cannot be changed"),
    ("--device-cgroup-rule", "--device /dev/… shows one device of the node"),
    ("--disable-content-trust", "signatures of images are not looked at; NAME@sha256:… pins one"),
    ("--domainname", "--hostname NAME is all it calls itself"),
    ("--expose", "ports of a container need no leave; -p HOST:CONTAINER leads there"),
    ("--gpus", "not there yet; --device /dev/nvidia0 --device /dev/nvidiactl … shows a node's"),
    ("--group-add", "-u USER:GROUP is one group; more cannot be said yet"),
    ("--health-start-interval", "--health-interval is kept in the start period, too"),
    ("--ip", "addresses are given out by the node; -p leads into a container"),
    ("--ip6", "addresses are given out by the node; -p leads into a container"),
    ("--link-local-ip", "addresses are given out by the node; -p leads into a container"),
    ("--mac-address", "addresses are given out by the node; -p leads into a container"),
    ("--ipc", "shared memory is a container's own; --shm-size says how much"),
    ("--isolation", "a container has namespaces, ids and a seccomp filter of its own"),
    ("--kernel-memory", "-m counts the kernel's memory of a task with its own"),
    ("--link", "--network bridge: containers of one node reach each other by address"),
    ("--network-alias", "--network bridge: containers of one node reach each other by address"),
    ("--net-alias", "--network bridge: containers of one node reach each other by address"),
    ("--log-driver", LOGS),
    ("--log-opt", LOGS),
    ("--memory-swappiness", "--memory-swap says how much swap it may use"),
    ("--no-trunc", "columns are cut on a terminal alone; --json has all"),
    ("--oom-kill-disable", "--oom-score-adj N says how willingly it is killed; a limit stays one"),
    ("--pid", "a container sees its own processes; starling top TASK lists them"),
    ("--pod", "one job for each; --network host lets them reach each other on one node"),
    (
        "--privileged",
        "--cap-add ALL, --device /dev/…, --trust host-ids, all-calls, system-paths: what it needs",
    ),
    ("-P", PORTS),
    ("--publish-all", PORTS),
    ("--runtime", "containers run by the node's own runtime; starling doctor says what it can"),
    ("--sig-proxy", "in the foreground Ctrl-C stops the job; starling kill sends other signals"),
    ("--storage-opt", "changes to a root are kept on the node's disk; --tmpfs and -v have sizes"),
    ("--use-api-socket", "-v PATH:PATH shows a socket of the node, on nodes with --trust-jobs"),
    ("--userns", "a container has ids of its own; --trust host-ids gives it the node's"),
    ("--uidmap", "a container has ids of its own; --trust host-ids gives it the node's"),
    ("--gidmap", "a container has ids of its own; --trust host-ids gives it the node's"),
    ("--uts", "--hostname NAME is what it calls itself"),
    ("--volume-driver", VOLUMES),
    ("--volumes-from", VOLUMES),
    ("--env-host", "-e NAME takes one variable from here, --env-file FILE several"),
    ("--env-merge", "-e NAME=VALUE sets one"),
    ("--systemd", "--init runs a small first process; systemd is not set up for"),
    ("--secret", "secrets are not there yet; --env-file FILE hands variables over"),
    ("--requires", "one job for each; starling wait JOB waits for one"),
    ("--replace", "starling rm JOB && starling run …"),
];

const LABELS: &str = "--label NAME=VALUE says something about a job";
const FOREGROUND: &str =
    "in the foreground its output is shown, and -i types into it; -d leaves it";
const CGROUPS: &str = "control groups are made by the node; -m, --cpus and their like are limits";
const CORES: &str = "--cpus CORES holds it to them, like 0.5";
const REAL_TIME: &str =
    "real-time scheduling is not given; --cpuset-cpus LIST keeps processors apart";
const LOGS: &str = "starling logs JOB   keeps the last 8 to 16 MiB of each start";
const PORTS: &str = "-p HOST:CONTAINER leads one port of the node into it";
const VOLUMES: &str = "-v NAME:TARGET is the same volume for every task of that node that names it";

/// Commands of `docker`.
const COMMANDS: [(&str, &str); 10] = [
    ("build", "docker build or podman build, then docker save NAME | starling image load"),
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
const EVERYWHERE: [&str; 1] = ["--no-trunc"];

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
            ["run --rootfs /r -P -- sh", "run --exec --userns=host x", "run --privileged x"]
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
            "run --rm alpine --privileged",
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
        let hint_of = |words| hint(&refused(words), false).unwrap_or_default();
        assert!(hint_of("build .").contains("image load"));
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
        for (word, hint) in FLAGS {
            assert!(!hint.is_empty() && hint.len() < 120, "{word}");
            let known =
                |arg: &clap::Arg| arg.get_long().is_some_and(|long| word == format!("--{long}"));
            assert!(!run.get_arguments().any(known), "{word}");
        }
    }
}
