//! Names and resolvers of a container's own, over what its host says.
//!
//! They become lines of `/etc/hosts` and `/etc/resolv.conf`, so a word with a blank or the end
//! of a line in it is none: the plan refuses it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a container finds when it looks up names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Hosts that it knows; where no address is said, the machine that runs it.
    pub hosts: Vec<(String, Option<IpAddr>)>,
    /// Whom it asks, in place of the host's resolvers.
    pub servers: Vec<IpAddr>,
    /// Where short names are looked for, in place of the host's domains; `.` alone is nowhere.
    pub search: Vec<String>,
    /// Options, in place of the host's.
    pub options: Vec<String>,
}

impl Names {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The hosts with their addresses, where the machine itself is at that one.
    pub(crate) fn hosts(&self, machine: IpAddr) -> Vec<(String, IpAddr)> {
        let hosts = self.hosts.iter();
        hosts.map(|(name, address)| (name.clone(), address.unwrap_or(machine))).collect()
    }
}
