//! `testnet bench NAME`: measures, prints one table, keeps the same as JSON.
//!
//! Exit codes: 1 when a must is missed, 3 when a peer could not be measured.

use std::path::{Path, PathBuf};

use testnet::complaint::Complaint;

use super::{Report, up};
use crate::bench::{self, Measured};
use crate::cli::{Bench, Benchmark};

/// Where results are kept, below the workspace.
const RESULTS: &str = "target/testnet";

pub(crate) fn run(args: &Bench) -> Result<Report, Complaint> {
    let measured = match args.name {
        Benchmark::RunLatency => {
            bench::run_latency::run(&starling(args)?, args.rounds).map(Measured::from)
        }
        Benchmark::Images => bench::images::run(&bench::images::Options {
            rounds: args.rounds,
            install_peers: args.install_peers,
            starling: starling(args)?,
            kept: bench::images::kept(&results()),
        }),
        Benchmark::Runtime => bench::runtime::run(&bench::runtime::Options {
            rounds: args.rounds,
            tasks: args.tasks,
            crowd: args.crowd,
            install_peers: args.install_peers,
            keeper: args.starling.clone(),
        }),
    };
    let outcome = measured.map_err(|error| {
        Complaint::caused("nothing was measured", &error, "is the machine otherwise idle?")
    })?;
    let kept = keep(&outcome)?;
    let text = format!("{}kept in {}", outcome.text, kept.display());
    let report = Report::new(text, outcome.json);
    Ok(if outcome.holds { report } else { report.failed() })
}

/// The agent's binary: the one that is named, or built now.
fn starling(args: &Bench) -> Result<PathBuf, Complaint> {
    args.starling.clone().map_or_else(up::build, Ok)
}

fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(RESULTS)
}

fn keep(outcome: &Measured) -> Result<PathBuf, Complaint> {
    let dir = results();
    let path = dir.join(format!("bench-{}.json", outcome.name));
    let failed = |error: &dyn std::error::Error| {
        Complaint::caused("cannot keep the result", error, "look at the disk")
    };
    let text = serde_json::to_string_pretty(&outcome.json).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(&dir).map_err(|error| failed(&error))?;
    std::fs::write(&path, text).map_err(|error| failed(&error))?;
    Ok(path)
}
