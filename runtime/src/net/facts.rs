//! What this host lets us do with its network, in sentences.
//!
//! Looked at before a bridge is promised to anybody, and by whoever explains a host
//! to its owner. Looking changes nothing. A firewall of somebody else's that drops
//! what it does not know cannot be overruled from a table of ours: every table has
//! its say, and one drop is the last word. So it is found and named, with the cure.

use std::fs;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::thread::{CapabilitySet, capabilities};

use super::nft::{self, ForwardChain};
use super::wire::Wire;

/// Whether the host passes packets on.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Tables of the older iptables, which nftables does not list.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// Netfilter's number of the rules for IPv4 alone, which iptables writes too.
const FAMILY_IPV4: u8 = 2;
/// The same for IPv6, which matters where containers have it.
const FAMILY_IPV6: u8 = 10;
/// Whose chains let everything pass but end in a rule that rejects.
const FIREWALLD: &str = "firewalld";

/// What a host offers for containers on a bridge.
#[derive(Clone, Debug)]
pub struct NetworkFacts {
    net_admin: bool,
    sys_admin: bool,
    /// Why the kernel's packet rules cannot be used, if so.
    no_rules: Option<String>,
    forwards: Option<bool>,
    /// The same of IPv6; none where the host has it not, or has it switched off.
    forwards6: Option<bool>,
    droppers: Vec<ForwardChain>,
    legacy: bool,
}

/// Why containers cannot be put on a bridge here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bridge network is not available: {reason}; use --network host or none")]
pub struct NoBridge {
    /// What is missing.
    pub reason: String,
}

impl NetworkFacts {
    /// Looks at the calling thread's network namespace. `bridge` is the name of the
    /// bridge that other people's rules may already make room for.
    pub(super) fn look(bridge: &str) -> Self {
        let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        let mut facts = Self {
            net_admin: effective.contains(CapabilitySet::NET_ADMIN),
            sys_admin: effective.contains(CapabilitySet::SYS_ADMIN),
            no_rules: None,
            forwards: fs::read_to_string(FORWARDING).ok().map(|text| text.trim() != "0"),
            forwards6: forwards6(),
            droppers: Vec::new(),
            legacy: fs::read_to_string(LEGACY_TABLES)
                .is_ok_and(|text| text.lines().any(|table| table == "filter")),
        };
        if facts.net_admin {
            match droppers(bridge) {
                Ok(droppers) => {
                    let concerns = |chain: &ForwardChain| {
                        chain.family != FAMILY_IPV6 || facts.forwards6.is_some()
                    };
                    facts.droppers = droppers.into_iter().filter(concerns).collect();
                }
                Err(error) => facts.no_rules = Some(error.to_string()),
            }
        }
        facts
    }

    /// Whether containers can be put on a bridge.
    pub fn bridge(&self) -> Result<(), NoBridge> {
        let no = |reason: &str| Err(NoBridge { reason: reason.to_owned() });
        match &self.no_rules {
            _ if !self.net_admin => no("the agent has no CAP_NET_ADMIN (it does not run as root)"),
            _ if !self.sys_admin => {
                no("the agent has no CAP_SYS_ADMIN, so it cannot enter a container's network")
            }
            Some(said) => no(&format!("the kernel's packet rules (nf_tables) do not work: {said}")),
            None if self.forwards.is_none() => {
                no("/proc/sys/net/ipv4/ip_forward is missing; is /proc mounted?")
            }
            None => Ok(()),
        }
    }

    /// Whether the host passes packets on already, so that nothing has to be switched
    /// on for containers.
    pub fn forwards(&self) -> bool {
        self.forwards == Some(true)
    }

    /// Whether the host passes packets of IPv6 on; none if it has no IPv6.
    pub fn forwards6(&self) -> Option<bool> {
        self.forwards6
    }

    /// What may keep containers from being reached although all of ours is right, and
    /// what to do about it: one sentence each.
    pub fn warnings(&self, bridge: &str) -> Vec<String> {
        let mut said: Vec<String> = self
            .droppers
            .iter()
            .map(|ForwardChain { table, chain, family, .. }| {
                let program = if *family == FAMILY_IPV6 { "ip6tables" } else { "iptables" };
                let cure = if [FAMILY_IPV4, FAMILY_IPV6].contains(family) && chain == "FORWARD" {
                    format!(
                        "{program} -I FORWARD -i {bridge} -j ACCEPT; \
                         {program} -I FORWARD -o {bridge} -j ACCEPT (again after each boot)"
                    )
                } else if table == FIREWALLD {
                    format!(
                        "firewall-cmd --permanent --zone=trusted --add-interface={bridge}; \
                         firewall-cmd --reload"
                    )
                } else {
                    format!("a rule there that accepts packets from and to {bridge}")
                };
                format!(
                    "the firewall chain {chain} of table {table} drops forwarded packets, so \
                     containers on {bridge} reach nothing outside; the cure: {cure}"
                )
            })
            .collect();
        if self.legacy {
            said.push(format!(
                "this host has rules of iptables-legacy, which cannot be read from here; if \
                 containers on {bridge} reach nothing outside, see `iptables-legacy -S FORWARD`"
            ));
        }
        said
    }
}

fn forwards6() -> Option<bool> {
    let switch = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).ok();
    let is_on = ["all", "default"]
        .into_iter()
        .all(|of| switch(&format!("{of}/disable_ipv6")).is_some_and(|text| text.trim() == "0"));
    is_on.then(|| switch("all/forwarding").is_some_and(|text| text.trim() != "0"))
}

/// The chains that drop what they do not know, unless their table speaks of our
/// bridge: then somebody has thought of it.
fn droppers(bridge: &str) -> Result<Vec<ForwardChain>, super::wire::WireError> {
    let mut wire = Wire::open(NETLINK_NETFILTER)?;
    let mut found = nft::forward_chains(&mut wire)?;
    found.retain(|chain| chain.drops || chain.table == FIREWALLD);
    found.retain(|chain| {
        !nft::mentions(&mut wire, chain.family, &chain.table, bridge).unwrap_or(false)
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> NetworkFacts {
        NetworkFacts {
            net_admin: true,
            sys_admin: true,
            no_rules: None,
            forwards: Some(false),
            forwards6: None,
            droppers: Vec::new(),
            legacy: false,
        }
    }

    #[test]
    fn a_host_says_why_it_has_no_bridge_and_what_to_use_instead() {
        assert_eq!(able().bridge(), Ok(()));
        let user = NetworkFacts { net_admin: false, sys_admin: false, ..able() };
        assert_eq!(
            user.bridge().expect_err("refused").to_string(),
            "bridge network is not available: the agent has no CAP_NET_ADMIN (it does not run as \
             root); use --network host or none"
        );
        let bare = NetworkFacts { no_rules: Some("not built in".to_owned()), ..able() };
        assert!(bare.bridge().expect_err("refused").reason.ends_with("do not work: not built in"));
        assert!(NetworkFacts { forwards: None, ..able() }.bridge().is_err());
    }

    #[test]
    fn a_firewall_that_drops_is_named_with_its_cure() {
        let docker = ForwardChain {
            family: FAMILY_IPV4,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            drops: true,
        };
        let warned = NetworkFacts { droppers: vec![docker], ..able() }.warnings("star-a");
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("chain FORWARD of table filter drops"), "{warned:?}");
        assert!(warned[0].contains("iptables -I FORWARD -o star-a -j ACCEPT"), "{warned:?}");
        let daemon = ForwardChain {
            family: 1,
            table: FIREWALLD.to_owned(),
            chain: "filter_FORWARD".to_owned(),
            drops: false,
        };
        let warned = NetworkFacts { droppers: vec![daemon], ..able() }.warnings("star-a");
        assert!(warned[0].contains("--add-interface=star-a; firewall-cmd --reload"), "{warned:?}");
        assert_eq!(able().warnings("star-a"), Vec::<String>::new());
    }
}
