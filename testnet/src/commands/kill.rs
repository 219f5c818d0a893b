//! `testnet kill HOST`: what a power cut, or a crash of the agent, leaves.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::hosts::{self, Marks};
use testnet::fabric::{Fabric, Host};

use super::pause::{agent, count, signal};
use super::{Report, host, open};
use crate::cli::Kill;

/// How long a killed agent may take to be gone.
const DYING: Duration = Duration::from_secs(10);

pub(crate) fn run(dir: &Path, args: &Kill) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let host = host(&fabric, &args.host)?;
    let killed = if args.agent_only {
        end_agent(&fabric, host, Signal::KILL)?;
        1
    } else {
        hosts::kill(&[Marks::of(host)]).map_err(|survivors| {
            Complaint::caused(
                format!("{} is not dead", host.name),
                &survivors,
                "a process in state D waits for a device; look at /proc/PID/stack",
            )
        })?
    };
    let text = format!("killed {} of {}", count(killed), host.name);
    Ok(Report::new(text, json!({ "host": host.name, "killed": killed })))
}

/// Ends the host's agent and waits until it is gone.
pub(super) fn end_agent(fabric: &Fabric, host: &Host, how: Signal) -> Result<(), Complaint> {
    let agent = agent(host)?;
    signal(fabric, host, std::slice::from_ref(&agent), how)?;
    signal(fabric, host, std::slice::from_ref(&agent), Signal::CONT)?;
    if agent.ends_by(Instant::now() + DYING) {
        return Ok(());
    }
    Err(Complaint::new(
        format!("the agent of {} did not end", host.name),
        format!("process {} is still there after {} s", agent.pid(), DYING.as_secs()),
        format!("`testnet kill {} --agent-only` does not ask", host.name),
    ))
}
