//! Slots, generations and epochs: what is wanted, and the order of its claims.
//!
//! Claims for one slot order by (generation, epoch, node). The order is total
//! and the same on every node, so of two holders exactly one is better.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{ContentHash, JobId, NodeId};

/// The longest name of a job or group, as a DNS label.
pub const NAME_LENGTH_MAX: usize = 63;

/// The text given cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} cannot be a name; use 1 to {NAME_LENGTH_MAX} of a-z, 0-9 and '-', not starting or ending with '-'"
)]
pub struct BadName {
    given: String,
}

/// Whether `text` may name a job or group: a DNS label, so that discovery can use it.
pub fn check_name(text: &str) -> Result<(), BadName> {
    let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = !text.starts_with('-') && !text.ends_with('-');
    if letters && ends && (1..=NAME_LENGTH_MAX).contains(&text.len()) {
        Ok(())
    } else {
        Err(BadName { given: text.chars().take(NAME_LENGTH_MAX + 1).collect() })
    }
}

/// A group's name within its job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// The name of the only group of a job that was not written as groups.
    pub fn main() -> Self {
        Self("main".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        check_name(text).map(|()| Self(text.into()))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for GroupName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One wanted copy of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId {
    /// The job that wants it.
    pub job: JobId,
    /// The group within the job.
    pub group: GroupName,
    /// Counted from 1, as users see it.
    pub index: u32,
}

/// A version of a job's spec; the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// One more than the greatest that the editor saw.
    pub counter: u64,
    /// The spec blob.
    pub spec: ContentHash,
}

/// Orders the claims for one slot of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// One more than the greatest that the driver saw.
    pub counter: u64,
    /// The driver's random tender id: breaks ties without consensus.
    pub tender: u64,
}

/// An absurd jump of a counter is refused: no honest node gets there in a lifetime.
pub const COUNTER_MAX: u64 = 1 << 48;

/// What decides between two claims for a slot: the greater stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimRank {
    /// A newer spec beats an older one.
    pub generation: Generation,
    /// A later tender beats an earlier one.
    pub epoch: Epoch,
    /// The rest is arbitrary but the same everywhere.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-2", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
