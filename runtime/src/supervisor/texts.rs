//! The three files that name a container and its neighbours: `/etc/hostname`,
//! `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Made in the task's directory before its root is built, which shows them inside. A
//! container without a network gets none: it sees what its root says. What the
//! bridge knows, its address, the agent writes into them later.
//!
//! Invariant: the host's own files are read, bounded, and never shown themselves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::container::{Container, Network};
use crate::launch::TaskId;
use crate::net::{self, RESOLV_CONF, UPSTREAM_RESOLV_CONF};
use crate::order;

/// Where they lie in a task's directory.
pub(crate) const ETC: &str = "etc";

/// The most that is read of a host's file.
const TEXT_BYTES: u64 = 64 << 10;

/// Makes the files of a container that has a network.
pub(super) fn make(dir: BorrowedFd<'_>, id: &TaskId, container: &Container) -> io::Result<()> {
    let hostname = container.hostname.as_deref().unwrap_or(id.as_str());
    let host = |path: &str| read(path).unwrap_or_default();
    let (hosts, resolv) = match &container.network {
        Network::None | Network::Of(_) => return Ok(()),
        Network::Host => (host("/etc/hosts"), host(RESOLV_CONF)),
        Network::Bridge { .. } => {
            let upstream = read(UPSTREAM_RESOLV_CONF).ok();
            let resolv = net::resolv_conf(&host(RESOLV_CONF), upstream.as_deref());
            (net::hosts(hostname, None, &[]), resolv)
        }
    };
    match rustix::fs::mkdirat(dir, ETC, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let etc = order::open_below(&dir.try_clone_to_owned()?, ETC)?;
    for (name, text) in
        [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)]
    {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(etc.as_fd(), name, flags, mode)?;
        // The umask has no say here.
        rustix::fs::fchmod(&file, mode)?;
        File::from(file).write_all(text.as_bytes())?;
    }
    Ok(())
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEXT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
