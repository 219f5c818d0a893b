//! Finds the job that a user means: by name, by id, or by an id's beginning.
//!
//! A name is a label. Where two live jobs share one, the user is asked which;
//! a live job is preferred to those that are over, and of those the newest.

use axum::http::StatusCode;
use gossip_core::id::JobId;
use gossip_core::intent::JobIntent;
use gossip_core::moment::WallTime;
use gossip_core::slot::SlotId;
use gossip_core::spec::{JobKind, JobSpec};
use starling_core::Core;

use super::answer::Refused;
use super::types::Complaint;
use crate::agent::Doors;

/// The fewest digits of an id that are taken for one.
const ID_DIGITS_MIN: usize = 4;

/// A job, and a part of it where the reference had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) job: JobId,
    pub(super) part: Option<Part>,
}

/// One index of a group, or of every group where none was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    group: Option<String>,
    index: u32,
}

impl Part {
    /// `JOB.INDEX` and `JOB.GROUP.INDEX`, apart.
    fn split(text: &str) -> Option<(&str, Self)> {
        let (rest, index) = text.rsplit_once('.')?;
        let index = index.parse().ok()?;
        let (job, group) = match rest.split_once('.') {
            Some((job, group)) => (job, Some(group.to_owned())),
            None => (rest, None),
        };
        Some((job, Self { group, index }))
    }

    /// Whether a slot is meant.
    pub(super) fn has(&self, slot: &SlotId) -> bool {
        self.index == slot.index && self.is_of(slot.group.as_str())
    }

    fn is_of(&self, group: &str) -> bool {
        self.group.as_deref().is_none_or(|wanted| wanted == group)
    }

    /// Why a job has nothing of that name; `None` if it has, or if its spec is not known here.
    fn lacking(&self, core: &Core, job: &JobId) -> Option<String> {
        let (intent, (_, spec)) = (core.state().job(job)?, core.state().spec_of(job)?);
        // What ran before a job was made smaller or stopped has its place in lists still.
        let groups = spec
            .groups
            .iter()
            .map(|group| (group.name.as_str(), intent.count(spec, &group.name).max(group.count)));
        let groups: Vec<_> = groups.collect();
        let has =
            |(name, count): &(&str, u32)| self.is_of(name) && (1..=*count).contains(&self.index);
        if groups.iter().any(has) {
            return None;
        }
        let known: Vec<_> =
            groups.iter().map(|(name, count)| format!("group {name} with 1 to {count}")).collect();
        Some(format!("it has {}", known.join(", ")))
    }
}

/// How long an unknown job is waited for: records reach every member within this, as a rule.
const UNHEARD_FOR: std::time::Duration = std::time::Duration::from_millis(300);

enum Found {
    One(JobId),
    None,
    Several(Vec<JobId>),
}

/// Resolves what the user wrote.
pub(super) async fn job(doors: &Doors, text: &str) -> Result<JobId, Refused> {
    let mut changes = doors.agent.changes();
    let patience = tokio::time::Instant::now() + UNHEARD_FOR;
    loop {
        changes.mark_unchanged();
        let reference = text.to_owned();
        let found = doors.agent.look(move |core, _| search(core, &reference)).await?;
        // Another member may have acknowledged it a moment ago.
        let unheard = matches!(found, Found::None);
        if !unheard || tokio::time::timeout_at(patience, changes.changed()).await.is_err() {
            return settle(found, text);
        }
    }
}

/// The same, with `JOB.INDEX` and `JOB.GROUP.INDEX` understood.
pub(super) async fn reference(doors: &Doors, text: &str) -> Result<Reference, Refused> {
    let Some((name, part)) = Part::split(text) else {
        return Ok(Reference { job: job(doors, text).await?, part: None });
    };
    let job = job(doors, name).await?;
    let asked = part.clone();
    match doors.agent.look(move |core, _| asked.lacking(core, &job)).await? {
        None => Ok(Reference { job, part: Some(part) }),
        Some(why) => {
            let complaint = Complaint::new("no_such_task", format!("there is no task {text:?}"))
                .because(why)
                .hint(format!("`starling ps -a {name}` lists the tasks of that job"));
            Err(Refused::new(StatusCode::NOT_FOUND, complaint))
        }
    }
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
    // Not through views: those look at every slot of every job.
    let jobs = || core.state().jobs().filter(|(_, intent)| !intent.removed);
    let mut newest: Option<(WallTime, JobId)> = None;
    let mut alive = Vec::new();
    for (job, intent) in jobs() {
        let Some((_, spec)) = core.state().spec_of(job) else { continue };
        if spec.name == text {
            newest = newest.max(Some((intent.submitted, *job)));
            if !is_over(core, job, intent, spec) {
                alive.push(*job);
            }
        }
    }
    match (alive.as_slice(), newest) {
        ([one], _) => return Found::One(*one),
        ([], Some((_, newest))) => return Found::One(newest),
        ([], None) => {}
        _ => return Found::Several(alive),
    }
    if text.len() < ID_DIGITS_MIN {
        return Found::None;
    }
    let matching: Vec<_> =
        jobs().map(|(job, _)| *job).filter(|job| job.to_string().starts_with(text)).collect();
    match matching.as_slice() {
        [] => Found::None,
        [one] => Found::One(*one),
        _ => Found::Several(matching),
    }
}

/// Whether nothing of a job is wanted any more. Of a batch, looks no further than the first
/// slot that has not ended.
fn is_over(core: &Core, job: &JobId, intent: &JobIntent, spec: &JobSpec) -> bool {
    let Some(generation) = intent.generation().filter(|_| intent.is_live()) else { return true };
    let ended = |group, index| {
        let slot = SlotId { job: *job, group, index };
        core.state().settled(&slot, &generation).is_some()
    };
    spec.kind == JobKind::Batch
        && spec
            .groups
            .iter()
            .all(|group| (1..=group.count).all(|index| ended(group.name.clone(), index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::slot::GroupName;

    #[test]
    fn a_reference_is_taken_apart_and_its_group_is_kept() {
        let part = |group: Option<&str>, index| Part { group: group.map(str::to_owned), index };
        assert_eq!(Part::split("web.2"), Some(("web", part(None, 2))));
        assert_eq!(Part::split("web.db.3"), Some(("web", part(Some("db"), 3))));
        for whole in ["web", "web.x", "web.", "web.-1"] {
            assert_eq!(Part::split(whole), None, "{whole}");
        }
        let slot = SlotId { job: JobId::new([0; 16]), group: GroupName::main(), index: 2 };
        assert!(part(None, 2).has(&slot) && part(Some("main"), 2).has(&slot));
        assert!(!part(None, 1).has(&slot) && !part(Some("db"), 2).has(&slot));
    }
}
