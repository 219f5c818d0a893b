//! `testnet sim`: seeds in, one table out, and how to repeat what failed.

use std::time::Instant;

use serde_json::json;
use testnet::complaint::{Complaint, USAGE};
use testnet::sim::{self, Options, Summary};

use super::Report;
use crate::cli::Sim;

/// Failing seeds and violations are shown up to this many.
const SHOWN_MAX: usize = 10;

pub(crate) fn run(args: &Sim) -> Result<Report, Complaint> {
    if !(1..=sim::NODES_MAX).contains(&args.nodes) {
        return Err(Complaint::new(
            format!("cannot simulate {} nodes", args.nodes),
            format!("a run has 1 to {} nodes", sim::NODES_MAX),
            "try `testnet sim --nodes 5`",
        )
        .with_code(USAGE));
    }
    let options = Options { nodes: args.nodes, mutant: args.mutant, trace: args.trace };
    let began = Instant::now();
    let count = if args.trace { 1 } else { args.seeds };
    let summary = sim::run_many(args.first, count, &options);
    let seconds = began.elapsed().as_secs_f64();
    let text = text(args, &summary, seconds);
    let failed: Vec<_> = summary
        .failed
        .iter()
        .map(|(seed, violations)| {
            let violations: Vec<_> = violations
                .iter()
                .map(|it| json!({"judge": it.judge.to_string(), "at_ms": it.at, "what": it.what}))
                .collect();
            json!({"seed": seed, "replay": replay(args, *seed), "violations": violations})
        })
        .collect();
    let json = json!({
        "seeds": summary.seeds,
        "nodes": args.nodes,
        "mutant": args.mutant.map(sim::Mutant::name),
        "seconds": seconds,
        "simulated_ms": summary.simulated_ms(),
        "messages": summary.packets,
        "acknowledged": summary.promised,
        "worst_copies": summary.worst_copies.0,
        "worst_heal_ms": summary.worst_heal_ms.0,
        "failed": failed,
    });
    let report = Report::new(text, json);
    Ok(if summary.failed.is_empty() { report } else { report.failed() })
}

fn replay(args: &Sim, seed: u64) -> String {
    let mut line = format!("cargo testnet sim --first {seed} --nodes {} --trace", args.nodes);
    if let Some(mutant) = args.mutant {
        line.push_str(&format!(" --mutant {}", mutant.name()));
    }
    line
}

fn text(args: &Sim, summary: &Summary, seconds: f64) -> String {
    let violations: usize = summary.failed.iter().map(|(_, violations)| violations.len()).sum();
    let hours = summary.simulated_ms() as f64 / 3_600_000.0;
    let (copies, copies_seed) = summary.worst_copies;
    let (heal_ms, heal_seed) = summary.worst_heal_ms;
    let mut rows = vec![
        row("seeds", format!("{} of {} nodes, in {seconds:.1} s", summary.seeds, args.nodes)),
        row("simulated", format!("{hours:.1} hours")),
        row("messages", summary.packets.to_string()),
        row("acknowledged", format!("{} asks", summary.promised)),
        row("worst copies", format!("{copies} of one slot (seed {copies_seed})")),
        row("worst heal", format!("{:.1} s (seed {heal_seed})", heal_ms as f64 / 1000.0)),
        row("violations", format!("{violations} in {} seeds", summary.failed.len())),
    ];
    if let Some(mutant) = args.mutant {
        rows.insert(1, row("mutant", mutant.name().to_owned()));
    }
    let mut text = super::table::columns(&rows);
    for (seed, violations) in summary.failed.iter().take(SHOWN_MAX) {
        text.push_str(&format!("\n{}\n", replay(args, *seed)));
        for it in violations.iter().take(SHOWN_MAX) {
            let at = it.at as f64 / 1000.0;
            text.push_str(&format!("  {at:>8.3} {}: {}\n", it.judge, it.what));
        }
    }
    text
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}
