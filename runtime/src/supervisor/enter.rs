//! A supervisor on an errand inside another supervisor's task.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::net::SendFlags;

use super::Supervisor;
use crate::inside::{self, Errand, Passage};

impl Supervisor {
    pub(super) fn enter(&mut self, agent: &OwnedFd, errand: Errand) {
        self.signals.take();
        let (post, null) = (&self.post, &self.null);
        let began = inside::begin(&post.tasks, &post.boot, &post.facts, null, errand);
        let began = match began {
            Ok(began) => began,
            Err(word) => {
                // All it takes fits an empty socket's buffer; who does not hear it has left.
                if let Ok(frame) = word.frame() {
                    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let _ = rustix::net::send(agent, &frame, flags);
                }
                return;
            }
        };
        if let Err(error) = self.pass(agent, began) {
            complain!("starling supervisor: a session fails: {error}");
        }
        // Orphans of a plain process's session are nobody's; a container's stay its own.
        self.is_bad |= !inside::kill(None).is_all;
    }

    fn pass(&mut self, agent: &OwnedFd, began: inside::Began) -> std::io::Result<()> {
        rustix::fs::fcntl_setfl(agent, OFlags::NONBLOCK)?;
        let passage = Passage::new(agent, &mut self.inbox, began)?;
        let fd = rustix::io::fcntl_dupfd_cloexec(self.signals.fd(), 3)?;
        let (signals, orders) = (&mut self.signals, &mut self.post.listener);
        passage.run(fd.as_fd(), || {
            let stop = signals.take();
            if signals.orphaned {
                // As long as it is open, agents believe that somebody waits.
                *orders = None;
            }
            stop
        });
        Ok(())
    }
}
