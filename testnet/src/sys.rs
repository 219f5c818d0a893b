//! The few system calls that have no safe wrapper: packet sockets and unmounting.
//!
//! All of the crate's `unsafe` is here, one call per block, each with its
//! proof. Must never hold policy: what to open or unmount is decided elsewhere.
#![allow(unsafe_code, reason = "packet sockets and umount2 have no safe wrapper")]

pub mod raw;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// From `linux/if_packet.h`, missing in libc: frames carry a virtio-net header
/// that says which checksums and segments are still to be made.
const PACKET_VNET_HDR: libc::c_int = 15;
/// From `linux/if_packet.h`: do not hear one's own frames.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// What the kernel keeps for a port while the switch is busy.
const RECEIVE_BYTES: libc::c_int = 4 << 20;

/// A raw, non-blocking socket that sends and receives whole frames, each
/// behind its virtio-net header, on one interface of this thread's namespace.
pub fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    // Without a protocol the socket hears nothing until it is bound, so no
    // frame of another interface slips in before.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let index = netdevice::name_to_index(&socket, interface)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;

    let on: libc::c_int = 1;
    set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &on)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BYTES)?;
    let everything = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &everything)?;
    bind(&socket, index)?;
    Ok(socket)
}

/// Takes a mount out of the tree at once; it goes when its last user does.
pub fn detach_mount(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let done = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    outcome(done)
}

fn bind(socket: &OwnedFd, index: i32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is an initialised sockaddr_ll, passed with its own
    // size; the descriptor is open for the duration of the borrow.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    outcome(done)
}

/// What `setsockopt` may be given: plain C data without padding.
trait Plain {}
impl Plain for libc::c_int {}
impl Plain for libc::packet_mreq {}

fn set_option<T: Plain>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is initialised plain data, passed with its own size; the
    // kernel copies it before the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    outcome(done)
}

fn outcome(done: libc::c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
