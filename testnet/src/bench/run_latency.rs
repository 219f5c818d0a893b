//! `run --exec -- true`, from the start of the CLI to its exit.
//!
//! Submit, replicate, tender, bid, award, claim, launch, exit, outcome, answer,
//! on a peer other than the one asked. The floor is what one such process
//! costs on this machine: fork, exec and wait.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::{CPUS, Cluster, HOSTS};
use super::{Outcome, ROUNDS_MIN, Row, percentile};

/// Samples of each kind in one round.
const SAMPLES: u32 = 10;

/// The median must be below this; a later landing goes far below.
const MUST_BELOW_MS: f64 = 60.0;

/// Measures.
pub(crate) fn run(starling: &Path, rounds: u32) -> io::Result<Outcome> {
    let rounds = rounds.max(ROUNDS_MIN);
    let cluster = Cluster::start(starling)?;
    let ours = || {
        let mut command = cluster.command(0, &["-q", "run", "--exec", "--", "true"]);
        timed(&mut command)
    };
    let version = || timed(Command::new(starling).arg("version"));
    let floor = || timed(&mut Command::new("true"));
    ours()?; // The first one starts the keeper.
    let (mut ours_ms, mut version_ms, mut floor_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for _ in 0..SAMPLES {
            floor_ms.push(floor()?);
            version_ms.push(version()?);
            ours_ms.push(ours()?);
        }
    }
    let floor_median = percentile(&mut floor_ms, 50);
    let row = |what: &str, samples: &mut [Duration], must| Row {
        what: what.to_owned(),
        floor_ms: Some(floor_median),
        peer_ms: None,
        ours_ms: percentile(samples, 50),
        ours_p90_ms: percentile(samples, 90),
        must_below_ms: must,
    };
    Ok(Outcome {
        name: "run-latency",
        setting: format!(
            "{HOSTS} agents on loopback; the asked one offers 0.05 CPU, the others {CPUS} CPU and 2 GiB each"
        ),
        rounds,
        rows: vec![
            row("run --exec -- true, on a peer", &mut ours_ms, Some(MUST_BELOW_MS)),
            row("starling version (CLI alone)", &mut version_ms, None),
        ],
    })
}

fn timed(command: &mut Command) -> io::Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed();
    if status.success() {
        Ok(took)
    } else {
        Err(io::Error::other(format!("it ended with {status}")))
    }
}
