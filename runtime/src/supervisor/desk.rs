//! Where a running task's supervisor takes commands, and what is typed.
//!
//! Invariant: whoever connects can only make it wait for nothing: messages are
//! read as they come, and answers that do not fit are dropped with who asked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, sockopt};
use rustix::process::geteuid;

use crate::frame::{self, Inbox};
use crate::order::{self, Command, Done, Typed};

/// Most that may be connected at once; the next waits.
const CLIENTS: usize = 16;

#[derive(Debug)]
pub(super) struct Desk {
    listener: OwnedFd,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    connection: OwnedFd,
    inbox: Inbox,
    is_attached: bool,
}

/// What somebody said.
#[derive(Debug)]
pub(super) enum Heard {
    Command(Command),
    Typed(Typed),
    /// Nothing whole yet.
    Nothing,
    /// The connection is over.
    Gone,
}

impl Desk {
    /// Listens at a socket that does not block.
    pub(super) fn new(listener: OwnedFd) -> Self {
        Self { listener, clients: Vec::new() }
    }

    /// The listener, while there is room.
    pub(super) fn door(&self) -> Option<BorrowedFd<'_>> {
        (self.clients.len() < CLIENTS).then(|| self.listener.as_fd())
    }

    /// The connections to wait for: those that type only if `typing` is wanted.
    pub(super) fn clients(&self, typing: bool) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let clients = self.clients.iter().enumerate();
        clients
            .filter(move |(_, client)| typing || !client.is_attached)
            .map(|(at, client)| (at, client.connection.as_fd()))
    }

    /// Lets one in.
    pub(super) fn admit(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(connection) = rustix::net::accept_with(&self.listener, flags) else { return };
        let is_ours = sockopt::socket_peercred(&connection)
            .is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid());
        if is_ours {
            self.clients.push(Client { connection, inbox: Inbox::default(), is_attached: false });
        }
    }

    /// Listens to one that is ready.
    pub(super) fn hear(&mut self, at: usize) -> Heard {
        let Some(client) = self.clients.get_mut(at) else { return Heard::Nothing };
        match order::hear(&client.connection, &mut client.inbox, RecvFlags::empty()) {
            Ok(true) | Err(Errno::AGAIN | Errno::INTR) => self.next(at),
            Ok(false) | Err(_) => Heard::Gone,
        }
    }

    /// What else one has said already.
    pub(super) fn next(&mut self, at: usize) -> Heard {
        let Some(client) = self.clients.get_mut(at) else { return Heard::Nothing };
        let heard = match client.inbox.take() {
            Ok(None) => return Heard::Nothing,
            Ok(Some(body)) if client.is_attached => Typed::read(&body).map(Heard::Typed),
            Ok(Some(body)) => frame::decode(&body).ok().map(Heard::Command),
            Err(_) => None,
        };
        heard.unwrap_or(Heard::Gone)
    }

    /// Those that have said more than was taken, the last first.
    pub(super) fn unheard(&self) -> Vec<usize> {
        let clients = self.clients.iter().enumerate().rev();
        clients.filter(|(_, client)| !client.inbox.is_empty()).map(|(at, _)| at).collect()
    }

    pub(super) fn answer(&mut self, at: usize, done: &Done) {
        if let Some(client) = self.clients.get(at) {
            // Who does not listen need not know.
            let _ = order::say(&client.connection, done);
        }
    }

    /// From here on this one types.
    pub(super) fn attach(&mut self, at: usize) {
        if let Some(client) = self.clients.get_mut(at) {
            client.is_attached = true;
        }
    }

    /// Forgets one. The numbers of those behind it change.
    pub(super) fn dismiss(&mut self, at: usize) {
        if at < self.clients.len() {
            self.clients.remove(at);
        }
    }
}
