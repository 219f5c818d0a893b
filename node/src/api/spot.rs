//! Finds the one running task that a user means, and where it runs.

use axum::http::StatusCode;
use gossip_core::id::NodeId;
use runtime::TaskId;
use starling_core::Core;
use starling_core::view::{Ended, TaskView};

use super::answer::Refused;
use super::find;
use super::types::Complaint;
use crate::agent::{Doors, Gone, task_prefix};

/// How many names of tasks are listed where one is asked for.
const NAMES_SHOWN: usize = 8;

/// A running task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// `JOB.INDEX`.
    pub(super) label: String,
    /// Where it runs.
    pub(super) node: NodeId,
    /// That node's name.
    pub(super) node_name: String,
    /// With the index, names it there.
    pub(super) tender: u64,
    /// Its index.
    pub(super) index: u32,
}

impl Spot {
    /// What of it only its node has, as a path of the members' API.
    pub(super) fn path(&self, verb: &str) -> String {
        format!("/v1/local/tasks/{:016x}/{}/{verb}", self.tender, self.index)
    }
}

/// The running task of that name; of a job by name, its only one.
pub(super) async fn running(doors: &Doors, text: &str) -> Result<Spot, Refused> {
    let find::Reference { job, part } = find::reference(doors, text).await?;
    let tasks = doors.agent.look(move |core, _| core.task_views(&job, Ended::Hidden)).await?;
    let meant = |task: &TaskView| part.as_ref().is_none_or(|part| part.has(&task.slot));
    let tasks: Vec<_> = tasks.into_iter().filter(meant).collect();
    let running: Vec<_> = tasks.iter().filter(|task| is_alive(&task.state)).collect();
    match running.as_slice() {
        [task] => match task.node {
            Some(node) => Ok(Spot {
                label: task.task.clone(),
                node,
                node_name: task.node_name.clone(),
                tender: task.tender,
                index: task.slot.index,
            }),
            None => Err(not_running(text, "nobody took it yet")),
        },
        [] => match tasks.as_slice() {
            [task] => Err(not_running(text, &format!("it is {}", task.state))),
            _ => Err(not_running(text, "none of its tasks is")),
        },
        several => {
            let names: Vec<_> =
                several.iter().take(NAMES_SHOWN).map(|task| task.task.as_str()).collect();
            let more = if several.len() > names.len() { ", …" } else { "" };
            let complaint = Complaint::new("ambiguous", format!("{text:?} means several tasks"))
                .because(format!("it could be {}{more}", names.join(", ")))
                .hint("name the one you mean, as JOB.INDEX");
            Err(Refused::new(StatusCode::CONFLICT, complaint))
        }
    }
}

/// Whether a task in this state has processes.
pub(super) fn is_alive(state: &str) -> bool {
    matches!(state, "running" | "paused")
}

fn not_running(text: &str, why: &str) -> Refused {
    let complaint = Complaint::new("not_running", format!("{text:?} is not running"))
        .because(why)
        .hint(format!("`starling ps -a {text}` shows where it stands"));
    Refused::new(StatusCode::CONFLICT, complaint)
}

/// How often an allocation was started again, if it lives here.
pub(super) async fn restarts(doors: &Doors, tender: u64, index: u32) -> Result<Option<u32>, Gone> {
    let look = move |core: &Core, _| {
        let mut held = core.allocations().values();
        let held = held.find(|it| it.id.epoch.tender == tender && it.id.slot.index == index);
        held.map(|it| it.restarts)
    };
    doors.agent.look(look).await
}

/// What this node's runtime calls a task, if it holds it.
pub(super) async fn here(doors: &Doors, tender: u64, index: u32) -> Result<Option<TaskId>, Gone> {
    let start = restarts(doors, tender, index).await?;
    Ok(start.and_then(|start| format!("{}{start}", task_prefix(tender, index)).parse().ok()))
}

/// The same, or what to answer.
pub(super) async fn held(doors: &Doors, tender: u64, index: u32) -> Result<TaskId, Refused> {
    here(doors, tender, index).await?.ok_or_else(|| {
        let complaint = Complaint::new("not_running", "the task is not here any more")
            .hint("try again: it may run elsewhere by now");
        Refused::new(StatusCode::CONFLICT, complaint)
    })
}

/// A tender as members write it.
pub(super) fn tender(text: &str) -> Result<u64, Refused> {
    u64::from_str_radix(text, 16).map_err(|_not_hex| {
        let complaint = Complaint::new("bad_request", format!("{text:?} names no tender"));
        Refused::new(StatusCode::BAD_REQUEST, complaint)
    })
}

/// The task of a member's request, or what to answer it.
pub(super) async fn named(doors: &Doors, text: &str, index: u32) -> Result<TaskId, Refused> {
    held(doors, tender(text)?, index).await
}
