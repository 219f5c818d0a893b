//! The tests of one package as a guest's commands, and libtest's words read back.
//!
//! Cargo says which binaries are tests and which are only used by them; a test
//! finds the latter by an absolute path compiled into it, so both go where they
//! lie here. Must never run a test on this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Serialize;
use serde_json::Value;

use super::{Job, VmError, Who, tool};

/// The package whose tests most need a machine of their own.
pub const PACKAGE: &str = "runtime";
/// A test says this, and why, when it did not test anything.
const SKIPPED: &str = "SKIPPED: ";

/// The built tests of a package.
#[derive(Debug, Default)]
pub struct Suite {
    tests: Vec<Test>,
    helpers: Vec<PathBuf>,
}

#[derive(Debug)]
struct Test {
    title: String,
    program: PathBuf,
    package: PathBuf,
}

impl Suite {
    /// Builds them with this machine's cargo, in the debug profile: those of these names,
    /// where `lib` are the package's own, or all. Cargo shows its progress.
    pub fn build(workspace: &Path, package: &str, names: &[&str]) -> Result<Self, VmError> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = std::process::Command::new(cargo)
            .args(["test", "--no-run", "--quiet", "-p", package])
            .args(names.iter().flat_map(|name| match *name {
                "lib" => vec!["--lib"],
                name => vec!["--test", name],
            }))
            .arg("--message-format=json-render-diagnostics")
            .current_dir(workspace)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| VmError::Start { program: "cargo".to_owned(), source })?;
        if !output.status.success() {
            let said = "its own words are above".to_owned();
            return Err(VmError::Failed {
                program: "cargo".to_owned(),
                status: output.status,
                said,
            });
        }
        let suite = Self::of(&String::from_utf8_lossy(&output.stdout));
        if suite.tests.is_empty() {
            return Err(VmError::NoTests { package: package.to_owned() });
        }
        Ok(suite)
    }

    fn of(messages: &str) -> Self {
        let mut suite = Self::default();
        for line in messages.lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
            let Some(program) = message["executable"].as_str() else { continue };
            if message["profile"]["test"].as_bool() != Some(true) {
                suite.helpers.push(PathBuf::from(program));
                continue;
            }
            let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
            let kind = message["target"]["kind"][0].as_str().unwrap_or("test");
            let name = message["target"]["name"].as_str().unwrap_or("tests");
            suite.tests.push(Test {
                title: format!("{kind} {name}"),
                program: PathBuf::from(program),
                package: manifest.parent().unwrap_or(Path::new("/")).to_owned(),
            });
        }
        suite
    }

    /// What a guest must bring along.
    pub fn carry(&self) -> Vec<PathBuf> {
        let of_tests = self.tests.iter().flat_map(|it| [it.program.clone(), it.package.clone()]);
        of_tests.chain(self.helpers.iter().cloned()).collect()
    }

    /// One command for each test binary and user. A filter is part of tests' names.
    pub fn jobs(&self, users: &[Who], filter: Option<&str>) -> Vec<Job> {
        let of = |who: Who| {
            self.tests.iter().map(move |test| {
                let mut argv: Vec<OsString> = vec![test.program.clone().into()];
                argv.extend(filter.map(OsString::from));
                // Without their output, tests that skipped look like tests that passed.
                argv.push("--show-output".into());
                Job { title: test.title.clone(), dir: test.package.clone(), argv, who }
            })
        };
        users.iter().copied().flat_map(of).collect()
    }
}

/// What libtest said of one binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Tests that passed because they could not run, as they say.
    pub skipped: Vec<String>,
    /// The names of those that failed.
    pub failures: Vec<String>,
    /// The line that sums it up; empty if the binary never came so far.
    pub summary: String,
}

impl Tally {
    /// Reads a binary's output.
    pub fn of(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            if let Some(reason) = line.trim().strip_prefix(SKIPPED) {
                tally.skipped.push(reason.to_owned());
            } else if let Some(name) = failed_test(line) {
                tally.failures.push(name.to_owned());
            } else if line.starts_with("test result: ") {
                tally.summary = line.to_owned();
                tally.passed = count(line, "passed");
                tally.failed = count(line, "failed");
                tally.ignored = count(line, "ignored");
            }
        }
        tally
    }
}

/// Whether this line ends a test.
pub fn is_verdict(line: &str) -> bool {
    line.starts_with("test ") && line.contains(" ... ")
}

/// Whether it failed.
pub fn is_failure(line: &str) -> bool {
    failed_test(line).is_some()
}

fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The number before this word.
fn count(line: &str, word: &str) -> u64 {
    let mut words = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).peekable();
    while let Some(first) = words.next() {
        if words.peek() == Some(&word) {
            return first.parse().unwrap_or_default();
        }
    }
    0
}

/// The part of the output that tells of the failures.
pub fn account(output: &str) -> &str {
    let start = output.find("\nfailures:\n").map_or(0, |at| at + 1);
    &output[start..]
}

/// The end of an output, for a run that never came to a verdict.
pub fn last_words(output: &str) -> String {
    tool::last_words(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 3 tests\ntest a::one ... ok\ntest b ... FAILED\n\
        test c ... ignored\n\nsuccesses:\n\n---- a::one stdout ----\nSKIPPED: no cgroup v2\n\n\
        failures:\n\n---- b stdout ----\nleft 1\n\nfailures:\n    b\n\n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; \
        finished in 0.10s\n";

    #[test]
    fn a_tally_names_what_failed_and_what_was_skipped() {
        let tally = Tally::of(OUTPUT);
        assert_eq!((tally.passed, tally.failed, tally.ignored), (1, 1, 1));
        assert_eq!(tally.failures, ["b"]);
        assert_eq!(tally.skipped, ["no cgroup v2"]);
        assert!(account(OUTPUT).starts_with("failures:\n\n---- b"));
        assert_eq!(Tally::of("killed before it said anything"), Tally::default());
    }

    #[test]
    fn cargo_says_which_binaries_are_tests_and_which_they_need() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/w/r/Cargo.toml","target":{"kind":["lib"],"name":"r"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/r/Cargo.toml","target":{"kind":["bin"],"name":"k"},"profile":{"test":false},"executable":"/t/k"}
{"reason":"compiler-artifact","manifest_path":"/w/r/Cargo.toml","target":{"kind":["test"],"name":"tasks"},"profile":{"test":true},"executable":"/t/tasks-1"}
{"reason":"build-finished","success":true}"#;
        let suite = Suite::of(messages);
        let paths = ["/t/tasks-1", "/w/r", "/t/k"].map(PathBuf::from);
        assert_eq!(suite.carry(), paths);
        let jobs = suite.jobs(&[Who::Delegated, Who::Undelegated], Some("x"));
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[0].argv, ["/t/tasks-1", "x", "--show-output"]);
        assert_eq!((jobs[0].title.as_str(), jobs[1].who), ("test tasks", Who::Undelegated));
    }
}
