//! Asks a task whether it is well: one check, run inside it and with its rights.
//!
//! ```text
//! Check ──exec──▶ the task ──exit code, some output──▶ Answer
//!          └── too late: the session is dropped, which ends what it started
//! ```
//!
//! What an answer means is not decided here, and neither is when to ask. A check never holds
//! anything up: its time is bounded, and so is what is kept of its output.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::health::{Check, HealthSpec, HealthTest, OUTPUT_BYTES_MAX};
use gossip_core::spec::{Program, TaskSpec};
use runtime::image::{Digest, HealthCheck};
use runtime::{End, Exec, Piece, Runtime, Streams, TaskId};
use starling_core::health::Answer;

use super::words;

/// The check of a task, if it has one: what its job says, over what its image says.
pub(super) async fn check_of(runtime: &Runtime, task: &TaskSpec) -> Option<Check> {
    let own = task.health.clone().unwrap_or_default();
    let image = match &task.run {
        Program::Container(container) => container.image().and_then(|image| image.id),
        Program::Process { .. } => None,
    };
    let Some(id) = image else { return own.over(None) };
    let (images, digest) = (runtime.images().clone(), Digest::new(*id.as_bytes()));
    // The task runs from it, so it is there.
    let config = tokio::task::spawn_blocking(move || images.config(&digest)).await;
    let said = match config {
        Ok(Ok(config)) => config.health.as_ref().map(of_image),
        Ok(Err(error)) => {
            tracing::warn!(image = %digest, %error, "its check cannot be read");
            None
        }
        // The agent goes down.
        Err(_) => None,
    };
    own.over(said.as_ref())
}

/// Whether it may have a check at all: most tasks have none, and cost nothing then.
pub(super) fn may_have_check(task: &TaskSpec) -> bool {
    let said = task.health.as_ref().and_then(|health| health.test.as_ref());
    match said {
        Some(HealthTest::None) => false,
        Some(_) => true,
        None => matches!(&task.run, Program::Container(it) if it.image().is_some()),
    }
}

/// What an image says of its check, in a job's words.
fn of_image(said: &HealthCheck) -> HealthSpec {
    let words = said.test.iter().map(String::as_str).collect::<Vec<_>>();
    let test = match words.as_slice() {
        ["NONE", ..] => Some(HealthTest::None),
        ["CMD", argv @ ..] if !argv.is_empty() => {
            Some(HealthTest::Command(argv.iter().map(|word| (*word).to_owned()).collect()))
        }
        ["CMD-SHELL", line, ..] => Some(HealthTest::Shell((*line).to_owned())),
        // What is no check is none.
        _ => None,
    };
    // As everywhere in an image's config, 0 is what was not said.
    let ms = |ns: u64| (ns > 0).then(|| (ns / 1_000_000).max(1));
    let said = HealthSpec {
        test,
        interval_ms: ms(said.interval_ns),
        timeout_ms: ms(said.timeout_ns),
        start_period_ms: ms(said.start_period_ns),
        retries: (said.retries > 0).then_some(said.retries),
    };
    // An image is data: what it says that cannot be is as if it said nothing.
    if said.check().is_ok() {
        said
    } else {
        HealthSpec { test: said.test, ..HealthSpec::default() }
    }
}

/// Runs a check once.
pub(super) async fn ask(runtime: &Runtime, task: &TaskId, check: &Check) -> Answer {
    let mut said = Said::default();
    let limit = Duration::from_millis(check.timeout_ms);
    match tokio::time::timeout(limit, run(runtime, task, check, &mut said)).await {
        Ok(Ok(0)) => Answer::Well { output: said.text() },
        Ok(Ok(_code)) => Answer::Badly { output: said.text() },
        Ok(Err(why)) => Answer::Badly { output: shown(&why) },
        Err(_late) => {
            let late = format!("it took more than {} ms; {}", check.timeout_ms, said.text());
            Answer::Badly { output: shown(late.trim_end_matches("; ")) }
        }
    }
}

/// The exit code, or why there is none.
async fn run(
    runtime: &Runtime,
    task: &TaskId,
    check: &Check,
    said: &mut Said,
) -> Result<i32, String> {
    let exec = Exec {
        argv: check.argv.clone(),
        env: BTreeMap::new(),
        directory: None,
        user: None,
        streams: Streams::Logged,
    };
    let session = runtime.exec(task, exec).await.map_err(|error| words::refusal(&error))?;
    let mut output = session.output;
    // Nobody types, and a check that reads finds the end at once.
    let _input = session.input;
    loop {
        match output.next().await {
            Some(Piece::Stdout(bytes) | Piece::Stderr(bytes)) => said.take(&bytes),
            Some(Piece::Ended(End::NotStarted { reason, .. })) => {
                return Err(words::without_step(&reason).to_owned());
            }
            Some(Piece::Ended(end)) => return Ok(end.exit_code()),
            None => return Err("what became of it was not told".to_owned()),
        }
    }
}

/// The beginning of what a check wrote.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    /// What is beyond the bound is read, so that the check can go on, and forgotten.
    fn take(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.0.len());
        self.0.extend(bytes.iter().take(room));
    }

    fn text(&self) -> String {
        shown(&String::from_utf8_lossy(&self.0))
    }
}

/// One line that is fit for a record and for screens.
fn shown(text: &str) -> String {
    let mut line = String::new();
    for letter in text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + letter.len_utf8() > OUTPUT_BYTES_MAX {
            break;
        }
        line.push(letter);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_words_are_a_jobs() {
        let image = |test: &[&str]| HealthCheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            ..HealthCheck::default()
        };
        let command = |words: &[&str]| {
            HealthTest::Command(words.iter().map(|word| (*word).to_owned()).collect())
        };
        for (words, test) in [
            (&["NONE"][..], Some(HealthTest::None)),
            (&["CMD", "curl", "-f", "x"], Some(command(&["curl", "-f", "x"]))),
            (&["CMD-SHELL", "curl -f x"], Some(HealthTest::Shell("curl -f x".into()))),
            (&[], None),
            (&["CMD"], None),
            (&["CURL", "x"], None),
        ] {
            assert_eq!(of_image(&image(words)).test, test, "{words:?}");
        }
        let timed = HealthCheck {
            interval_ns: 5_000_000_000,
            start_period_ns: 1,
            retries: 7,
            ..image(&["CMD", "x"])
        };
        let said = of_image(&timed);
        assert_eq!((said.interval_ms, said.timeout_ms), (Some(5000), None));
        assert_eq!((said.start_period_ms, said.retries), (Some(1), Some(7)));
        let absurd = HealthCheck { interval_ns: u64::MAX, ..image(&["CMD", "x"]) };
        let said = of_image(&absurd);
        assert!(said.interval_ms.is_none() && said.test.is_some(), "{said:?}");
    }

    #[test]
    fn what_a_check_writes_is_bounded_and_fit_to_be_shown() {
        let mut said = Said::default();
        said.take(b" one\nt\x1bwo \xff");
        assert_eq!(said.text(), "one t wo \u{fffd}");
        for _ in 0..100 {
            said.take("ü".repeat(100).as_bytes());
        }
        assert_eq!(said.0.len(), OUTPUT_BYTES_MAX);
        assert!(said.text().len() <= OUTPUT_BYTES_MAX);
        let mut odd = Said::default();
        odd.take(&[0xff; 1000]);
        assert!(odd.text().len() <= OUTPUT_BYTES_MAX, "three bytes for each");
    }
}
