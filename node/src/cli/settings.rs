//! What this host's agent was told at its last start, for the next one.
//!
//! `up` and `join` remember the flags they were given once an agent runs with
//! them; a later `up`, or the `agent` that systemd runs, takes what is not said
//! anew from there. So a host keeps its name and its ports without anybody
//! repeating them. Flags and environment win. No secret is ever written here.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use gossip_core::slot::{NAME_LENGTH_MAX, check_name};
use serde::{Deserialize, Serialize};

use crate::agent::{Options, Purpose};
use crate::api::types::Complaint;
use crate::cli::paths::Places;

const FILE: &str = "settings.json";

/// Where members reach an agent that was told nothing.
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7827);

/// What is called a host whose own name has no letter that a name may hold.
const NAMELESS: &str = "node";

/// What an agent may be told; what is not said is decided at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_listen: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_milli: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_jobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_rate: Option<u64>,
}

impl Settings {
    /// Those remembered in this data directory, or none.
    pub(crate) fn load(data: &Path) -> Result<Self, Complaint> {
        let path = data.join(FILE);
        let unreadable = |why: String| {
            Complaint::new("settings", format!("{} cannot be read", path.display()))
                .because(why)
                .hint("repair or remove it; flags say the same")
        };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Remembers them; a crash leaves the old ones or the new ones.
    pub(crate) fn save(&self, data: &Path) -> io::Result<()> {
        let path = data.join(FILE);
        let fresh = data.join(format!("{FILE}.new"));
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(fresh, path)
    }

    /// These, and what they do not say from the others.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            name: self.name.or(others.name),
            listen: if self.listen.is_empty() { others.listen } else { self.listen },
            operator_listen: self.operator_listen.or(others.operator_listen),
            cpu_milli: self.cpu_milli.or(others.cpu_milli),
            memory_bytes: self.memory_bytes.or(others.memory_bytes),
            trust_jobs: self.trust_jobs.or(others.trust_jobs),
            image_rate: self.image_rate.or(others.image_rate),
        }
    }

    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What an agent in these places is told.
    pub(crate) fn options(self, places: &Places, purpose: Purpose) -> Options {
        Options {
            data: places.data.clone(),
            socket: places.socket.clone(),
            name: self.name.unwrap_or_else(host_name),
            listen: if self.listen.is_empty() { vec![LISTEN] } else { self.listen },
            operator_listen: self.operator_listen,
            capacity_cpu_milli: self.cpu_milli,
            capacity_memory: self.memory_bytes,
            trust_jobs: self.trust_jobs.unwrap_or(false),
            // None and nothing at all are the same: no budget.
            image_rate: self.image_rate.filter(|rate| *rate > 0),
            purpose,
            anew: false,
            ready: None,
        }
    }
}

/// This host's name, as far as it can be a node's.
fn host_name() -> String {
    label_of(&rustix::system::uname().nodename().to_string_lossy())
}

fn label_of(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_lowercase();
    let letters: String = first
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(NAME_LENGTH_MAX)
        .collect();
    let label = letters.trim_matches('-');
    if check_name(label).is_ok() { label.to_owned() } else { NAMELESS.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_becomes_a_label() {
        let cases = [
            ("pi-kitchen", "pi-kitchen"),
            ("NAS.example.org", "nas"),
            ("my_box", "my-box"),
            ("-x-", "x"),
            ("日本", "node"),
            ("", "node"),
        ];
        for (host, label) in cases {
            assert_eq!(label_of(host), label, "{host}");
        }
        assert_eq!(label_of(&"x".repeat(99)).len(), NAME_LENGTH_MAX);
    }

    #[test]
    fn what_was_said_once_is_remembered_and_what_is_said_now_wins() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(Settings::load(dir.path()).expect("none").is_empty());
        let first =
            Settings { name: Some("h1".into()), cpu_milli: Some(2000), ..Settings::default() };
        first.save(dir.path()).expect("saves");
        let now = Settings { name: Some("h2".into()), ..Settings::default() };
        let both = now.or(Settings::load(dir.path()).expect("loads"));
        assert_eq!((both.name.as_deref(), both.cpu_milli), (Some("h2"), Some(2000)));
    }

    #[test]
    fn damaged_settings_are_named_not_ignored() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join(FILE), "{").expect("writes");
        assert_eq!(Settings::load(dir.path()).expect_err("damaged").code, "settings");
    }
}
