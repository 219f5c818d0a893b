//! Driving one host's agent the way its user would: through the `starling` binary.
//!
//! Each call runs in the host's namespace with the host's flags, its output in
//! a file: the agent that `up` leaves behind may keep the file open, whereas a
//! pipe would never end. Data and socket also go into the environment, which
//! every process of the host inherits and is found by.
//!
//! Must never let the caller's own `STARLING_*` variables through.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::hosts;
use super::netns::{self, NetnsError};
use super::{Fabric, Host, MEMBER_PORT};

/// An agent is ready in well under a second; over a tormented network a join may take many tries.
const STARTING: Duration = Duration::from_secs(60);
/// An agent's drain has a deadline of its own; after this it is killed anyway.
const STOPPING: Duration = Duration::from_secs(30);
/// How much of what a failed call said is repeated.
const SAID_BYTES: usize = 600;

/// Why a call of `starling` did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("this fabric was built without agents")]
    NoAgent,
    #[error("cannot start {}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("`starling {verb}` on {host} ended with {status}: {said}")]
    Failed { verb: &'static str, host: String, status: ExitStatus, said: String },
    #[error("`starling {verb}` on {host} took longer than {} s", limit.as_secs())]
    TooSlow { verb: &'static str, host: String, limit: Duration },
    #[error("`starling invite` on {host} printed no token")]
    NoToken { host: String },
}

/// The agent of one host.
#[derive(Debug)]
pub struct Agent<'a> {
    fabric: &'a Fabric,
    host: &'a Host,
    program: &'a Path,
}

impl<'a> Agent<'a> {
    pub fn of(fabric: &'a Fabric, host: &'a Host) -> Result<Self, AgentError> {
        let program = fabric.starling.as_deref().ok_or(AgentError::NoAgent)?;
        Ok(Self { fabric, host, program })
    }

    /// Starts the agent: of a cluster of its own, or of the one it is in.
    pub fn up(&self) -> Result<(), AgentError> {
        self.call("up", &self.identity("up"), STARTING).map(drop)
    }

    /// Asks for a token that lets so many others join.
    pub fn invite(&self, uses: usize) -> Result<String, AgentError> {
        let uses = uses.to_string();
        let arguments = ["invite", "--uses", &uses].map(OsStr::new);
        let said = self.call("invite", &arguments, STARTING)?;
        // Alone, or at the end of the command that uses it.
        let token = said.lines().rev().find_map(|line| line.split_whitespace().last());
        token.map(str::to_owned).ok_or_else(|| AgentError::NoToken { host: self.host.name.clone() })
    }

    /// Starts the agent as a member of the cluster that made the token.
    pub fn join(&self, token: &str) -> Result<(), AgentError> {
        let mut arguments = self.identity("join");
        arguments.insert(1, token.as_ref());
        self.call("join", &arguments, STARTING).map(drop)
    }

    /// Stops the agent and its tasks.
    pub fn down(&self) -> Result<(), AgentError> {
        let arguments = ["down", "--stop-tasks"].map(OsStr::new);
        self.call("down", &arguments, STOPPING).map(drop)
    }

    fn identity(&self, verb: &'static str) -> Vec<&OsStr> {
        let host = self.host;
        vec![
            verb.as_ref(),
            "--data".as_ref(),
            host.data.as_ref(),
            "--name".as_ref(),
            host.name.as_ref(),
        ]
    }

    /// Runs `starling` to its end and gives what it printed.
    fn call(
        &self,
        verb: &'static str,
        arguments: &[&OsStr],
        limit: Duration,
    ) -> Result<String, AgentError> {
        let (program, host) = (self.program, self.host.name.clone());
        let start = |source| AgentError::Start { program: program.to_owned(), source };
        let [out, err] =
            ["out", "err"].map(|kind| self.fabric.log(&format!("{host}.{verb}.{kind}")));
        let mut command = Command::new(program);
        clean(&mut command);
        command
            .args(["--socket".as_ref(), self.host.socket.as_os_str()])
            .args(arguments)
            .env("STARLING_DATA", &self.host.data)
            .env("STARLING_SOCKET", &self.host.socket)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(File::create(&out).map_err(start)?)
            .stderr(File::create(&err).map_err(start)?);
        if matches!(verb, "up" | "join") {
            let address = format!("{}:{MEMBER_PORT}", self.host.address);
            command.args(["--listen", &address]);
        }
        let mut child = match &self.host.namespace {
            Some(name) => netns::within(name, || command.spawn())?,
            None => command.spawn(),
        }
        .map_err(start)?;
        let ended = Pid::from_raw(child.id().cast_signed())
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .is_none_or(|fd| hosts::ends_by(&fd.as_fd(), Instant::now() + limit));
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().map_err(start)?;
        if !ended {
            return Err(AgentError::TooSlow { verb, host, limit });
        }
        if !status.success() {
            let said = last_words(&[&err, &out]);
            return Err(AgentError::Failed { verb, host, status, said });
        }
        Ok(fs::read_to_string(&out).unwrap_or_default())
    }
}

/// Removes what would make a child talk to another agent than meant.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STARLING_") {
            command.env_remove(name);
        }
    }
}

fn last_words(logs: &[&Path]) -> String {
    let texts = logs.iter().filter_map(|path| fs::read(path).ok());
    let text = texts
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().replace('\n', "; "))
        .find(|text| !text.is_empty())
        .unwrap_or_else(|| "it said nothing".to_owned());
    let skipped = text.chars().count().saturating_sub(SAID_BYTES);
    text.chars().skip(skipped).collect()
}
