//! What is said over the keeper's socket: one order, at most one answer.
//!
//! A launch goes through `launch.json`, because a message is bounded by the
//! socket's buffer; only the id travels. The answer to a launch comes from the
//! supervisor, which inherits the connection, so a supervisor that dies before
//! it answers shows as the connection's end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::launch::{StartFault, TaskId};
use crate::proc::ProcessMark;

/// Version of these messages.
pub(crate) const VERSION: u32 = 1;

/// Longest message: an id or a reason.
pub(crate) const MESSAGE_BYTES: usize = 8 << 10;

/// Longest reason in an answer, so that the whole stays below `MESSAGE_BYTES`
/// with every byte escaped.
pub(crate) const REASON_BYTES: usize = 1 << 10;

pub(crate) const SOCKET: &str = "keeper.sock";
pub(crate) const LOCK: &str = "keeper.lock";
pub(crate) const KEEPER_LOG: &str = "keeper.log";
pub(crate) const TASKS: &str = "tasks";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message<T> {
    pub(crate) version: u32,
    pub(crate) body: T,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Start what `tasks/ID/launch.json` asks for, if it has this nonce.
    Launch { id: TaskId, nonce: String },
    /// Leave as soon as no supervisor is left.
    Leave,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Started { supervisor: ProcessMark, pid: u32 },
    NotStarted { fault: StartFault, reason: String },
}

/// A new socket of the kind both ends use.
pub(crate) fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The keeper's address. It leads through a directory handle, because a path in
/// an address ends at 108 bytes and data directories may lie deeper; so `dir`
/// must stay open while the address is used.
pub(crate) fn address(dir: &OwnedFd) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?)
}

/// A handle to a directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A handle to a directory directly below another.
pub(crate) fn open_below(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

pub(crate) fn send<T: Serialize>(connection: impl AsFd, body: T) -> io::Result<()> {
    let text = serde_json::to_vec(&Message { version: VERSION, body })?;
    rustix::net::send(connection, &text, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What a received message says. An empty one is the connection's end.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> io::Result<T> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let Message { version, body } = serde_json::from_slice::<Message<serde_json::Value>>(text)?;
    if version > VERSION {
        return Err(invalid(format!("a message of version {version}; this end knows {VERSION}")));
    }
    Ok(serde_json::from_value(body)?)
}

/// Cuts a reason to what an answer can carry.
pub(crate) fn shorten(mut reason: String) -> String {
    let end = (0..=REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    reason
}
