//! `--health-cmd` and its kin: Docker's words for how a task is asked whether it is well.
//!
//! Without --health-cmd the others change what the image says. Pure.

use std::time::Duration;

use clap::Args;
use gossip_core::health::{HealthSpec, HealthTest};

use crate::cli::times;

/// How a task is asked.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthArgs {
    /// Ask whether it is well with this line for its /bin/sh: 0 means it is
    #[arg(long, value_name = "LINE")]
    health_cmd: Option<String>,
    /// Time between two checks, like 10s or 1m30s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    health_interval: Option<Duration>,
    /// How long one may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    health_timeout: Option<Duration>,
    /// How many failures in a row mean that it is not well [default: 3]
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// How long after its start failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    health_start_period: Option<Duration>,
    /// Do not ask, whatever its image says
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout",
        "health_retries", "health_start_period"])]
    no_healthcheck: bool,
}

impl HealthArgs {
    /// What the job says; nothing if nobody said anything.
    pub(crate) fn spec(self) -> Option<HealthSpec> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let test = match (self.health_cmd, self.no_healthcheck) {
            (_, true) => Some(HealthTest::None),
            (line, false) => line.map(HealthTest::Shell),
        };
        let spec = HealthSpec {
            test,
            interval_ms: self.health_interval.map(ms),
            timeout_ms: self.health_timeout.map(ms),
            start_period_ms: self.health_start_period.map(ms),
            retries: self.health_retries,
        };
        (spec != HealthSpec::default()).then_some(spec)
    }
}
