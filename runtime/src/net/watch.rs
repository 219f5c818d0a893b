//! Hearing that somebody changed the host's packet rules.
//!
//! The kernel tells whoever listens of every change, so nobody has to look again and
//! again. What was changed does not matter here: whoever hears of a change looks at our
//! own rules, and a message that was lost because too many came is a change as well.

use std::io;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::sys::Readable;

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`, as a bit of a socket's groups.
const GROUP: u32 = 1 << (7 - 1);

/// Enough to take a message away; what it says is cut off.
const BYTES: usize = 64;

/// Hears of changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct RuleWatch(Readable);

impl RuleWatch {
    /// Begins to listen. Needs a tokio runtime, and no right at all.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Readable::new(socket).map(Self)
    }

    /// Waits until something changed since the last call.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.ready().await?;
            let mut heard = false;
            loop {
                match recv(self.0.fd(), &mut [0; BYTES][..], RecvFlags::DONTWAIT) {
                    // Some were lost, which is as good as one.
                    Ok(_) | Err(Errno::NOBUFS) => heard = true,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if heard {
                return Ok(());
            }
        }
    }
}
