//! `testnet bench NAME`: measures, prints one table, keeps the same as JSON.
//!
//! Exit codes: 1 when a must is missed, 3 when a peer could not be measured.

use std::path::{Path, PathBuf};

use serde_json::json;
use testnet::complaint::Complaint;

use super::{Report, up};
use crate::bench::{self, Outcome};
use crate::cli::{Bench, Benchmark};

/// Where results are kept, below the workspace.
const RESULTS: &str = "target/testnet";

pub(crate) fn run(args: &Bench) -> Result<Report, Complaint> {
    let starling = match &args.starling {
        Some(path) => path.clone(),
        None => up::build()?,
    };
    let measured = match args.name {
        Benchmark::RunLatency => bench::run_latency::run(&starling, args.rounds),
    };
    let outcome = measured.map_err(|error| {
        Complaint::caused("nothing was measured", &error, "is the machine otherwise idle?")
    })?;
    let json = json!(&outcome);
    let kept = keep(&outcome)?;
    let text = format!("{}kept in {}", outcome.table(), kept.display());
    let report = Report::new(text, json);
    Ok(if outcome.holds() { report } else { report.failed() })
}

fn keep(outcome: &Outcome) -> Result<PathBuf, Complaint> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(RESULTS);
    let path = dir.join(format!("bench-{}.json", outcome.name));
    let failed = |error: &dyn std::error::Error| {
        Complaint::caused("cannot keep the result", error, "look at the disk")
    };
    let text = serde_json::to_string_pretty(outcome).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(&dir).map_err(|error| failed(&error))?;
    std::fs::write(&path, text).map_err(|error| failed(&error))?;
    Ok(path)
}
