//! `testnet ls`: the hosts, how they are, and the links in trouble.

use std::path::Path;

use serde_json::{Value, json};
use testnet::complaint::Complaint;
use testnet::fabric::control;
use testnet::fabric::hosts::{AgentState, Census, Marks, Process};
use testnet::fabric::{Fabric, Ground};

use super::{Report, control_complaint, open, table};

pub(crate) fn run(dir: &Path) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let (mut text, hosts) = hosts(&fabric);
    let (links, left_out) = match fabric.ground {
        Ground::Netns => control::show_troubled(&fabric).map_err(control_complaint)?,
        Ground::Loopback => (Vec::new(), 0),
    };
    if !links.is_empty() {
        text.push('\n');
        text.push_str(&table::links(&links, left_out));
    }
    let json = json!({
        "directory": fabric.dir,
        "ground": fabric.ground,
        "seed": fabric.seed,
        "starling": fabric.starling,
        "hosts": hosts,
        "links": links,
        "left_out": left_out,
    });
    Ok(Report::new(text, json))
}

/// The hosts as a table and as data.
pub(super) fn hosts(fabric: &Fabric) -> (String, Value) {
    let census = Census::take();
    let header = ["HOST", "ADDRESS", "AGENT", "PID", "PROCESSES", "TALK TO IT"];
    let mut rows = vec![table::cells(header)];
    let mut list = Vec::new();
    for host in &fabric.hosts {
        let agent = census.agent(host);
        let state = agent.as_ref().map_or(AgentState::Stopped, Process::state);
        let pid = agent.as_ref().map(Process::pid);
        let processes = census.find(&[Marks::of(host)]).len();
        rows.push(vec![
            host.name.clone(),
            host.address.to_string(),
            state.word().to_owned(),
            pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            processes.to_string(),
            format!("starling --socket {} status", host.socket.display()),
        ]);
        list.push(json!({
            "name": host.name,
            "address": host.address,
            "agent": state,
            "pid": pid,
            "processes": processes,
            "socket": host.socket,
            "data": host.data,
            "namespace": host.namespace,
        }));
    }
    (table::columns(&rows), list.into())
}
