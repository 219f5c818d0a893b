//! `testnet down`: agents are asked, everything else is taken away.
//!
//! A fabric that is broken in any way must still come down, so nothing here
//! but the sweep itself can fail.

use std::path::Path;
use std::thread;

use rustix::process::Signal;
use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::agent::Agent;
use testnet::fabric::control::{self, Healing};
use testnet::fabric::hosts::{Census, Marks};
use testnet::fabric::sweep::{self, SweepError, Swept};
use testnet::fabric::{Fabric, FabricError, Ground};

use super::pause::count;
use super::{Report, Way, directions, record_complaint};

pub(crate) fn run(dir: &Path) -> Result<Report, Complaint> {
    let fabric = match Fabric::open(dir) {
        Ok(fabric) => fabric,
        Err(lost @ FabricError::NothingUp { .. }) => {
            let left = sweep::leftovers(dir).map_err(complaint)?;
            return left
                .map(|swept| report("swept up after a lost fabric", swept, &[]))
                .ok_or_else(|| record_complaint(lost));
        }
        Err(other) => return Err(record_complaint(other)),
    };
    let unwilling = ask_agents(&fabric);
    let swept = sweep::fabric(&fabric).map_err(complaint)?;
    Ok(report("down", swept, &unwilling))
}

/// Takes a fabric away without asking its agents.
pub(super) fn sweep(fabric: &Fabric) -> Result<Swept, Complaint> {
    sweep::fabric(fabric).map_err(complaint)
}

/// Has every agent stop its tasks and itself; gives those that did not.
fn ask_agents(fabric: &Fabric) -> Vec<String> {
    if fabric.ground == Ground::Netns
        && let Ok(all) = directions(fabric, "*", "*", Way::Both)
    {
        let _ = control::heal(fabric, all, Healing::Everything);
    }
    let census = Census::take();
    for process in census.find(&Marks::of_fabric(fabric)) {
        let _ = process.signal(Signal::CONT);
    }
    let running = fabric.hosts.iter().filter(|host| census.agent(host).is_some());
    thread::scope(|scope| {
        let asked: Vec<_> = running
            .map(|host| {
                let down = move || Agent::of(fabric, host).and_then(|agent| agent.down());
                (host, scope.spawn(down))
            })
            .collect();
        let unwilling = asked.into_iter().filter_map(|(host, answer)| {
            let stopped = matches!(answer.join(), Ok(Ok(())));
            (!stopped).then(|| host.name.clone())
        });
        unwilling.collect()
    })
}

fn report(done: &str, swept: Swept, unwilling: &[String]) -> Report {
    let Swept { processes, namespaces, mounts } = swept;
    let mut text = format!(
        "{done}: killed {}, removed {namespaces} namespaces and {mounts} mounts",
        count(processes)
    );
    if !unwilling.is_empty() {
        text.push_str("\nkilled because they did not stop when asked: ");
        text.push_str(&unwilling.join(", "));
    }
    Report::new(text, json!({ "swept": swept, "unwilling": unwilling }))
}

fn complaint(error: SweepError) -> Complaint {
    Complaint::caused(
        "something is left",
        &error,
        "run `testnet down` again; what is gone already is no problem",
    )
}
