//! The public OCI runtime validation suite, pointed at our `oci` and at others.
//!
//! ```text
//! fetch (once, kept) ─▶ for each test, for each runtime:
//!     mount namespace of its own ─▶ test program ─▶ create, start, … ─▶ TAP ─▶ outcome
//! ```
//!
//! A test program is the suite's own, from github.com/opencontainers/runtime-tools
//! (`validation/`), as the distribution ships its source. What fails on ours must be in
//! `known.txt`, with a reason; what others do is shown beside it and judges nobody.
//!
//! Invariant: nothing that a test or a runtime mounts is left on this machine.

mod fetch;
mod tap;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use tap::{Outcome, Unlisted};

use crate::vm::VmError;

/// What is known to differ, and why.
const KNOWN: &str = include_str!("suite/known.txt");

/// How long one test may take: they wait for seconds, never for a minute.
const TEST_SECONDS: u32 = 60;

/// The suite could not be had or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// A program of this machine failed.
    #[error(transparent)]
    Tool(#[from] VmError),
    /// A file could not be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This machine has no such distribution.
    #[error("apt names no repository of a Debian release here")]
    NoRepository,
    /// There is no such test.
    #[error("the suite has no test {name}")]
    NoTest {
        /// What was asked for.
        name: String,
    },
}

/// A path with what went wrong with it.
fn at(path: &Path) -> impl FnOnce(io::Error) -> SuiteError {
    let path = path.to_owned();
    move |source| SuiteError::Io { path, source }
}

/// The suite, built.
#[derive(Debug)]
pub struct Suite {
    /// Where its programs and what they need are.
    dir: PathBuf,
    /// Where tests work; emptied afterwards.
    scratch: PathBuf,
}

/// A runtime to be tested.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Ours: the binary.
    Ours(PathBuf),
    /// Another, by its name.
    Peer(&'static str),
}

impl Subject {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::Peer(name) => name,
        }
    }
}

impl Suite {
    /// Fetches and builds it below `cache`, or finds it there.
    ///
    /// # Errors
    /// Where apt or its repositories cannot be had, or Go does not compile it.
    pub fn prepare(cache: &Path) -> Result<Self, SuiteError> {
        let dir = fetch::built(cache)?;
        let scratch = cache.join("scratch");
        // A run that was interrupted may have left something.
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch).map_err(at(&scratch))?;
        Ok(Self { dir, scratch })
    }

    /// The names of its tests, all of them or those asked for.
    pub fn tests(&self, wanted: &[String]) -> Result<Vec<String>, SuiteError> {
        let programs = self.dir.join(fetch::PROGRAMS);
        let entries = fs::read_dir(&programs).map_err(at(&programs))?.flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        match wanted.iter().find(|name| !names.contains(name)) {
            Some(name) => Err(SuiteError::NoTest { name: name.clone() }),
            None if wanted.is_empty() => Ok(names),
            None => Ok(wanted.to_vec()),
        }
    }

    /// Runs a test on a runtime.
    pub fn run(&self, test: &str, subject: &Subject) -> Result<Outcome, SuiteError> {
        let place = self.scratch.join(format!("{test}-{}", subject.name()));
        fs::create_dir_all(place.join("tmp")).map_err(at(&place))?;
        let runtime = self.runtime(subject, &place)?;
        let (out, err) = (place.join("tap"), place.join("said"));
        let make = |path: &Path| File::create(path).map_err(at(path));
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script(subject), "test"])
            .arg(TEST_SECONDS.to_string())
            .arg(self.dir.join(fetch::PROGRAMS).join(test))
            .current_dir(&self.dir)
            .env("RUNTIME", &runtime)
            .env("TMPDIR", place.join("tmp"))
            .stdin(Stdio::null())
            .stdout(make(&out)?)
            .stderr(make(&err)?);
        let status = command.status().map_err(at(Path::new("unshare")))?;
        let text = |path: &Path| fs::read(path).map_err(at(path));
        let (tap, said) = (text(&out)?, text(&err)?);
        let (tap, said) = (String::from_utf8_lossy(&tap), String::from_utf8_lossy(&said));
        let outcome = Outcome::read(status, &tap, &said);
        fs::remove_dir_all(&place).map_err(at(&place))?;
        Ok(outcome)
    }

    /// What the test calls: the runtime with a root directory of its own.
    fn runtime(&self, subject: &Subject, place: &Path) -> Result<PathBuf, SuiteError> {
        let program = match subject {
            Subject::Ours(program) => program.display().to_string(),
            Subject::Peer(name) => (*name).to_owned(),
        };
        let path = place.join("runtime");
        let root = place.join("root");
        let text = format!("#!/bin/sh\nexec '{program}' --root '{}' \"$@\"\n", root.display());
        fs::write(&path, text).map_err(at(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at(&path))?;
        Ok(path)
    }
}

/// Runs `$2` for `$1` seconds, in its own mount namespace. Beside version 1, crun wants no
/// version 2 of control groups to be there; it is taken away in that namespace only.
fn script(subject: &Subject) -> &'static str {
    match subject {
        Subject::Peer("crun") => {
            "while grep -q ' /sys/fs/cgroup/unified ' /proc/mounts; do \
             umount -l /sys/fs/cgroup/unified || break; done; \
             timeout --kill-after 2 \"$1\" \"$2\""
        }
        _ => "timeout --kill-after 2 \"$1\" \"$2\"",
    }
}

/// What of an outcome on ours is not in the list of what is known.
pub fn unlisted(test: &str, outcome: &Outcome) -> Vec<Unlisted> {
    tap::unlisted(KNOWN, test, outcome)
}

/// The reasons that the list gives for a test.
pub fn reasons(test: &str) -> Vec<&'static str> {
    tap::reasons(KNOWN, test)
}
