//! Ctrl-C and its relatives, as a value to wait for.
//!
//! Only commands that wait for long use this: everywhere else the signal may
//! simply end the program.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::types::Complaint;
use crate::cli::errors::{Failed, INTERRUPTED};

/// The signals that mean "leave".
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
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
        })
    }

    /// The next one, as the exit code that shells give it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => 128 + 15,
            _ = self.hangup.recv() => 128 + 1,
        }
    }
}

/// Waits for this, or ends with the signal's exit code.
pub(crate) async fn or_interrupt<T>(
    waiting: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut interrupts = Interrupts::catch()?;
    tokio::select! {
        result = waiting => result,
        exit = interrupts.next() => Err(Failed::silently(exit)),
    }
}
