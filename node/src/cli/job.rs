//! From the words after `run` to a `JobSpec`.
//!
//! ```text
//! --exec CMD…          a plain process
//! --rootfs DIR CMD…    a container over files of the node
//! IMAGE [CMD…]         a container from an image
//! ```
//!
//! Pure: what a job is called, if nobody said, the value of a variable
//! named alone (`-e HOME`) and what files say are handed in. Everything that can be known to be
//! wrong is refused here, before an agent is asked; the agent checks again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::vet;
use crate::agent::words::{Fault, Reader};
use crate::api::types::Complaint;
use crate::cli::container::ContainerArgs;
use crate::cli::health::HealthArgs;
use crate::cli::job_name::{image_label, name_for};
use crate::cli::listed::{self, Pair};
use crate::cli::resources::ResourceArgs;
use crate::cli::restart::{self, RestartWord};
use crate::cli::ship::Shipment;
use crate::cli::times;
use clap::Args;
use gossip_core::container::RootSpec;
use gossip_core::health::HealthSpec;
use gossip_core::slot::check_name;
use gossip_core::spec::{COUNT_MAX, JobSpec, Program, STOP_GRACE_MS, Streams, TaskSpec};

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
    /// When what ended is started again: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "WHEN", value_parser = restart::word, help_heading = "Copies")]
    restart: Option<RestartWord>,
    /// Say something about the job: NAME[=VALUE]
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    label: Vec<Pair>,
    /// Take labels from a file, a line each
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Limit each process: nofile=1024:2048, core=0, memlock=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit, help_heading = "Resources")]
    ulimit: Vec<(String, String)>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable, help_heading = "Process")]
    env: Vec<Pair>,
    /// Take variables from a file, a line each: NAME=VALUE, or NAME alone
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    env_file: Vec<PathBuf>,
    /// Start in this directory: of the container, or of the host for a process [default: / or scratch]
    #[arg(short, long, value_name = "DIR", value_parser = directory, help_heading = "Process")]
    workdir: Option<String>,
    /// Run as USER[:GROUP], by name or number; a process needs a node with --trust-jobs for it
    #[arg(short, long, help_heading = "Process")]
    user: Option<String>,
    /// What asks it to end, like SIGINT [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL, like 10, 30s or 5m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = times::parse, help_heading = "Process")]
    stop_timeout: Option<Duration>,
    /// Keep its standard input open; in the foreground, type into it
    #[arg(short, long, conflicts_with_all = ["replicas", "array"], help_heading = "Process")]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long, conflicts_with_all = ["replicas", "array"], help_heading = "Process")]
    tty: bool,
    /// Bring a file or a directory (DIR/. for what is in it) to where a process starts, so
    /// that ./NAME is there on whichever node
    #[arg(
        long,
        value_name = "PATH",
        requires = "exec",
        conflicts_with = "workdir",
        help_heading = "Process"
    )]
    ship: Vec<PathBuf>,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    container: ContainerArgs,
    /// An image, and what runs in it where not its own program; behind --exec and --rootfs
    /// the program and its arguments alone
    #[arg(
        value_name = "IMAGE|CMD",
        trailing_var_arg = true,
        required_unless_present = "entrypoint"
    )]
    command: Vec<String>,
}

/// What words alone do not say.
pub(crate) struct Outside<'a> {
    /// How the name of a job without one ends.
    pub(crate) made_up: &'a str,
    /// The value that a variable has here.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// What is in a file, up to [`listed::FILE_BYTES_MAX`] and a byte.
    pub(crate) file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
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
    /// What it brings along.
    pub(crate) fn shipment(&self) -> Result<Option<Shipment>, Complaint> {
        Shipment::of(&self.ship)
    }

    /// Where the keyboard of whoever runs it in the foreground goes.
    pub(crate) fn keyboard(&self) -> Keyboard {
        match (self.interactive, self.tty) {
            (false, _) => Keyboard::Unused,
            (true, false) => Keyboard::Lines,
            (true, true) => Keyboard::Terminal,
        }
    }

    /// The job, checked.
    pub(crate) fn spec(mut self, outside: &Outside<'_>) -> Result<JobSpec, Complaint> {
        if self.exec && self.container.says_anything() {
            return Err(Complaint::new("bad_spec", "only a container has these")
                .because("there is --exec, and some flag is for containers alone")
                .hint("starling run --help   which, under Container"));
        }
        self.container.check_ports()?;
        let (env, labels) = (self.variables(outside)?, self.labels(outside)?);
        let (label, run) = self.program()?;
        let health = std::mem::take(&mut self.health).spec();
        check_health(health.as_ref(), &run)?;
        let name = self.name.unwrap_or_else(|| name_for(&label, outside.made_up));
        let (kind, count, restart) = restart::kind(self.restart, self.replicas, self.array)?;
        let grace = self
            .stop_timeout
            .map_or(STOP_GRACE_MS, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let task = TaskSpec {
            env,
            restart,
            health,
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
        let mut spec = JobSpec::of_task(name, kind, count, task);
        spec.labels = labels;
        let refused = |fault: Fault| fault.complaint("bad_spec", Reader::Flags);
        spec.check().map_err(|bad| refused(Fault::of_spec(bad)))?;
        vet(&spec).map_err(refused)?;
        Ok(spec)
    }

    /// What runs, and what it is called after.
    fn program(&mut self) -> Result<(String, Program), Complaint> {
        let mut words = std::mem::take(&mut self.command);
        let (directory, user) = (self.workdir.take(), self.user.take());
        let container = std::mem::take(&mut self.container);
        let first = words.first().cloned();
        let (label, root) = match (&container.rootfs, first) {
            (None, Some(label)) if self.exec => {
                let files = Shipment::of(&self.ship)?.map(|shipment| shipment.spec());
                return Ok((label, Program::Process { argv: words, directory, user, files }));
            }
            (Some(path), first) => {
                container.check_without_image()?;
                let label = container.entrypoint.clone().filter(|word| !word.is_empty());
                (label.or(first).unwrap_or_default(), RootSpec::Path(path.clone()))
            }
            (None, Some(name)) => {
                words.remove(0);
                let label = image_label(&name)?;
                (label, RootSpec::Image(container.image(name)))
            }
            (None, None) => {
                return Err(Complaint::new("usage", "there is nothing to run")
                    .because("no image is named")
                    .hint("starling run --entrypoint PROGRAM IMAGE ARGUMENTS"));
            }
        };
        let container = container.spec(root, words, directory, user);
        Ok((label, Program::Container(Box::new(container))))
    }

    /// As Docker: those of files first, so that those of the command line count.
    fn variables(&mut self, outside: &Outside<'_>) -> Result<BTreeMap<String, String>, Complaint> {
        let mut given = Vec::new();
        for path in &self.env_file {
            given.extend(listed::pairs("--env-file", path, outside.file)?);
        }
        given.append(&mut self.env);
        Ok(variables(given, outside.variable))
    }

    /// As Docker: a label without a value has an empty one.
    fn labels(&mut self, outside: &Outside<'_>) -> Result<BTreeMap<String, String>, Complaint> {
        let mut given = Vec::new();
        for path in &self.label_file {
            given.extend(listed::pairs("--label-file", path, outside.file)?);
        }
        given.append(&mut self.label);
        Ok(given.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect())
    }
}

/// Refuses what changes a check that is not there.
fn check_health(health: Option<&HealthSpec>, run: &Program) -> Result<(), Complaint> {
    let image = matches!(run, Program::Container(container) if container.image().is_some());
    if image || health.is_none_or(|health| health.test.is_some()) {
        return Ok(());
    }
    Err(Complaint::new("bad_spec", "this cannot be a job")
        .because("health: there is no image whose check could be changed")
        .hint("--health-cmd LINE   says what is run to ask it"))
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
pub(crate) fn variable(text: &str) -> Result<Pair, String> {
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
    given: Vec<Pair>,
    here: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let valued = |(name, value): Pair| {
        let value = value.or_else(|| here(&name))?;
        Some((name, value))
    };
    given.into_iter().filter_map(valued).collect()
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
