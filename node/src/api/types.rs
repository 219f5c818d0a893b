//! The API's requests and answers, shared by server and client.
//!
//! Stable under `/v1`: fields are added, never renamed or given another
//! meaning. Lists are `Listing`s from the core's views; what fails answers
//! with one `Failure`, whatever the route.

use gossip_core::grant::Role;
use gossip_core::id::{ClusterId, JobId, NodeId};
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use gossip_core::spec::JobSpec;
use serde::{Deserialize, Serialize};
use starling_core::fetch::Fetching;
use starling_core::view::{Freshness, JobView, Opinion, TaskView};

use super::member_types::RemovedBy;

/// `POST /v1/jobs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Submission {
    /// What to run.
    pub(crate) spec: JobSpec,
    /// Made once by whoever submits: a retry with the same key is the same job.
    pub(crate) key: String,
}

/// The answer to everything that changes intent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Which job.
    pub(crate) job: JobId,
    /// Its name.
    pub(crate) name: String,
    /// How safe it is.
    pub(crate) durable: Durable,
    /// The names of the members that have it on disk, as far as known.
    pub(crate) on: Vec<String>,
    /// What whoever submitted it should know, each in a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notices: Vec<String>,
}

/// How safe an accepted change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durable {
    /// On this disk, and there is no other member.
    Local,
    /// On this disk and another member's.
    Replicated,
    /// On this disk; no other member confirmed in time.
    NotReplicated,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The node that answers.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Its program's version.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// When it started.
    pub(crate) started: WallTime,
    /// Where it listens for members.
    pub(crate) addresses: Vec<String>,
    /// Where operators reach it, as `host:port`.
    #[serde(default)]
    pub(crate) operator_addresses: Vec<String>,
    /// What it offers.
    pub(crate) capacity: Resources,
    /// What is free of that.
    pub(crate) free: Resources,
    /// How fresh its view is.
    pub(crate) view: Freshness,
    /// All members' capacity, the silent ones left out.
    pub(crate) cluster_capacity: Resources,
    /// What is free of that.
    pub(crate) cluster_free: Resources,
    /// Jobs that are wanted, and how many of them are not fully placed.
    pub(crate) jobs_live: u32,
    /// Jobs with slots that nobody took.
    pub(crate) jobs_pending: u32,
    /// Tasks that run, anywhere.
    pub(crate) tasks_running: u32,
    /// What this host cannot do, each in a sentence.
    pub(crate) warnings: Vec<String>,
    /// What ended its membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<RemovedBy>,
}

/// `GET /v1/jobs/{job}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobDetail {
    /// How it is now.
    #[serde(flatten)]
    pub(crate) view: JobView,
    /// All that its submitter said, where that is known to whoever answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spec: Option<JobSpec>,
}

/// `GET /v1/jobs/{job}/why`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Why {
    /// The job.
    pub(crate) job: JobView,
    /// What one copy asks.
    pub(crate) asks: Resources,
    /// Its tasks.
    pub(crate) tasks: Vec<TaskView>,
    /// What each member that answered says to one more copy, fresh.
    pub(crate) opinions: Vec<Opinion>,
    /// Members that did not answer: name, and why nothing is known.
    pub(crate) unknown: Vec<(String, String)>,
}

/// `POST /v1/invitations`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InvitationRequest {
    /// Member or operator.
    pub(crate) role: Role,
    /// How many may join with it.
    pub(crate) uses: u32,
    /// For how long, in seconds.
    pub(crate) ttl_s: u64,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InvitationReply {
    /// What `join` or `login` takes.
    pub(crate) token: String,
    /// When it ends, by the answering node's clock.
    pub(crate) expires: WallTime,
    /// What to call it, to take it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<NodeId>,
}

/// `POST /v1/down`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DownRequest {
    /// Stop this node's tasks too, and wait for their end.
    #[serde(default)]
    pub(crate) stop_tasks: bool,
}

/// One line of `GET /v1/jobs/{job}/logs` and `/follow` (newline-delimited JSON).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum LogItem {
    /// Output, byte for byte.
    Output {
        /// `JOB.INDEX`.
        task: String,
        /// The name of the node where it runs.
        node: String,
        /// Nanoseconds since 1970, by that node's clock.
        at_ns: u64,
        /// 1 for stdout, 2 for stderr.
        stream: u8,
        /// The bytes, base64.
        data: String,
    },
    /// A node took a task (`/follow` only).
    Placed {
        /// `JOB.INDEX`.
        task: String,
        /// Which node.
        node: String,
    },
    /// A node starts a task, and may have to fetch its image first (`/follow?starting=true`
    /// only: whoever asks knows this line).
    Starting {
        /// `JOB.INDEX`.
        task: String,
        /// Which node.
        node: String,
        /// How far the image is, where there is one on its way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fetching: Option<Fetching>,
    },
    /// A task ended.
    Ended {
        /// `JOB.INDEX`.
        task: String,
        /// Where it ran.
        node: String,
        /// 128 and the signal for signals.
        exit_code: i32,
        /// In a sentence.
        detail: String,
    },
    /// Something that a reader should know: output lost, a node not reached.
    Notice {
        /// In a sentence.
        message: String,
    },
    /// The job is over; always the last line of `/follow`.
    Done {
        /// 0, or the first failed task's exit code.
        exit_code: i32,
        /// Succeeded, failed or stopped.
        state: String,
    },
}

/// `GET /v1/tasks/{task}/stats`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// `JOB.INDEX`; empty where another member asked, which knows it.
    pub(crate) task: String,
    /// The name of the node where it runs.
    pub(crate) node: String,
    /// Whether it is held still.
    #[serde(default)]
    pub(crate) paused: bool,
    /// What it uses.
    #[serde(flatten)]
    pub(crate) usage: runtime::Usage,
}

/// `GET /v1/tasks/{task}/processes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Processes {
    /// The name of the node where they run.
    pub(crate) node: String,
    /// All of the task, its first one first.
    pub(crate) items: Vec<runtime::ProcessRow>,
}

/// Why a request failed: the body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) error: Complaint,
}

/// The three lines that people see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Complaint {
    /// For programs; stable.
    pub(crate) code: String,
    /// What did not work.
    pub(crate) message: String,
    /// Why, one reason a line.
    #[serde(default)]
    pub(crate) why: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub(crate) hint: Option<String>,
}

impl Complaint {
    /// A complaint with one reason and a hint.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), why: Vec::new(), hint: None }
    }

    /// Adds a reason.
    pub(crate) fn because(mut self, why: impl ToString) -> Self {
        self.why.push(why.to_string());
        self
    }

    /// Says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
