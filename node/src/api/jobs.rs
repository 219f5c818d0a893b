//! Jobs and tasks: submit, list, stop, remove, wait, why.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use gossip_core::id::JobId;
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use serde::Deserialize;
use starling_core::Core;
use starling_core::effect::{Ask, Reply};
use starling_core::view::{Ended, JobState, JobView, Listing, Opinion, TaskView};

use super::answer::{Query, Refused, refusal};
use super::pulse::Pulse;
use super::serve::Caller;
use super::types::{Accepted, Complaint, Durable, JobDetail, Submission, Why};
use super::{fetching, find, images, peer};
use crate::agent::words::{Fault, Reader};
use crate::agent::{Doors, vet, wall_now};

/// Finished jobs are listed this long without being asked for.
const RECENT_MS: u64 = 3600 * 1000;

/// The longest idempotency key.
const KEY_LENGTH_MAX: usize = 256;

/// The longest that one request waits for a job.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    all: bool,
    job: Option<String>,
    /// Labels, a line each: `NAME`, or `NAME=VALUE`. All must be there.
    #[serde(default)]
    labels: String,
}

/// Whether these labels are all that is asked for.
fn has_labels(labels: &BTreeMap<String, String>, asked: &str) -> bool {
    asked.lines().all(|line| match line.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|said| said == value),
        None => labels.contains_key(line),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct WaitQuery {
    timeout_s: Option<u64>,
}

/// `POST /v1/jobs`.
pub(super) async fn submit(
    State(doors): State<Doors>,
    Extension(Caller(owner)): Extension<Caller>,
    body: Result<Json<Submission>, JsonRejection>,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let bad = |why: String| {
        let complaint = Complaint::new("bad_job", "this cannot be a job").because(why);
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, complaint)
    };
    let Json(Submission { mut spec, key }) = body.map_err(|e| bad(e.body_text()))?;
    if key.is_empty() || key.len() > KEY_LENGTH_MAX {
        return Err(bad(format!("its key has {} bytes, not 1 to {KEY_LENGTH_MAX}", key.len())));
    }
    // What no node could run is refused before it is anybody's.
    let refused = |fault: Fault| {
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, fault.complaint("bad_job", Reader::Fields))
    };
    spec.check().map_err(|bad| refused(Fault::of_spec(bad)))?;
    vet(&spec).map_err(refused)?;
    // From here on the job means content, whatever its images' names come to mean.
    let notices = images::pin(&doors, &mut spec).await?;
    let job = JobId::derive(&doors.facts.cluster, &owner, &key);
    spec.owner = owner;
    let name = spec.name.clone();
    let reply = doors.agent.ask(Ask::Submit { job, spec: Box::new(spec) }).await?;
    let accepted = accepted(&doors, reply, name).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { notices, ..accepted })))
}

async fn accepted(doors: &Doors, reply: Reply, name: String) -> Result<Accepted, Refused> {
    let here = doors.facts.name.clone();
    let notices = Vec::new();
    match reply {
        Reply::Accepted { job, replicated: None } => {
            Ok(Accepted { job, name, durable: Durable::Local, on: vec![here], notices })
        }
        Reply::Accepted { job, replicated: Some(node) } => {
            let there = doors.agent.look(move |core, _| core.node_name(&node)).await?;
            Ok(Accepted { job, name, durable: Durable::Replicated, on: vec![here, there], notices })
        }
        Reply::NotReplicated { job } => {
            Ok(Accepted { job, name, durable: Durable::NotReplicated, on: vec![here], notices })
        }
        other => Err(refusal(&other)),
    }
}

/// `POST /v1/jobs/{job}/stop`.
pub(super) async fn stop(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let job = find::job(&doors, &text).await?;
    change(&doors, job, Ask::Stop(job)).await
}

/// `DELETE /v1/jobs/{job}`.
pub(super) async fn remove(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let job = find::job(&doors, &text).await?;
    change(&doors, job, Ask::Remove(job)).await
}

async fn change(
    doors: &Doors,
    job: JobId,
    ask: Ask,
) -> Result<(StatusCode, Json<Accepted>), Refused> {
    let name = view(doors, job).await?.name;
    let reply = doors.agent.ask(ask).await?;
    accepted(doors, reply, name).await.map(|accepted| (StatusCode::ACCEPTED, Json(accepted)))
}

/// One job as it is now.
pub(super) async fn view(doors: &Doors, job: JobId) -> Result<JobView, Refused> {
    let view = doors.agent.look(move |core, _| core.job_view(&job)).await?;
    view.ok_or_else(|| Refused::no_such_job(&job.short()))
}

/// `GET /v1/jobs/{job}`.
pub(super) async fn show(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<Json<JobDetail>, Refused> {
    let job = find::job(&doors, &text).await?;
    let detail = move |core: &Core, _| {
        let view = core.job_view(&job)?;
        let spec = core.state().spec_of(&job).map(|(_, spec)| spec.clone());
        Some(JobDetail { view, spec })
    };
    let detail = doors.agent.look(detail).await?;
    detail.map(Json).ok_or_else(|| Refused::no_such_job(&text))
}

/// `GET /v1/jobs`.
pub(super) async fn list(
    State(doors): State<Doors>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Listing<JobView>>, Refused> {
    let as_of = wall_now();
    let listing = doors
        .agent
        .look(move |core, now| {
            let mut items = core.job_views();
            items.retain(|view| query.all || is_recent(view, as_of));
            items.retain(|view| has_labels(&view.labels, &query.labels));
            Listing { items, as_of, view: core.freshness(now.moment) }
        })
        .await?;
    Ok(Json(listing))
}

fn is_recent(view: &JobView, now: WallTime) -> bool {
    matches!(view.state, JobState::Pending | JobState::Running)
        || now.0.saturating_sub(view.submitted.0) < RECENT_MS
}

/// `GET /v1/tasks`.
pub(super) async fn tasks(
    State(doors): State<Doors>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Listing<TaskView>>, Refused> {
    let only = match &query.job {
        Some(text) => Some(find::job(&doors, text).await?),
        None => None,
    };
    let ended = if query.all { Ended::Shown } else { Ended::Hidden };
    let mut listing = doors
        .agent
        .look(move |core, now| {
            let wanted = |job: &JobId| only.is_none_or(|only| only == *job);
            let labelled = |job: &JobId| {
                let spec = core.state().spec_of(job).map(|(_, spec)| &spec.labels);
                query.labels.is_empty() || spec.is_some_and(|it| has_labels(it, &query.labels))
            };
            let jobs = core.state().jobs();
            let mut jobs: Vec<_> = jobs
                .filter(|(job, intent)| !intent.removed && wanted(job) && labelled(job))
                .map(|(job, intent)| (intent.submitted, *job))
                .collect();
            jobs.sort_unstable();
            let items = jobs.iter().flat_map(|(_, job)| core.task_views(job, ended)).collect();
            Listing::<TaskView> { items, as_of: wall_now(), view: core.freshness(now.moment) }
        })
        .await?;
    fetching::fill(&doors, &mut listing.items).await?;
    Ok(Json(listing))
}

/// `GET /v1/jobs/{job}/wait`.
pub(super) async fn wait(
    State(doors): State<Doors>,
    Path(text): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<JobView>, Refused> {
    let job = find::job(&doors, &text).await?;
    let limit = query.timeout_s.map_or(WAIT_MAX, Duration::from_secs).min(WAIT_MAX);
    let mut pulse = Pulse::new(&doors);
    let over = async {
        loop {
            pulse.turn().await;
            let view = view(&doors, job).await?;
            let live = matches!(view.state, JobState::Pending | JobState::Running);
            if !live && (view.state != JobState::Stopped || view.running == 0) {
                return Ok(view);
            }
            pulse.changed().await?;
        }
    };
    match tokio::time::timeout(limit, over).await {
        Ok(view) => view.map(Json),
        Err(_elapsed) => {
            let complaint = Complaint::new("timeout", format!("{text} is not over yet"))
                .hint(format!("`starling ps {text}` shows where it stands"));
            Err(Refused::new(StatusCode::REQUEST_TIMEOUT, complaint))
        }
    }
}

/// `GET /v1/jobs/{job}/why`.
pub(super) async fn why(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<Json<Why>, Refused> {
    let job = find::job(&doors, &text).await?;
    let seen = doors
        .agent
        .look(move |core, now| {
            let asks = core.state().spec_of(&job).and_then(|(_, spec)| spec.groups.first());
            let asks = asks.map_or(Resources::default(), gossip_core::spec::GroupSpec::ask);
            let tasks = core.task_views(&job, Ended::Shown);
            let own = core.opinion_on(&job);
            (core.job_view(&job), asks, tasks, own, core.node_views(now.moment))
        })
        .await?;
    let (Some(job_view), asks, mut tasks, own, nodes) = seen else {
        return Err(Refused::no_such_job(&text));
    };
    fetching::fill(&doors, &mut tasks).await?;
    let mut opinions: Vec<Opinion> = own.into_iter().collect();
    let mut unknown = Vec::new();
    for node in nodes.iter().filter(|node| !node.me) {
        if node.state != "ready" {
            let silence = node.heard_ms.map_or(0, |ms| ms / 1000);
            unknown.push((node.name.clone(), format!("silent for {silence}s")));
            continue;
        }
        match peer::opinion(&doors, node.id, job).await {
            Ok(opinion) => opinions.push(opinion),
            Err(error) => unknown.push((node.name.clone(), error.to_string())),
        }
    }
    opinions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(Why { job: job_view, asks, tasks, opinions, unknown }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_labels_that_are_asked_for_must_be_there() {
        let said = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels = BTreeMap::from([said("tier", "front"), said("keep", "")]);
        for (asked, has) in [
            ("", true),
            ("tier", true),
            ("tier=front", true),
            ("tier=front\nkeep", true),
            ("keep=", true),
            ("tier=back", false),
            ("tier=front\nother", false),
            ("tie", false),
        ] {
            assert_eq!(has_labels(&labels, asked), has, "{asked:?}");
        }
    }
}
