//! Starts tasks through the runtime and stops them, as the core decided.
//!
//! A task over an image waits for the image. Whatever comes of a start is an input for the core; a stop is tried until it
//! is heard. Neither ever decides anything.

use std::sync::Arc;
use std::time::Duration;

use gossip_core::fact::TaskEnd;
use gossip_core::spec::Program;
use runtime::image::{Digest, Held, ImageConfig};
use runtime::{ControlError, LaunchError, Runtime, StartFault, TaskId};
use starling_core::effect::{Input, Launch};
use starling_core::ledger::AllocationId;

use tokio_util::sync::CancellationToken;

use super::images::{Wanted, in_store};
use super::request::Here;
use super::{Doors, naming, request, words};

/// How many earlier starts of a service keep their logs.
pub(super) const STARTS_KEPT: u32 = 1;

/// The pauses between two tries to stop a task: they double.
const STOP_RETRY: Duration = Duration::from_millis(20);
const STOP_RETRY_MAX: Duration = Duration::from_secs(2);

/// What helps where an image does not fit.
const MAKE_ROOM: &str = "starling image prune (-a: named ones too) makes room on the node";

/// Starts a task; the answer for the core. `stop` calls it off while its image is brought;
/// from then on the runtime is told.
pub(super) async fn launch(
    doors: Doors,
    here: Here,
    launch: Launch,
    start: u32,
    stop: CancellationToken,
) -> Input {
    let id = launch.id.clone();
    let runtime = doors.runtime.clone();
    let not_started = |code, reason: String| TaskEnd::NotStarted { code, reason };
    let Some(task) = naming::task_id(&id, start) else {
        let end = not_started(125, "it cannot be named".to_owned());
        return Input::Ended { id, end };
    };
    forget_old_start(&runtime, &id, start).await;
    let brought = tokio::select! {
        brought = bring(&doors, &launch) => brought,
        () = stop.cancelled() => {
            let reason = "it was stopped before its image was here".to_owned();
            return Input::Ended { id, end: TaskEnd::Lost { reason } };
        }
    };
    // The image stays while this is held, until the runtime holds it for the task.
    let (config, _held) = match brought {
        Ok(brought) => brought,
        Err(end) => return Input::Ended { id, end },
    };
    let request = match request::of(&launch, &here, task, &config).await {
        Ok(request) => request,
        Err(flaw) => {
            let end = words::not_started(125, flaw.word, &flaw.what, flaw.hint.as_deref());
            return Input::Ended { id, end };
        }
    };
    match runtime.launch(request).await {
        Ok(_pid) => Input::Started(id),
        Err(LaunchError::NotStarted { fault, reason }) => {
            // A kernel with an emulator starts them all the same: it is judged by what it did.
            if fault == StartFault::UnknownFormat
                && let Some(end) = words::strange_end(&config.platform())
            {
                return Input::Ended { id, end };
            }
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

/// What the task's image says, with the image in hand; nothing for a task without one.
async fn bring(
    doors: &Doors,
    launch: &Launch,
) -> Result<(Arc<ImageConfig>, Option<Held>), TaskEnd> {
    let Some(image) = launch.task.run.image() else { return Ok(Default::default()) };
    let failed = |what: &str, hint: Option<&str>| {
        let field = match launch.task.run {
            Program::Container(_) => "container.image",
            Program::Process { .. } => "process.files",
        };
        words::not_started(125, words::word(field), what, hint)
    };
    let Some(id) = image.id else {
        return Err(failed("the job does not say which content its name stands for", None));
    };
    let wanted = Wanted { id: Digest::new(*id.as_bytes()), name: image.name.clone() };
    let held = doors.supply.bring(doors, &wanted).await.map_err(|missing| {
        let why = missing.why.join("; ");
        let what = format!("{} cannot be had here: {why}", image.name);
        // The job is not to blame, and whoever has its image may be back in a moment.
        if missing.for_now {
            return TaskEnd::Lost { reason: naming::short(&what) };
        }
        // Somebody has to make room: to try again and again would only hide that.
        failed(&what, missing.is_full.then_some(MAKE_ROOM))
    })?;
    let config = in_store(doors, move |images| images.config(&wanted.id)).await;
    let config = config.map_err(|error| failed(&super::chain(&error), None))?;
    Ok((config, Some(held)))
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
