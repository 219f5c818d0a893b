//! Finds the job that a user means: by name, by id, or by an id's beginning.
//!
//! A name is a label. Where two live jobs share one, the user is asked which;
//! a live job is preferred to those that are over, and of those the newest.

use axum::http::StatusCode;
use gossip_core::id::JobId;
use starling_core::Core;
use starling_core::view::{JobState, JobView};

use super::answer::Refused;
use super::types::Complaint;
use crate::agent::Doors;

/// The fewest digits of an id that are taken for one.
const ID_DIGITS_MIN: usize = 4;

/// A job, and one index of it where the reference had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) job: JobId,
    pub(super) index: Option<u32>,
}

enum Found {
    One(JobId),
    None,
    Several(Vec<JobId>),
}

/// Resolves what the user wrote.
pub(super) async fn job(doors: &Doors, text: &str) -> Result<JobId, Refused> {
    let reference = text.to_owned();
    let found = doors.agent.look(move |core, _| search(core, &reference)).await?;
    settle(found, text)
}

/// The same, with `JOB.INDEX` understood.
pub(super) async fn reference(doors: &Doors, text: &str) -> Result<Reference, Refused> {
    if let Some((name, index)) = text.rsplit_once('.')
        && let Ok(index) = index.parse()
    {
        let name = name.split('.').next().unwrap_or(name);
        return Ok(Reference { job: job(doors, name).await?, index: Some(index) });
    }
    Ok(Reference { job: job(doors, text).await?, index: None })
}

fn settle(found: Found, text: &str) -> Result<JobId, Refused> {
    match found {
        Found::One(job) => Ok(job),
        Found::None => Err(Refused::no_such_job(text)),
        Found::Several(jobs) => {
            let complaint = Complaint::new("ambiguous", format!("{text:?} means several jobs"));
            let ids: Vec<_> = jobs.iter().map(JobId::short).collect();
            let complaint = complaint
                .because(format!("it could be {}", ids.join(", ")))
                .hint("use the id of the one you mean");
            Err(Refused::new(StatusCode::CONFLICT, complaint))
        }
    }
}

fn search(core: &Core, text: &str) -> Found {
    if let Ok(job) = text.parse::<JobId>() {
        return if core.state().job(&job).is_some() { Found::One(job) } else { Found::None };
    }
    let views = core.job_views();
    let named: Vec<&JobView> = views.iter().filter(|view| view.name == text).collect();
    let live = |view: &&&JobView| matches!(view.state, JobState::Pending | JobState::Running);
    let alive: Vec<_> = named.iter().filter(live).collect();
    match (alive.as_slice(), named.last()) {
        ([one], _) => return Found::One(one.id),
        ([], Some(newest)) => return Found::One(newest.id),
        ([], None) => {}
        (several, _) => return Found::Several(several.iter().map(|view| view.id).collect()),
    }
    if text.len() < ID_DIGITS_MIN {
        return Found::None;
    }
    let matching: Vec<_> =
        views.iter().map(|view| view.id).filter(|id| id.to_string().starts_with(text)).collect();
    match matching.as_slice() {
        [] => Found::None,
        [one] => Found::One(*one),
        _ => Found::Several(matching),
    }
}
