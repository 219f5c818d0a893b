//! Ctrl-C and its relatives, as a value to wait for.
//!
//! A reader of stdout that leaves (`| head`) is one of them: waiting for the
//! next line would tell it only when there is one. Only commands that wait for
//! long use this: everywhere else the signal may simply end the program.

use std::os::fd::AsFd as _;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::types::Complaint;
use crate::cli::errors::{Failed, INTERRUPTED, READER_LEFT};

/// The signals that mean "leave".
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Gone once it was told, and where stdout is a file, which nobody leaves.
    reader: Option<Sender>,
}

impl Interrupts {
    /// From now on the signals come here.
    pub(crate) fn catch() -> Result<Self, Failed> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failed::from(Complaint::new("signals", "signals cannot be caught").because(error))
            })
        };
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            reader: reader_of_stdout(),
        })
    }

    /// The next one, as the exit code that shells give it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => 128 + 15,
            _ = self.hangup.recv() => 128 + 1,
            () = left(self.reader.as_ref()) => {
                self.reader = None;
                READER_LEFT
            }
        }
    }
}

/// Only ever asked whether it is broken; so stdout stays as blocking as it was.
fn reader_of_stdout() -> Option<Sender> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
    Sender::from_owned_fd_unchecked(stdout).ok()
}

async fn left(reader: Option<&Sender>) {
    if let Some(reader) = reader
        && let Ok(ready) = reader.ready(Interest::ERROR).await
        && ready.is_error()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for this, or ends with the signal's exit code.
pub(crate) async fn or_interrupt<T>(
    waiting: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut interrupts = Interrupts::catch()?;
    tokio::select! {
        result = waiting => result,
        // A reader that has seen enough is no failure.
        exit = interrupts.next() => Err(Failed::silently(if exit == READER_LEFT { 0 } else { exit })),
    }
}
