//! Why a start failed, in stable codes and hints that people can act on.

use gossip::{JoinError, JournalError, StartError};

/// A stable code, and what to do where the error's own words do not say it.
pub(super) fn classify(error: &StartError) -> (&'static str, Option<&'static str>) {
    match error {
        StartError::Journal(error) => journal(error),
        StartError::NotAMember => (
            "not_a_member",
            Some("`starling up` founds a cluster, `starling join TOKEN` joins one"),
        ),
        StartError::OtherCluster { .. } => ("other_cluster", None),
        StartError::OperatorToken => {
            ("operator_token", Some("`starling invite` without --operator prints one for a host"))
        }
        StartError::Join(JoinError::Removed(_)) => {
            ("removed", Some("starling join --new TOKEN   joins as another host, with a new key"))
        }
        StartError::Join(JoinError::Refused { .. }) => {
            ("refused", Some("ask a member for a fresh token: `starling invite`"))
        }
        StartError::Join(_) => ("unreachable", None),
        StartError::Listen { .. } => ("port_in_use", None),
        StartError::Announce(_) => ("bad_address", None),
        StartError::Io(_) => ("start", None),
    }
}

fn journal(error: &JournalError) -> (&'static str, Option<&'static str>) {
    match error {
        JournalError::InUse { .. } => ("data_in_use", None),
        JournalError::Newer { .. } => ("newer_journal", None),
        JournalError::Corrupt { .. } => ("corrupt_journal", None),
        JournalError::OtherNode { .. } => ("other_identity", None),
        _ => {
            ("journal", Some("check the owner, the permissions and the room of the data directory"))
        }
    }
}
