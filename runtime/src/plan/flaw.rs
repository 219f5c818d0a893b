//! What is wrong with a launch, and where in it.

use std::path::PathBuf;

use crate::capability::UnknownCapability;
use crate::cgroup::LimitFlaw;
use crate::launch::LaunchFlaw;

/// A launch that this machine, or any, cannot run. Nothing was done for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PlanFlaw {
    /// Which field of the launch: `container.mounts[2].target`.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It makes no sense as it stands.
    #[error("{0}")]
    Launch(String),
    /// The launch would be misread by the kernel.
    #[error(transparent)]
    Flawed(#[from] LaunchFlaw),
    /// No machine could enforce it.
    #[error(transparent)]
    Limit(#[from] LimitFlaw),
    /// Paths are absolute, UTF-8, bounded, without `..` and without a zero byte.
    #[error("{} is not an absolute UTF-8 path without .. of at most {most} bytes", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Longest path there is.
        most: usize,
    },
    /// Something of the container's own is there.
    #[error("nothing can be mounted at {}", path.display())]
    Reserved {
        /// The path.
        path: PathBuf,
    },
    /// Two want the same place.
    #[error("something else is mounted at {} already", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Nothing where something is needed.
    #[error("is empty")]
    Empty,
    /// A list that is too long.
    #[error("{count} are more than {most}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A number beyond its bounds.
    #[error("{value} is not between {least} and {most}")]
    Range {
        /// The number.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A text that is none of those known.
    #[error("{given:?} is not {wanted}")]
    Text {
        /// The text.
        given: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// No such capability.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// The machine cannot do it.
    #[error("this machine cannot do that: {lacks}")]
    Machine {
        /// What it lacks, and what helps.
        lacks: &'static str,
    },
}

impl PlanFlaw {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
