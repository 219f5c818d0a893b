//! How a task is asked whether it is well, and what it last answered.
//!
//! The words and their defaults are Docker's. A job may leave a field to its image, where
//! that has a check of its own, or do without any check. What comes of the asking is part of
//! the task's claim, and written down only when it changes.

use serde::{Deserialize, Serialize};

/// Between two checks where nothing else is said, milliseconds.
pub const INTERVAL_MS: u64 = 30_000;

/// How long one check may take where nothing else is said, milliseconds.
pub const TIMEOUT_MS: u64 = 30_000;

/// How many failures in a row mean that a task is not well, where nothing else is said.
pub const RETRIES: u32 = 3;

/// The shortest interval: each check starts a program.
pub const INTERVAL_MS_MIN: u64 = 100;

/// The longest of any time here: a day.
pub const TIME_MS_MAX: u64 = 24 * 3600 * 1000;

/// The most failures in a row that are waited for.
pub const RETRIES_MAX: u32 = 1000;

/// How much of what a check wrote is told to the cluster, in bytes: a line or two. It is in
/// the claim, and a log's opening holds many claims.
pub const OUTPUT_BYTES_MAX: usize = 256;

/// What a job says of its task's check; what it does not say is its image's, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is run; the image's where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<HealthTest>,
    /// Between the end of one check and the next, and before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// How long one check may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// For how long after a start failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period_ms: Option<u64>,
    /// How many failures in a row mean that it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// What a check runs, inside the task and with its rights. Exit code 0 means well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthTest {
    /// Nothing, whatever the image says.
    None,
    /// A program and its arguments.
    Command(Vec<String>),
    /// A line for the task's own `/bin/sh`.
    Shell(String),
}

/// A check with everything said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Between the end of one and the next, milliseconds.
    pub interval_ms: u64,
    /// How long one may take, milliseconds.
    pub timeout_ms: u64,
    /// For how long failures do not count, milliseconds.
    pub start_period_ms: u64,
    /// How many failures in a row count.
    pub retries: u32,
}

/// What a task's checks came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub state: HealthState,
    /// What the check that changed it wrote, or why it could not be run; the beginning.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// In a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// No check went well yet, and too few went badly.
    Starting,
    /// The last check that counted went well.
    Healthy,
    /// Too many went badly in a row.
    Unhealthy,
}

impl HealthState {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Health {
    /// Of a task that has just started.
    pub fn starting() -> Self {
        Self { state: HealthState::Starting, output: String::new() }
    }
}

/// Why a check cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("health: {0}")]
pub struct BadHealth(String);

impl HealthSpec {
    /// What runs here where the image says `image`; none where neither says a test.
    pub fn over(&self, image: Option<&HealthSpec>) -> Option<Check> {
        let said = self.test.as_ref().or_else(|| image?.test.as_ref());
        let argv = match said? {
            HealthTest::None => return None,
            HealthTest::Command(argv) => argv.clone(),
            HealthTest::Shell(line) => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        };
        let or = |own: Option<u64>, theirs: fn(&HealthSpec) -> Option<u64>, usual: u64| {
            own.or_else(|| image.and_then(theirs)).unwrap_or(usual)
        };
        Some(Check {
            argv,
            interval_ms: or(self.interval_ms, |it| it.interval_ms, INTERVAL_MS),
            timeout_ms: or(self.timeout_ms, |it| it.timeout_ms, TIMEOUT_MS),
            start_period_ms: or(self.start_period_ms, |it| it.start_period_ms, 0),
            retries: self.retries.or_else(|| image?.retries).unwrap_or(RETRIES),
        })
    }

    /// Whether the job's own words make a check, whatever an image says.
    pub fn has_test(&self) -> bool {
        matches!(self.test, Some(HealthTest::Command(_) | HealthTest::Shell(_)))
    }

    /// Checks everything that must hold before it is run.
    pub fn check(&self) -> Result<(), BadHealth> {
        let bad = |why: String| Err(BadHealth(why));
        match &self.test {
            Some(HealthTest::Command(argv)) if argv.first().is_none_or(String::is_empty) => {
                return bad("there is no command to check with".to_owned());
            }
            Some(HealthTest::Shell(line)) if line.trim().is_empty() => {
                return bad("there is no command to check with".to_owned());
            }
            Some(HealthTest::Command(argv)) if argv.iter().any(|word| word.contains('\0')) => {
                return bad("it holds a NUL byte".to_owned());
            }
            Some(HealthTest::Shell(line)) if line.contains('\0') => {
                return bad("it holds a NUL byte".to_owned());
            }
            _ => {}
        }
        for (name, time, least) in [
            ("interval", self.interval_ms, INTERVAL_MS_MIN),
            ("timeout", self.timeout_ms, 1),
            ("start period", self.start_period_ms, 0),
        ] {
            if let Some(time) = time.filter(|time| !(least..=TIME_MS_MAX).contains(time)) {
                return bad(format!("an {name} of {time} ms is not {least} ms to a day"));
            }
        }
        if let Some(retries) = self.retries.filter(|it| !(1..=RETRIES_MAX).contains(it)) {
            return bad(format!("{retries} retries are not 1 to {RETRIES_MAX}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> HealthSpec {
        HealthSpec { test: Some(HealthTest::Shell(line.into())), ..HealthSpec::default() }
    }

    #[test]
    fn what_a_job_leaves_out_is_its_images_or_dockers() {
        let check = shell("true").over(None).expect("a check");
        assert_eq!(check.argv, ["/bin/sh", "-c", "true"]);
        assert_eq!(
            (check.interval_ms, check.timeout_ms, check.start_period_ms, check.retries),
            (30_000, 30_000, 0, 3)
        );
        let image = HealthSpec {
            test: Some(HealthTest::Command(vec!["probe".into()])),
            interval_ms: Some(5000),
            retries: Some(9),
            ..HealthSpec::default()
        };
        let job = HealthSpec { retries: Some(1), ..HealthSpec::default() };
        let check = job.over(Some(&image)).expect("the image's");
        assert_eq!((check.argv, check.interval_ms, check.retries), (vec!["probe".into()], 5000, 1));
        assert_eq!(job.over(None), None, "there is nothing to run");
        let none = HealthSpec { test: Some(HealthTest::None), ..HealthSpec::default() };
        assert_eq!(none.over(Some(&image)), None, "switched off");
        let both = shell("mine").over(Some(&image)).expect("a check");
        assert_eq!((both.argv[2].as_str(), both.interval_ms), ("mine", 5000));
    }

    #[test]
    fn what_cannot_be_a_check_is_refused() {
        assert_eq!(shell("true").check(), Ok(()));
        type Spoil = fn(&mut HealthSpec);
        let with = |spoil: Spoil| {
            let mut spec = shell("true");
            spoil(&mut spec);
            spec.check().expect_err("refused").to_string()
        };
        let told: [(Spoil, &str); 7] = [
            (|s| s.test = Some(HealthTest::Shell(" ".into())), "no command"),
            (|s| s.test = Some(HealthTest::Command(vec![])), "no command"),
            (|s| s.test = Some(HealthTest::Shell("a\0".into())), "NUL"),
            (|s| s.interval_ms = Some(99), "interval of 99 ms"),
            (|s| s.timeout_ms = Some(0), "timeout of 0 ms"),
            (|s| s.start_period_ms = Some(u64::MAX), "start period"),
            (|s| s.retries = Some(0), "0 retries"),
        ];
        for (change, why) in told {
            let told = with(change);
            assert!(told.starts_with("health: ") && told.contains(why), "{told}");
        }
    }
}
