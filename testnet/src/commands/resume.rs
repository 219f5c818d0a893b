//! `testnet resume HOST`: whatever of the host is paused goes on (SIGCONT).

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::hosts::{AgentState, Census, Marks};

use super::pause::{count, signal};
use super::{Report, host, open};
use crate::cli::OneHost;

pub(crate) fn run(dir: &Path, args: &OneHost) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let host = host(&fabric, &args.host)?;
    let mut paused = Census::take().find(&[Marks::of(host)]);
    paused.retain(|process| process.state() == AgentState::Paused);
    signal(&fabric, host, &paused, Signal::CONT)?;
    let text = format!("resumed {} of {}", count(paused.len()), host.name);
    Ok(Report::new(text, json!({ "host": host.name, "resumed": paused.len() })))
}
