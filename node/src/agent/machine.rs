//! The one file that turns a job's task into a launch for the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gossip_core::fact::TaskEnd;
use gossip_core::spec::Program;
use runtime::{ControlError, LaunchError, Place, Process, Runtime, TaskId};
use starling_core::effect::{Input, Launch};
use starling_core::ledger::AllocationId;

use super::naming;

/// What a process finds programs with, unless its job says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many earlier starts of a service keep their logs.
pub(super) const STARTS_KEPT: u32 = 1;

/// The pauses between two tries to stop a task: they double.
const STOP_RETRY: Duration = Duration::from_millis(20);
const STOP_RETRY_MAX: Duration = Duration::from_secs(2);

fn request(launch: &Launch, node: &str, id: TaskId) -> runtime::Launch {
    let Program::Process { argv, directory } = &launch.task.run;
    let slot = &launch.id.slot;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("STARLING_JOB".to_owned(), launch.job_name.clone()),
        ("STARLING_GROUP".to_owned(), slot.group.to_string()),
        ("STARLING_INDEX".to_owned(), slot.index.to_string()),
        ("STARLING_COUNT".to_owned(), launch.count.to_string()),
        ("STARLING_NODE".to_owned(), node.to_owned()),
        ("STARLING_GENERATION".to_owned(), launch.generation.counter.to_string()),
        ("STARLING_EPOCH".to_owned(), launch.id.epoch.counter.to_string()),
    ]);
    env.extend(launch.task.env.clone());
    let mut request = runtime::Launch::new(id, argv.iter().map(String::as_str));
    request.env = env;
    request.directory = directory.as_ref().map(PathBuf::from);
    let user = rustix::process::geteuid().is_root().then(|| naming::user(&launch.id));
    request.place = Place::Process(Process { user, hidden: Vec::new() });
    request
}

/// Starts a task; the answer for the core.
pub(super) async fn launch(runtime: Runtime, node: String, launch: Launch, start: u32) -> Input {
    let id = launch.id.clone();
    let not_started = |code, reason: String| TaskEnd::NotStarted { code, reason };
    let Some(task) = naming::task_id(&id, start) else {
        let end = not_started(125, "it cannot be named".to_owned());
        return Input::Ended { id, end };
    };
    forget_old_start(&runtime, &id, start).await;
    match runtime.launch(request(&launch, &node, task)).await {
        Ok(_pid) => Input::Started(id),
        Err(LaunchError::NotStarted { fault, reason }) => {
            let end = runtime::End::NotStarted { fault, reason };
            Input::Ended { id, end: naming::task_end(&end) }
        }
        Err(LaunchError::Lost { end }) => Input::Ended { id, end: naming::task_end(&end) },
        // Whatever has this name was not found when the agent started, so nobody watches it.
        Err(error @ LaunchError::Exists { .. }) => {
            Input::Ended { id, end: TaskEnd::Lost { reason: naming::short(&error.to_string()) } }
        }
        // The machine's fault, not the task's: it is tried again.
        Err(
            other @ (LaunchError::Keeper { .. }
            | LaunchError::Io { .. }
            | LaunchError::Record { .. }
            | LaunchError::ShutDown),
        ) => {
            Input::Ended { id, end: TaskEnd::Lost { reason: naming::short(&super::chain(&other)) } }
        }
        Err(other) => {
            Input::Ended { id, end: not_started(125, naming::short(&super::chain(&other))) }
        }
    }
}

async fn forget_old_start(runtime: &Runtime, id: &AllocationId, start: u32) {
    let Some(old) = start.checked_sub(STARTS_KEPT + 1) else { return };
    if let Some(task) = naming::task_id(id, old)
        && let Err(error) = runtime.remove(&task).await
    {
        tracing::debug!(%task, %error, "an old start was not there to remove");
    }
}

/// Tells a task to stop, until it is told or gone; its end comes as an event of the runtime.
pub(super) async fn stop(runtime: Runtime, task: TaskId, grace: Duration) {
    let mut pause = STOP_RETRY;
    loop {
        match runtime.stop(&task, grace).await {
            Ok(()) | Err(ControlError::Unknown { .. }) => return,
            // A launch that has not returned yet looks the same as an end.
            Err(ControlError::NotRunning { .. }) if pause >= STOP_RETRY_MAX => return,
            Err(ControlError::NotRunning { .. }) => {}
            Err(error) => {
                tracing::warn!(%task, error = super::chain(&error), "cannot stop it; trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STOP_RETRY_MAX);
    }
}
