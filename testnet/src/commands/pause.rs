//! `testnet pause HOST`: the agent freezes (SIGSTOP), its tasks go on, or not.

use std::path::Path;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::hosts::{Census, Marks, Process};
use testnet::fabric::{Fabric, Host};

use super::{Report, host, open};
use crate::cli::Torment;

/// A thread stops within its slice, unless it waits for a device.
const STOPPING: Duration = Duration::from_secs(5);

pub(crate) fn run(dir: &Path, args: &Torment) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let host = host(&fabric, &args.host)?;
    let paused =
        if args.all { Census::take().find(&[Marks::of(host)]) } else { vec![agent(host)?] };
    signal(&fabric, host, &paused, Signal::STOP)?;
    let deadline = Instant::now() + STOPPING;
    if let Some(busy) = paused.iter().find(|process| !process.stops_by(deadline)) {
        return Err(Complaint::new(
            format!("{} is not quite paused", host.name),
            format!("process {} has not stopped after {} s", busy.pid(), STOPPING.as_secs()),
            "it waits for a device, and stops when that answers",
        ));
    }
    let text = format!("paused {} of {}", count(paused.len()), host.name);
    Ok(Report::new(text, json!({ "host": host.name, "paused": paused.len() })))
}

/// The host's agent, which must be there.
pub(super) fn agent(host: &Host) -> Result<Process, Complaint> {
    Census::take().agent(host).ok_or_else(|| {
        Complaint::new(
            format!("{} has no agent", host.name),
            "no process of the host listens on its socket or runs `starling agent`",
            format!("start it with `testnet restart {}`", host.name),
        )
    })
}

/// Sends every process a signal.
pub(super) fn signal(
    fabric: &Fabric,
    host: &Host,
    processes: &[Process],
    signal: Signal,
) -> Result<(), Complaint> {
    for process in processes {
        process.signal(signal).map_err(|error| {
            Complaint::caused(
                format!("cannot signal process {} of {}", process.pid(), host.name),
                &error,
                format!("is this the user who brought up {}?", fabric.dir.display()),
            )
        })?;
    }
    Ok(())
}

pub(super) fn count(processes: usize) -> String {
    match processes {
        1 => "1 process".to_owned(),
        many => format!("{many} processes"),
    }
}
