//! The signals that end an agent, as a value to wait for.

use crate::api::types::Complaint;

/// SIGTERM and SIGINT, as one.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) fn signals() -> Result<Signals, Complaint> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed =
        |e: std::io::Error| Complaint::new("internal", "cannot listen for signals").because(e);
    Ok(Signals {
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
    })
}
