//! Limits and use of tasks, through control groups.

mod limits;

pub use limits::Limits;
