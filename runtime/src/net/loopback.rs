//! Starting `lo`, all the network that a container of mode "none" has.
//!
//! Also done by the single-threaded child that becomes the task, between fork and
//! exec. So it is a message written out by hand, without the codecs and without an
//! allocation; everything in it is kernel ABI.

use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// `struct nlmsghdr` and `struct ifinfomsg`.
const MESSAGE_BYTES: usize = 16 + 16;
/// A header, an error number and the request's header.
const ANSWER_BYTES: usize = 16 + 4 + 16;
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// In every network namespace `lo` is the first interface.
const LOOPBACK_INDEX: u32 = 1;
const IFF_UP: u32 = 1;

/// Starts `lo` in the calling thread's network namespace, which gives it 127.0.0.1
/// and ::1. Needs CAP_NET_ADMIN there. Async-signal-safe.
pub(crate) fn raise_loopback() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0.
    )?;
    sendto(&socket, &message(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    answer(&socket)
}

fn message() -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    let length = u32::try_from(MESSAGE_BYTES).unwrap_or_default();
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes[20..24].copy_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    bytes[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    bytes[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    bytes
}

/// The kernel has answered before `sendto` returned.
fn answer(socket: &OwnedFd) -> io::Result<()> {
    let mut bytes = [0; ANSWER_BYTES];
    let (got, _) = recv(socket, &mut bytes, RecvFlags::DONTWAIT)?;
    let (kind, code) = ([bytes[4], bytes[5]], [bytes[16], bytes[17], bytes[18], bytes[19]]);
    if got < 20 || u16::from_ne_bytes(kind) != NLMSG_ERROR {
        return Err(Errno::PROTO);
    }
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use rustix::thread::UnshareFlags;

    use super::*;

    #[test]
    #[allow(deprecated, reason = "for CLONE_FILES' sake; the safe form is all that is needed")]
    fn a_network_of_its_own_has_a_loopback_once_it_is_started() {
        let alone = thread::spawn(|| {
            if rustix::thread::unshare(UnshareFlags::NEWNET).is_err() {
                return eprintln!("SKIPPED: needs the right to make network namespaces");
            }
            let listener = TcpListener::bind("127.0.0.1:80").expect("bound");
            let address = listener.local_addr().expect("an address");
            assert!(TcpStream::connect(address).is_err(), "it is down at first");
            for _ in 0..2 {
                assert_eq!(raise_loopback(), Ok(()));
            }
            assert!(TcpStream::connect(address).is_ok());
        });
        assert!(alone.join().is_ok());
    }
}
