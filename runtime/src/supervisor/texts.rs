//! The three files that name a container and its neighbours: `/etc/hostname`,
//! `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Made in the task's directory before its root is built, which shows them inside. A
//! container without a network gets none, unless its job names hosts or resolvers: it sees
//! what its root says. What the bridge knows, its address, the agent writes into them later. Who shares another
//! task's network has what that one knows of it.
//!
//! Invariant: the host's own files are read, bounded, and never shown themselves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::container::{Container, Network};
use crate::launch::TaskId;
use crate::net::{self, RESOLV_CONF, UPSTREAM_RESOLV_CONF};
use crate::order;
use crate::spare;

/// Where they lie in a task's directory.
pub(crate) const ETC: &str = "etc";

/// The most that is read of a host's file.
const TEXT_BYTES: u64 = 64 << 10;

/// Makes the files of a container that has a network; `tasks` is where the others are.
pub(super) fn make(
    dir: BorrowedFd<'_>,
    tasks: &OwnedFd,
    id: &TaskId,
    container: &Container,
) -> io::Result<()> {
    let hostname = container.hostname.as_deref().unwrap_or(id.as_str());
    let host = |path: &str| read(path).unwrap_or_default();
    let names = &container.names;
    let own = names.hosts(Ipv4Addr::LOCALHOST.into());
    let (hosts, resolv) = match &container.network {
        Network::None if names.is_empty() => return Ok(()),
        Network::None => (net::hosts(hostname, None, &own), net::resolv_conf("", None, names)),
        Network::Of(other) => match shared(tasks, other)? {
            Some(texts) => texts,
            None => return Ok(()),
        },
        Network::Host => {
            let resolv = net::chosen(&host(RESOLV_CONF), names);
            (net::with_hosts(host("/etc/hosts"), &own), resolv)
        }
        Network::Bridge { .. } => {
            let upstream = read(UPSTREAM_RESOLV_CONF).ok();
            let resolv = net::resolv_conf(&host(RESOLV_CONF), upstream.as_deref(), names);
            (net::hosts(hostname, None, &own), resolv)
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

/// What another task's `hosts` and `resolv.conf` say; none if it has none.
fn shared(tasks: &OwnedFd, other: &TaskId) -> io::Result<Option<(String, String)>> {
    let etc = spare::hold(tasks, other).and_then(|dir| order::open_below(&dir, ETC));
    let etc = match etc {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        etc => etc?,
    };
    let text = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        text_of(File::from(rustix::fs::openat(&etc, name, flags, Mode::empty())?))
    };
    Ok(Some((text("hosts")?, text("resolv.conf")?)))
}

fn read(path: &str) -> io::Result<String> {
    text_of(File::open(path)?)
}

fn text_of(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(TEXT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
