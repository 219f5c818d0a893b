//! `testnet restart HOST`: the agent starts again with the arguments it had.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::agent::Agent;
use testnet::fabric::hosts::Census;

use super::kill::end_agent;
use super::{Report, host, open};
use crate::cli::OneHost;

pub(crate) fn run(dir: &Path, args: &OneHost) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let host = host(&fabric, &args.host)?;
    if Census::take().agent(host).is_some() {
        end_agent(&fabric, host, Signal::TERM)?;
    }
    // Its data directory knows which cluster it is in; only the first start joins.
    Agent::of(&fabric, host).and_then(|agent| agent.up()).map_err(|error| {
        let logs = fabric.dir.join("log");
        Complaint::caused(
            format!("{} did not start again", host.name),
            &error,
            format!("what it said is in {}", logs.display()),
        )
    })?;
    let pid = Census::take().agent(host).map(|agent| agent.pid());
    let text = format!("restarted the agent of {}", host.name);
    Ok(Report::new(text, json!({ "host": host.name, "pid": pid })))
}
