//! A host that is only a network namespace, and containers and neighbours likewise.
//!
//! A namespace belongs to threads and descriptors here and has no name, so all of it
//! goes when a test ends, however it ends, and the machine's own network is never
//! touched. A socket stays in the namespace where it was opened; so the thread that
//! goes there may end, and the test talks through what it brings back.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use runtime::net::{Bridge, BridgeConfig, Subnet};
use runtime::{Protocol, Publish};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, UnshareFlags, capabilities, move_into_link_name_space,
};

/// Longer than anything here takes; a packet that is dropped costs this much.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection that must fail is waited for: a dropped SYN is sent again
/// after one second.
const REFUSAL: Duration = Duration::from_millis(1500);

/// The host's address on the wire to its neighbour, and the neighbour's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Whether this process may build namespaces; says why not.
pub(crate) fn able() -> bool {
    let effective = capabilities(None).expect("done").effective;
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    if !effective.contains(needed) {
        eprintln!("SKIPPED: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
        return false;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        eprintln!("SKIPPED: needs `ip` of iproute2");
        return false;
    }
    true
}

/// A network namespace, kept by this descriptor alone.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        on_a_thread(|| {
            fresh();
            Self::current()
        })
    }

    /// The calling thread's.
    pub(crate) fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").expect("done"))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Does some work in there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)).expect("done");
            work()
        })
    }

    pub(crate) fn listen(&self, address: impl Into<IpAddr>, port: u16) -> TcpListener {
        let address = address.into();
        self.within(|| TcpListener::bind((address, port)).expect("done"))
    }

    /// A path that `ip` takes for a namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[allow(deprecated, reason = "for CLONE_FILES' sake; the safe form is all that is needed")]
fn fresh() {
    rustix::thread::unshare(UnshareFlags::NEWNET).expect("done");
}

/// Runs a test on a host of its own: a thread in a fresh namespace with its loopback.
pub(crate) fn on_a_host(test: impl FnOnce() + Send) {
    if able() {
        on_a_thread(|| {
            fresh();
            ip("link set lo up");
            test();
        });
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("done");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).expect("done")
}

/// What a host has, as far as one can see it from outside.
pub(crate) fn seen() -> [String; 4] {
    let rules = Command::new("nft").args(["list", "ruleset"]).output();
    [
        ip("-o link show"),
        ip("-o addr show"),
        // Whether a bridge without ports is "down" is decided some time later.
        ip("-4 route show table all").replace("linkdown ", ""),
        rules.map(|output| String::from_utf8(output.stdout).expect("done")).unwrap_or_default(),
    ]
}

/// A second host, at the other end of a wire; knows nothing of containers.
pub(crate) fn neighbour() -> Netns {
    let neighbour = Netns::new();
    ip(&format!("link add out0 type veth peer name eth0 netns {}", neighbour.path()));
    ip(&format!("addr add {HOST}/24 dev out0"));
    ip("link set out0 up");
    neighbour.within(|| {
        ip(&format!("addr add {NEIGHBOUR}/24 dev eth0"));
        ip("link set eth0 up");
    });
    neighbour
}

/// A network whose agent's directory is there.
pub(crate) fn config(tag: &str, subnet: Option<Subnet>) -> BridgeConfig {
    BridgeConfig { tag: tag.to_owned(), home: "/".into(), subnet }
}

pub(crate) fn network(tag: &str) -> Bridge {
    Bridge::open(&config(tag, None)).expect("done")
}

pub(crate) fn tcp(host_port: u16, port: u16) -> Publish {
    Publish { host_ip: None, host_port, port, protocol: Protocol::Tcp }
}

pub(crate) fn udp(host_port: u16, port: u16) -> Publish {
    Publish { protocol: Protocol::Udp, ..tcp(host_port, port) }
}

/// Whether a conversation comes about between a listener and somebody who connects
/// to an address; the answer is the client's address as the listener saw it.
pub(crate) fn talk(
    listener: &TcpListener,
    client: &Netns,
    to: (impl Into<IpAddr>, u16),
) -> Result<IpAddr, io::Error> {
    let to = SocketAddr::new(to.0.into(), to.1);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            await_readable(listener, PATIENCE)?;
            let (mut stream, peer) = listener.accept()?;
            let mut said = [0; 4];
            stream.read_exact(&mut said)?;
            stream.write_all(&said)?;
            Ok(peer.ip())
        });
        let heard = client.within(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"ping")?;
            let mut said = [0; 4];
            stream.read_exact(&mut said)?;
            assert_eq!(&said, b"ping");
            Ok(())
        });
        let seen = server.join().expect("no panic");
        heard.and(seen)
    })
}

/// Whether an address cannot be connected to.
pub(crate) fn unreachable(client: &Netns, to: (impl Into<IpAddr>, u16)) -> bool {
    let to = SocketAddr::new(to.0.into(), to.1);
    client.within(|| TcpStream::connect_timeout(&to, REFUSAL).is_err())
}

/// A socket in a namespace that talks to one address, and hears its refusals.
pub(crate) fn caller(netns: &Netns, to: (Ipv4Addr, u16)) -> UdpSocket {
    netns.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
        socket.connect(to).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket
    })
}

/// Sends a datagram, and hears it echoed by `server` from where it was sent to; false
/// if it never arrives there.
pub(crate) fn echoes(server: &UdpSocket, client: &UdpSocket) -> bool {
    client.send(b"ping").expect("sent");
    if await_readable(server, REFUSAL).is_err() {
        return false;
    }
    let mut said = [0; 16];
    let (length, from) = server.recv_from(&mut said).expect("a datagram");
    server.send_to(&said[..length], from).expect("sent");
    let length = client.recv(&mut said).expect("the echo");
    &said[..length] == b"ping"
}

fn await_readable(fd: &impl AsFd, patience: Duration) -> io::Result<()> {
    let wait = Timespec::try_from(patience).expect("done");
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&wait))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
