//! The keyboard of `run -i`: goes into the task as soon as there is one.
//!
//! What the task writes comes by the job's own stream, as for every foreground
//! run, so nothing is lost to a late connection; only keys go this way.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::cli::client::Client;
use crate::cli::door::Door;
use crate::cli::inside::{Keys, Session, Signals};
use crate::cli::terminal::{self, Raw};
use crate::session::Opening;

/// Between two looks whether a task that a node took runs yet.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How often it is looked: a start takes milliseconds, unless its host is very busy.
const TRIES: u32 = 200;

/// Keys go into a task until this is dropped; then the terminal is as it was.
#[derive(Debug)]
pub(crate) struct Typing {
    _sending: AbortOnDropHandle<()>,
    _raw: Option<Raw>,
}

impl Typing {
    /// Connects this command's standard input with a task that was just placed.
    pub(crate) fn begin(door: Door, task: String) -> Self {
        let sending = tokio::spawn(async move {
            let client = Client::new(door);
            for _ in 0..TRIES {
                let opening = Opening::Attach { terminal: terminal::size(), output: false };
                if let Ok(session) = Session::open(&client, &task, opening).await {
                    // How the task ends is told by its job.
                    let _ended = session.connect(Keys::Sent, Signals::Passed).await;
                    return;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
        Self { _sending: AbortOnDropHandle::new(sending), _raw: None }
    }

    /// The same, with every key passed on.
    pub(crate) fn with_terminal(self) -> Self {
        Self { _raw: Raw::take(), ..self }
    }
}
