//! From the words after `run` to a `JobSpec`.
//!
//! Pure: what a job is called, if nobody said, and the value of a variable
//! named alone (`-e HOME`) are handed in. Everything that can be known to be
//! wrong is refused here, before an agent is asked; the agent checks again.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use gossip_core::slot::{NAME_LENGTH_MAX, check_name};
use gossip_core::spec::{COUNT_MAX, JobKind, JobSpec, Program, STOP_GRACE_MS, Streams, TaskSpec};

use crate::agent::vet;
use crate::agent::words::{Fault, Reader};
use crate::api::types::Complaint;
use crate::cli::container::ContainerArgs;
use crate::cli::resources::ResourceArgs;
use crate::cli::times;

/// What should run, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobArgs {
    /// What to call the job; a name is made up from the command if not said
    #[arg(long, value_parser = job_name)]
    name: Option<String>,
    /// Run a plain process of whichever node, in no container
    #[arg(long, conflicts_with = "rootfs")]
    exec: bool,
    /// Keep this many copies running: a service
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)),
        conflicts_with = "array", help_heading = "Copies")]
    replicas: Option<u32>,
    /// Run this many tasks to their end: an array
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)),
        help_heading = "Copies")]
    array: Option<u32>,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Limit each process: nofile=1024:2048, core=0, memlock=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit, help_heading = "Resources")]
    ulimit: Vec<(String, String)>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable, help_heading = "Process")]
    env: Vec<(String, Option<String>)>,
    /// Start in this directory: of the container, or of the host for a process [default: / or scratch]
    #[arg(short, long, value_name = "DIR", value_parser = directory, help_heading = "Process")]
    workdir: Option<String>,
    /// Run as USER[:GROUP], by name or number; a process needs a node with --trust-jobs for it
    #[arg(short, long, help_heading = "Process")]
    user: Option<String>,
    /// What asks it to end, like SIGINT [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    stop_signal: Option<String>,
    /// Time between SIGTERM and SIGKILL, like 10, 30s or 5m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = times::parse, help_heading = "Process")]
    stop_timeout: Option<Duration>,
    /// Keep its standard input open; in the foreground, type into it
    #[arg(short, long, conflicts_with_all = ["replicas", "array"], help_heading = "Process")]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long, conflicts_with_all = ["replicas", "array"], help_heading = "Process")]
    tty: bool,
    #[command(flatten)]
    container: ContainerArgs,
    /// The program and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Where a keyboard goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyboard {
    /// Nowhere.
    Unused,
    /// Into the job, as it is typed line by line or read from a pipe.
    Lines,
    /// Into the job's terminal, key by key.
    Terminal,
}

impl JobArgs {
    /// Where the keyboard of whoever runs it in the foreground goes.
    pub(crate) fn keyboard(&self) -> Keyboard {
        match (self.interactive, self.tty) {
            (false, _) => Keyboard::Unused,
            (true, false) => Keyboard::Lines,
            (true, true) => Keyboard::Terminal,
        }
    }

    /// The job, checked. `made_up` ends the name of a job without one; `variable` looks up
    /// the value of a variable named alone.
    pub(crate) fn spec(
        self,
        made_up: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<JobSpec, Complaint> {
        if self.container.lacks_rootfs() {
            return Err(Complaint::new("bad_spec", "only a container has these")
                .because("there is no --rootfs, and some flag is for containers alone")
                .hint("starling run --help   which, under Container"));
        }
        if !self.exec && self.container.rootfs.is_none() {
            return Err(no_images(&self.command));
        }
        self.container.check_ports()?;
        let name = self.name.unwrap_or_else(|| name_for(&self.command, made_up));
        let (kind, count) = match (self.replicas, self.array) {
            (Some(replicas), _) => (JobKind::Service, replicas),
            (None, array) => (JobKind::Batch, array.unwrap_or(1)),
        };
        let grace = self
            .stop_timeout
            .map_or(STOP_GRACE_MS, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let (argv, directory, user) = (self.command, self.workdir, self.user);
        let run = match self.container.spec(argv.clone(), directory.clone(), user.clone()) {
            Some(container) => Program::Container(Box::new(container)),
            None => Program::Process { argv, directory, user },
        };
        let task = TaskSpec {
            env: variables(self.env, variable),
            resources: self.resources.ask(),
            oom_score_adj: self.resources.oom_score_adj,
            limits: self.resources.limits()?,
            ulimits: self.ulimit.into_iter().collect(),
            streams: match (self.tty, self.interactive) {
                (true, _) => Streams::Terminal,
                (false, true) => Streams::Input,
                (false, false) => Streams::Closed,
            },
            stop_signal: self.stop_signal,
            stop_grace_ms: grace,
            ..TaskSpec::of(run)
        };
        let spec = JobSpec::of_task(name, kind, count, task);
        let refused = |fault: Fault| fault.complaint("bad_spec", Reader::Flags);
        spec.check().map_err(|bad| refused(Fault::of_spec(bad)))?;
        vet(&spec).map_err(refused)?;
        Ok(spec)
    }
}

fn no_images(command: &[String]) -> Complaint {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    Complaint::new("not_yet", "images are not in this version yet")
        .because("what runs is a plain process of the host or a container over files it has")
        .hint(format!(
            "starling run --exec -- {}   or starling run --rootfs DIR|TAR -- CMD",
            words.join(" ")
        ))
}

fn job_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|bad| bad.to_string())
}

fn directory(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("it must be absolute, like /srv/app: it is a directory of whichever host".to_owned())
}

fn ulimit(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it like nofile=1024 or nofile=1024:2048".to_owned()),
    }
}

/// `NAME=VALUE`, or `NAME` for the value that it has here.
pub(crate) fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("it needs a name, like NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// As Docker: what is named alone and not set here is not set there.
pub(crate) fn variables(
    given: Vec<(String, Option<String>)>,
    here: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let valued = |(name, value): (String, Option<String>)| {
        let value = value.or_else(|| here(&name))?;
        Some((name, value))
    };
    given.into_iter().filter_map(valued).collect()
}

/// `sleep-k3f9x` for `/bin/sleep 10`.
fn name_for(command: &[String], made_up: &str) -> String {
    let program = command.first().map_or("", String::as_str);
    let file = program.rsplit('/').next().unwrap_or_default().to_lowercase();
    let letters = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let room = NAME_LENGTH_MAX.saturating_sub(made_up.len() + 1);
    let label: String = file.chars().map(letters).take(room).collect();
    match label.trim_matches('-') {
        "" => format!("job-{made_up}"),
        label => format!("{label}-{made_up}"),
    }
}

/// The end of a made-up name: letters that are not mistaken for each other.
pub(crate) fn made_up(mut random: u64) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut text = String::new();
    for _ in 0..5 {
        let at = usize::try_from(random % 32).unwrap_or(0);
        text.push(char::from(LETTERS[at]));
        random /= 32;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use gossip_core::limits::TaskLimits;
    use gossip_core::resources::{DEFAULT_ASK, Resources};

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        job: JobArgs,
    }

    fn read(words: &str) -> Result<JobSpec, Complaint> {
        let words = Words::try_parse_from(std::iter::once("run").chain(words.split(' ')));
        let words = words.map_err(|e| Complaint::new("usage", e.to_string()))?;
        words.job.spec("abc23", |name| (name == "HOME").then(|| "/root".to_owned()))
    }

    fn task(spec: &JobSpec) -> &TaskSpec {
        &spec.groups[0].tasks[0]
    }

    #[test]
    fn words_become_jobs() {
        type Check = fn(&JobSpec) -> bool;
        let cases: [(&str, Check); 16] = [
            ("--exec -- true", |s| s.kind == JobKind::Batch && s.groups[0].count == 1),
            ("--exec true", |s| s.name == "true-abc23"),
            ("--exec -- /usr/bin/My_App -v", |s| s.name == "my-app-abc23"),
            ("--exec --name web sleep 1", |s| s.name == "web"),
            ("--exec --replicas 3 x", |s| s.kind == JobKind::Service && s.groups[0].count == 3),
            ("--exec --array 9 x", |s| s.kind == JobKind::Batch && s.groups[0].count == 9),
            ("--exec --cpus 1.5 -m 1g x", |s| {
                task(s).resources == Resources { cpu_milli: 1500, memory_bytes: 1 << 30 }
            }),
            ("--exec --cpus 2 --reserve-cpu 0.5 x", |s| {
                task(s).resources.cpu_milli == 500 && task(s).limits.cpu_milli == Some(2000)
            }),
            ("--exec x", |s| task(s).limits == TaskLimits::default()),
            ("--exec -u web:web --ulimit nofile=10:20 x", |s| {
                s.groups[0].needs_trust().is_some()
                    && task(s).rlimits().eq([Some(("nofile", 10, 20))])
            }),
            ("--rootfs /srv/r -v /srv/d:/d -p 80 --user 7 sh -c x", |s| {
                let Program::Container(container) = &task(s).run else { return false };
                container.argv == ["sh", "-c", "x"]
                    && container.user.as_deref() == Some("7")
                    && (container.mounts.len(), container.ports.len()) == (1, 1)
                    && s.groups[0].needs_trust().is_none()
            }),
            ("--exec x", |s| task(s).resources == DEFAULT_ASK && task(s).stop_grace_ms == 10_000),
            ("--exec -e A=b=c -e HOME -e UNSET x", |s| {
                let env: Vec<_> = task(s).env.iter().map(|(k, v)| format!("{k}:{v}")).collect();
                env == ["A:b=c", "HOME:/root"]
            }),
            ("--exec --stop-timeout 3 x", |s| task(s).stop_grace_ms == 3000),
            ("--exec -w /srv x --name y -d", |s| {
                let argv = ["x", "--name", "y", "-d"].map(str::to_owned).to_vec();
                let directory = Some("/srv".to_owned());
                task(s).run == Program::process(argv, directory)
            }),
            ("--exec -- -weird", |s| {
                let argv = vec!["-weird".to_owned()];
                task(s).run == Program::process(argv, None)
            }),
        ];
        for (words, check) in cases {
            let spec = read(words).expect(words);
            assert!(check(&spec), "{words}: {spec:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_job_is_refused_before_anybody_is_asked() {
        let cases = [
            ("nginx", "not_yet"),
            ("--exec --replicas 2 --array 2 x", "usage"),
            ("--exec --array 0 x", "usage"),
            ("--exec --array 20001 x", "usage"),
            ("--exec --cpus x x", "usage"),
            ("--exec", "usage"),
            ("--exec --name Web x", "usage"),
            ("--exec -e =x x", "usage"),
            ("--exec -w srv x", "usage"),
            ("--exec --stop-timeout 25h x", "bad_spec"),
            ("--exec --stop-signal NONE x", "bad_spec"),
            ("--exec --ulimit nofile=2:1 x", "bad_spec"),
            ("--exec --rootfs /r x", "usage"),
            ("--exec -v /a:/b x", "bad_spec"),
            ("--rootfs r x", "usage"),
            ("--rootfs /r --network host -p 80 x", "bad_spec"),
        ];
        for (words, code) in cases {
            assert_eq!(read(words).expect_err(words).code, code, "{words}");
        }
    }

    #[test]
    fn ports_without_a_bridge_are_refused_in_plain_words() {
        for network in ["host", "none"] {
            let words = format!("--rootfs /r --network {network} -p 80 x");
            let told = read(&words).expect_err("refused");
            assert!(told.why.concat().contains(&format!("--network {network}")), "{told:?}");
            assert!(told.hint.is_some_and(|hint| hint.contains("leave out -p")));
        }
    }

    #[test]
    fn a_made_up_name_is_a_name_however_odd_the_command() {
        for command in ["/", "...", "ü", &"x".repeat(200), "a b"] {
            let name = name_for(&[command.to_owned()], &made_up(u64::MAX));
            assert_eq!(gossip_core::slot::check_name(&name), Ok(()), "{name}");
        }
    }
}
