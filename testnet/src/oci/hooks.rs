//! Programs that a bundle wants run at certain moments of its container's life.
//!
//! ```text
//! create  namespaces, mounts ─▶ prestart, createRuntime ─▶ createContainer ─▶ pivot ─▶ created
//! start   startContainer ─▶ its program ─▶ poststart
//! delete  all removed ─▶ poststop
//! ```
//!
//! They run with our rights and their own environment, and read the container's state on
//! their standard input. Those that belong inside are led there by `nsenter` of util-linux.

use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::config::Hook;

/// Of util-linux, which every distribution has.
const NSENTER: &str = "/usr/bin/nsenter";

/// How often a hook with a time limit is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Where a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// As we do.
    Host,
    /// In the container's namespaces, its program looked for there: before its root is
    /// entered, that is among the host's files.
    Inside {
        /// The container's first process.
        pid: u32,
    },
}

/// A hook that did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error("{field}: cannot run {program}")]
    Run { field: String, program: String, source: io::Error },
    #[error("{field}: {program} ended with {status}")]
    Failed { field: String, program: String, status: ExitStatus },
    #[error("{field}: {program} took longer than {seconds} s")]
    Late { field: String, program: String, seconds: u64 },
}

/// Runs hooks in their order; the first that fails ends it. `kind` is their name.
pub(super) fn run(
    kind: &str,
    hooks: Option<&Vec<Hook>>,
    place: Where,
    state: &str,
) -> Result<(), HookError> {
    for (at, hook) in hooks.into_iter().flatten().enumerate() {
        run_one(&format!("hooks.{kind}[{at}]"), hook, place, state)?;
    }
    Ok(())
}

/// Runs all hooks in their order, whether others fail or not; says which did.
pub(super) fn run_all(kind: &str, hooks: Option<&Vec<Hook>>, state: &str) -> Vec<HookError> {
    let hooks = hooks.into_iter().flatten().enumerate();
    let run = |(at, hook)| run_one(&format!("hooks.{kind}[{at}]"), hook, Where::Host, state).err();
    hooks.filter_map(run).collect()
}

fn command(hook: &Hook, place: Where) -> Command {
    let args = hook.args.iter().flatten();
    match place {
        Where::Host => {
            use std::os::unix::process::CommandExt as _;
            let mut command = Command::new(&hook.path);
            if let Some(name) = hook.args.as_ref().and_then(|args| args.first()) {
                command.arg0(name);
            }
            command.args(args.skip(1));
            command
        }
        Where::Inside { pid } => {
            let mut command = Command::new(NSENTER);
            command.args(["--target", &pid.to_string(), "--all", "--root", "--wd", "--"]);
            command.arg(&hook.path).args(args.skip(1));
            command
        }
    }
}

fn run_one(field: &str, hook: &Hook, place: Where, state: &str) -> Result<(), HookError> {
    let (field, program) = (field.to_owned(), hook.path.display().to_string());
    let mut command = command(hook, place);
    let pairs = hook.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    command.env_clear().envs(pairs).stdin(Stdio::piped());
    let failed = |source| HookError::Run { field: field.clone(), program: program.clone(), source };
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not want to know need not read.
        let _ = stdin.write_all(state.as_bytes());
    }
    let limit = hook.timeout.filter(|seconds| *seconds > 0);
    match wait(&mut child, limit).map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(HookError::Failed { field, program, status }),
        None => Err(HookError::Late { field, program, seconds: limit.unwrap_or(0) }),
    }
}

/// Its end; none if it was killed because its time was over.
fn wait(child: &mut Child, seconds: Option<u64>) -> io::Result<Option<ExitStatus>> {
    let Some(seconds) = seconds else { return child.wait().map(Some) };
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() < until => sleep(LOOK_AGAIN),
            None => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
    }
}
