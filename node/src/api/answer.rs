//! How answers and failures become HTTP: JSON both ways, one failure shape.

use axum::Json;
use axum::extract::{self, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gossip_core::id::JobId;
use serde::de::DeserializeOwned;
use starling_core::effect::Reply;

use super::types::{Complaint, Failure};
use crate::agent::words::{Fault, Reader};
use crate::agent::{Doors, Gone};

/// A failure with its status.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    complaint: Complaint,
}

impl Refused {
    pub(super) fn new(status: StatusCode, complaint: Complaint) -> Self {
        Self { status, complaint }
    }

    /// Adds a reason.
    pub(super) fn because(self, why: impl ToString) -> Self {
        Self { complaint: self.complaint.because(why), ..self }
    }

    /// The same, told in other words.
    pub(super) fn told(self, as_what: impl FnOnce(&str) -> String) -> Self {
        let message = as_what(&self.complaint.message);
        Self { complaint: Complaint { message, ..self.complaint }, ..self }
    }

    /// What it says, for an answer that has begun already.
    pub(super) fn complaint(self) -> Complaint {
        self.complaint
    }

    pub(super) fn no_such_job(reference: &str) -> Self {
        let complaint = Complaint::new("no_such_job", format!("there is no job {reference:?}"))
            .hint("`starling jobs -a` lists all that are known here");
        Self::new(StatusCode::NOT_FOUND, complaint)
    }
}

impl From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        let complaint = Complaint::new("going_down", "the agent does not answer")
            .because(gone)
            .hint("start it again with `starling up`, or ask another peer");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, complaint)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(Failure { error: self.complaint })).into_response()
    }
}

/// What stands behind the `?` of a request; refused in the API's own words if it cannot be
/// read.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let read = extract::Query::<T>::try_from_uri(&parts.uri);
        read.map(|extract::Query(asked)| Self(asked)).map_err(|rejection| {
            let path = parts.uri.path();
            let complaint =
                Complaint::new("bad_request", format!("what is asked of {path} cannot be read"))
                    .because(rejection.body_text())
                    .hint(format!("write it like {path}?KEY=VALUE&KEY=VALUE"));
            Refused::new(StatusCode::BAD_REQUEST, complaint)
        })
    }
}

/// Does what changes something to its end, though whoever asked may leave: half of a change
/// is worse than all or nothing of it. What only looks ends with whoever looks.
pub(super) async fn finish(State(doors): State<Doors>, request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let done = doors.tasks.spawn(next.run(request)).await;
    done.unwrap_or_else(|died| {
        let complaint = Complaint::new("internal", "this was not done to its end").because(died);
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, complaint).into_response()
    })
}

/// A reply that is no acceptance.
pub(super) fn refusal(reply: &Reply) -> Refused {
    let (status, complaint) = match reply {
        Reply::NoSuchJob { job } => return Refused::no_such_job(&job.short()),
        Reply::NameTaken { job } => (StatusCode::CONFLICT, name_taken(job)),
        Reply::StoppedBefore { job } => (StatusCode::CONFLICT, stopped_before(job)),
        Reply::BadSpec { reason } => (
            StatusCode::UNPROCESSABLE_ENTITY,
            Fault::of_spec(reason).complaint("bad_job", Reader::Fields),
        ),
        Reply::NotRemoved { reason } => (
            StatusCode::CONFLICT,
            // It is the only entry of its append.
            Complaint::new("not_removed", "the node was not removed")
                .because(reason.strip_prefix("entry 1: ").unwrap_or(reason)),
        ),
        Reply::Outcast => (
            StatusCode::CONFLICT,
            Complaint::new("removed", "this host is no member of its cluster any more")
                .because("nothing that is asked of it reaches the others")
                .hint("ask a member; `starling status` here says what happened"),
        ),
        Reply::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            Complaint::new("busy", "too many requests wait for their answer").hint("try again"),
        ),
        Reply::Accepted { .. }
        | Reply::NotReplicated { .. }
        | Reply::NodeRemoved { .. }
        | Reply::RemovedHereOnly { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Complaint::new("internal", "an acceptance was taken for a refusal"),
        ),
    };
    Refused::new(status, complaint)
}

fn name_taken(job: &JobId) -> Complaint {
    Complaint::new("name_taken", "a live job has this name already")
        .because(format!("job {} was submitted under it", job.short()))
        .hint("choose another --name, or `starling stop` that job first")
}

fn stopped_before(job: &JobId) -> Complaint {
    Complaint::new("stopped_before", "a job was submitted with this key before, and stopped")
        .because(format!("it was job {}", job.short()))
        .hint("submit it with another key: a job that was stopped never comes back")
}

/// The router's answer to an unknown path.
pub(super) async fn no_such_route(uri: Uri) -> Refused {
    let complaint = Complaint::new("no_such_route", format!("there is nothing at {}", uri.path()))
        .hint("this version serves /v1/status, /v1/jobs, /v1/tasks, /v1/nodes, /v1/images, /v1/events \
               and /v1/metrics");
    Refused::new(StatusCode::NOT_FOUND, complaint)
}
