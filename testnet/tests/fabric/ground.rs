//! A fabric without agents, for one test, gone when the test ends.

use std::io::{self, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use testnet::fabric::control::{self, Directions, LinkRow};
use testnet::fabric::link::{Change, Faults};
use testnet::fabric::{Fabric, Ground, Host, Plan, Segments, netns, sweep, switch};

/// Long enough for a busy machine; nothing waits this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9_000;

/// The command under test, which is also the switch.
pub(crate) fn testnet() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_testnet"))
}

/// A directory nobody else uses.
pub(crate) fn fresh_dir() -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("testnet-test-{}-{number}", std::process::id()))
}

/// Whether namespaces can be made here; says so if not.
pub(crate) fn can_build() -> bool {
    match netns::available() {
        Ok(()) => true,
        Err(reason) => {
            // Not `println!`: the test harness would keep it to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
            false
        }
    }
}

/// A fabric that is swept away when dropped.
pub(crate) struct Laid(pub(crate) Fabric);

impl Laid {
    /// `None` where namespaces cannot be made.
    pub(crate) fn with_hosts(hosts: usize) -> Option<Self> {
        Self::with(hosts, Segments::One)
    }

    /// The same, with the choice of what a frame is.
    pub(crate) fn with(hosts: usize, segments: Segments) -> Option<Self> {
        if !can_build() {
            return None;
        }
        let plan = Plan {
            dir: fresh_dir(),
            hosts,
            ground: Ground::Netns,
            segments,
            seed: 7,
            baseline: Faults::default(),
            starling: None,
        };
        let laid = Self(Fabric::create(plan).expect("a fresh directory"));
        netns::build(&laid.0).expect("namespaces can be built");
        switch::start(&laid.0, testnet()).expect("the switch starts");
        Some(laid)
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.0.host(name).expect("a host of this fabric")
    }

    /// A UDP socket on a host.
    pub(crate) fn udp(&self, name: &str) -> UdpSocket {
        let at = self.at(name);
        let socket = self.inside(name, move || UdpSocket::bind(at)).expect("the port is free");
        socket.set_read_timeout(Some(PATIENCE)).expect("valid");
        socket
    }

    /// A TCP connection from one host to another: both ends.
    pub(crate) fn tcp(&self, from: &str, to: &str) -> (TcpStream, TcpStream) {
        let at = self.at(to);
        let listener = self.inside(to, move || TcpListener::bind(at)).expect("the port is free");
        let near = self.inside(from, move || TcpStream::connect(at)).expect("reachable");
        let (far, _) = listener.accept().expect("a connection");
        (near, far)
    }

    pub(crate) fn at(&self, name: &str) -> SocketAddrV4 {
        SocketAddrV4::new(self.host(name).address, PORT)
    }

    pub(crate) fn set(&self, from: &str, to: &str, change: Change) {
        control::set(&self.0, vec![Directions::between([from], [to])], change)
            .expect("the switch obeys");
    }

    pub(crate) fn link(&self, from: &str, to: &str) -> LinkRow {
        let (rows, _) = control::show(&self.0, vec![Directions::between([from], [to])])
            .expect("the switch answers");
        rows.into_iter().next().expect("one direction")
    }

    fn inside<T: Send>(
        &self,
        name: &str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let namespace = self.host(name).namespace.as_deref().expect("has one");
        netns::within(namespace, work).expect("can be entered")
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        let swept = sweep::fabric(&self.0);
        if !std::thread::panicking() {
            swept.expect("everything can be swept away");
        }
    }
}

/// Waits, busily, until something is so.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
