//! `testnet oci-validate`: the public suite on our OCI runtime, and on others beside it.

use std::path::PathBuf;

use serde_json::json;
use testnet::complaint::{Complaint, USAGE};
use testnet::oci::suite::{self, Outcome, Subject, Suite, SuiteError};
use testnet::program;

use super::Report;
use super::table::columns;
use crate::cli::OciValidate;

/// Runtimes that are compared with, where they are installed.
const PEERS: [&str; 2] = ["crun", "runc"];

pub(crate) fn run(args: &OciValidate) -> Result<Report, Complaint> {
    if !rustix::process::geteuid().is_root() {
        let why = "its bundles want control groups, devices and mounts of the host";
        return Err(Complaint::new("the suite takes root", why, "run it as root"));
    }
    let oci = oci(args)?;
    let cache = args.cache.clone().unwrap_or_else(|| PathBuf::from("target/oci-validation"));
    std::fs::create_dir_all(&cache)
        .and_then(|()| cache.canonicalize())
        .map_err(|error| Complaint::caused("there is no cache", &error, "name one with --cache"))
        .and_then(|cache| play(args, &cache, oci))
}

fn play(args: &OciValidate, cache: &std::path::Path, oci: PathBuf) -> Result<Report, Complaint> {
    let suite = Suite::prepare(cache).map_err(|error| {
        let hint = "it takes apt and a Debian repository; the suite is kept below --cache";
        Complaint::caused("the suite cannot be had", &error, hint)
    })?;
    let tests = suite.tests(&args.tests).map_err(|error| match error {
        SuiteError::NoTest { .. } => {
            Complaint::caused("no such test", &error, "run all of them to see their names")
                .with_code(USAGE)
        }
        error => {
            Complaint::caused("the suite is of no use", &error, "remove the cache and try again")
        }
    })?;
    let installed = |name: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(**name).is_file())
    };
    let peers = PEERS.iter().filter(|_| !args.only_ours).filter(installed);
    let subjects: Vec<_> =
        std::iter::once(Subject::Ours(oci)).chain(peers.map(|name| Subject::Peer(name))).collect();
    let mut told = Told::default();
    for test in &tests {
        let outcomes = subjects.iter().map(|subject| suite.run(test, subject));
        let outcomes: Vec<_> = outcomes.collect::<Result<_, _>>().map_err(|error| {
            Complaint::caused("a test cannot be run", &error, "it takes unshare, timeout and tar")
        })?;
        told.add(test, &subjects, &outcomes);
    }
    Ok(told.report(&subjects))
}

/// The binary to test: the one named, the one beside this program, or one built now.
fn oci(args: &OciValidate) -> Result<PathBuf, Complaint> {
    let beside =
        || std::env::current_exe().and_then(|own| own.with_file_name("oci").canonicalize());
    let found = match &args.oci {
        Some(path) => path.canonicalize(),
        None => beside().or_else(|_| program::build("oci")),
    };
    let hint = "name it with --oci, or run this where cargo can build it";
    found.map_err(|error| Complaint::caused("there is no OCI runtime of ours", &error, hint))
}

#[derive(Debug, Default)]
struct Told {
    rows: Vec<Vec<String>>,
    remarks: String,
    json: Vec<serde_json::Value>,
    failed: usize,
}

impl Told {
    fn add(&mut self, test: &str, subjects: &[Subject], outcomes: &[Outcome]) {
        let Some(ours) = outcomes.first() else { return };
        let unlisted = suite::unlisted(test, ours);
        let mut row = vec![test.to_owned()];
        row.extend(outcomes.iter().map(Outcome::cell));
        row.push(match (unlisted.is_empty(), ours.failed.is_empty()) {
            (false, _) => "FAILED".to_owned(),
            (true, false) => "as listed".to_owned(),
            (true, true) => String::new(),
        });
        if unlisted.is_empty() && !ours.failed.is_empty() {
            for reason in suite::reasons(test) {
                self.remarks.push_str(&format!("{test}: {reason}\n"));
            }
        }
        for failure in &unlisted {
            self.remarks.push_str(&format!("{test} FAILED: {failure}\n"));
        }
        self.failed += usize::from(!unlisted.is_empty());
        let of = subjects.iter().zip(outcomes).map(|(subject, outcome)| {
            json!({"runtime": subject.name(), "passed": outcome.passed,
                "skipped": outcome.skipped, "failed": outcome.failed})
        });
        self.json
            .push(json!({"test": test, "outcomes": of.collect::<Vec<_>>(), "unlisted": unlisted}));
        self.rows.push(row);
    }

    fn report(self, subjects: &[Subject]) -> Report {
        let mut heads = vec!["TEST".to_owned()];
        heads.extend(subjects.iter().map(|subject| subject.name().to_ascii_uppercase()));
        let rows = [vec![heads], self.rows].concat();
        let text = format!("{}\n{}", columns(&rows), self.remarks);
        let report = Report::new(text, json!({"tests": self.json, "failed": self.failed}));
        if self.failed > 0 { report.failed() } else { report }
    }
}
