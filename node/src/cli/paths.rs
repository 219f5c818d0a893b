//! Where the agent of this host keeps its data and its socket.
//!
//! Root's agent is the host's, under /var/lib and /run; another user's is
//! their own, in the XDG places. Whoever names only a data directory gets the
//! socket inside it, so that several agents on one host need one flag each.
//! Paths are made absolute once, here: the agent changes its directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::api::types::Complaint;

const SYSTEM_DATA: &str = "/var/lib/starling";
const SYSTEM_SOCKET: &str = "/run/starling/api.sock";
const SOCKET_NAME: &str = "api.sock";

/// What the kernel holds of a socket's path, less its final NUL.
const SOCKET_BYTES_MAX: usize = 107;

/// A data directory and a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// What the agent keeps.
    pub(crate) data: PathBuf,
    /// Where it listens for this host's users.
    pub(crate) socket: PathBuf,
    /// Where to ask if nobody has a socket of their own: the host's agent.
    fallback: Option<PathBuf>,
}

/// What the choice depends on, besides flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    root: bool,
    home: Option<PathBuf>,
    data_home: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn here() -> Self {
        let absolute = |name: &str| {
            let value: OsString = std::env::var_os(name)?;
            Some(PathBuf::from(value)).filter(|path| path.is_absolute())
        };
        Self {
            root: rustix::process::geteuid().is_root(),
            home: absolute("HOME"),
            data_home: absolute("XDG_DATA_HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
        }
    }
}

impl Places {
    /// The places that were named, and the usual ones for the rest.
    pub(crate) fn choose(
        data: Option<&Path>,
        socket: Option<&Path>,
        around: &Surroundings,
    ) -> Result<Self, Complaint> {
        // An empty variable is as good as none.
        let [data, socket] = [data, socket].map(|path| path.filter(|p| !p.as_os_str().is_empty()));
        let directory = match data {
            Some(data) => absolute(data)?,
            None if around.root => PathBuf::from(SYSTEM_DATA),
            None => match (&around.data_home, &around.home) {
                (Some(data_home), _) => data_home.join("starling"),
                (None, Some(home)) => home.join(".local/share/starling"),
                (None, None) => return Err(homeless()),
            },
        };
        let (socket, fallback) = match (socket, data) {
            (Some(socket), _) => (absolute(socket)?, None),
            (None, Some(_)) => (directory.join(SOCKET_NAME), None),
            (None, None) if around.root => (PathBuf::from(SYSTEM_SOCKET), None),
            (None, None) => {
                let own = match &around.runtime_dir {
                    Some(runtime) => runtime.join("starling").join(SOCKET_NAME),
                    None => directory.join(SOCKET_NAME),
                };
                (own, Some(PathBuf::from(SYSTEM_SOCKET)))
            }
        };
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(too_long(&socket));
        }
        Ok(Self { data: directory, socket, fallback })
    }

    /// Where a client asks: the user's own agent, else the host's.
    pub(crate) fn socket_to_ask(&self) -> &Path {
        match &self.fallback {
            Some(fallback) if !self.socket.exists() && fallback.exists() => fallback,
            _ => &self.socket,
        }
    }

    /// Where a daemon writes what it has to say.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("agent.log")
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Complaint> {
    std::path::absolute(path).map_err(|error| {
        Complaint::new("usage", format!("{:?} cannot be a path", path.display().to_string()))
            .because(error)
    })
}

fn homeless() -> Complaint {
    Complaint::new("usage", "there is no place for the agent's data")
        .because("neither HOME nor XDG_DATA_HOME is set")
        .hint("name one with --data DIR")
}

fn too_long(socket: &Path) -> Complaint {
    Complaint::new("usage", "the socket's path is too long")
        .because(format!(
            "{} has {} bytes, and a socket's path holds {SOCKET_BYTES_MAX}",
            socket.display(),
            socket.as_os_str().len()
        ))
        .hint("name a shorter one with --socket PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Surroundings {
        Surroundings { home: Some("/home/u".into()), ..Surroundings::default() }
    }

    fn choose(data: Option<&str>, socket: Option<&str>, around: &Surroundings) -> (String, String) {
        let places = Places::choose(data.map(Path::new), socket.map(Path::new), around);
        let places = places.expect("places");
        (places.data.display().to_string(), places.socket.display().to_string())
    }

    #[test]
    fn everybody_has_usual_places() {
        let root = Surroundings { root: true, ..user() };
        let xdg = Surroundings {
            data_home: Some("/d".into()),
            runtime_dir: Some("/run/user/7".into()),
            ..user()
        };
        let pair = |data: &str, socket: &str| (data.to_owned(), socket.to_owned());
        assert_eq!(choose(None, None, &root), pair("/var/lib/starling", "/run/starling/api.sock"));
        let home = "/home/u/.local/share/starling";
        assert_eq!(choose(None, None, &user()), pair(home, &format!("{home}/api.sock")));
        assert_eq!(choose(None, None, &xdg), pair("/d/starling", "/run/user/7/starling/api.sock"));
        assert_eq!(choose(Some("/x"), None, &xdg), pair("/x", "/x/api.sock"));
        assert_eq!(choose(Some("/x"), Some("/y"), &root), pair("/x", "/y"));
        assert_eq!(choose(Some(""), Some(""), &root), choose(None, None, &root));
        assert_eq!(choose(None, Some("/y"), &root), pair("/var/lib/starling", "/y"));
    }

    #[test]
    fn relative_places_become_absolute() {
        let (data, socket) = choose(Some("d"), None, &user());
        assert!(data.starts_with('/') && socket == format!("{data}/api.sock"), "{data} {socket}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_way_out() {
        let nowhere = Places::choose(None, None, &Surroundings::default());
        assert!(nowhere.expect_err("homeless").hint.is_some_and(|hint| hint.contains("--data")));
        let long = format!("/{}", "x".repeat(SOCKET_BYTES_MAX));
        let long = Places::choose(Some(Path::new(&long)), None, &user());
        assert!(long.expect_err("too long").hint.is_some_and(|hint| hint.contains("--socket")));
    }
}
