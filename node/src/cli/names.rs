//! The words of `run` for what a container finds when it looks up names: Docker's, with
//! Docker's meaning.

use std::net::IpAddr;

use clap::Args;
use gossip_core::names::{HostSpec, NamesSpec};

/// Docker's word for the node, as whoever runs there sees it.
const NODE: &str = "host-gateway";

/// Names and resolvers of a container.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamesArgs {
    /// Let it know a host by name: db:10.0.0.7, or node:host-gateway for its node
    #[arg(long, value_name = "NAME:IP", value_parser = host, help_heading = "Container")]
    add_host: Vec<HostSpec>,
    /// Let it ask this resolver, in place of those that its node asks
    #[arg(long, value_name = "IP", help_heading = "Container")]
    dns: Vec<IpAddr>,
    /// Look for short names in this domain, in place of its node's; . for nowhere
    #[arg(long, value_name = "DOMAIN", help_heading = "Container")]
    dns_search: Vec<String>,
    /// Give its resolver an option, in place of its node's, like ndots:2
    #[arg(long, alias = "dns-opt", value_name = "OPTION", help_heading = "Container")]
    dns_option: Vec<String>,
}

impl NamesArgs {
    /// What a job says of it.
    pub(crate) fn spec(self) -> NamesSpec {
        NamesSpec {
            hosts: self.add_host,
            servers: self.dns,
            search: self.dns_search,
            options: self.dns_option,
        }
    }
}

/// `NAME:IP`, or `NAME=IP`, which is easier to read with the colons of IPv6.
fn host(text: &str) -> Result<HostSpec, String> {
    let bad = || format!("{text:?} is no host; write it like db:10.0.0.7 or node:{NODE}");
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match plain.unwrap_or(address) {
        NODE => None,
        address => Some(address.parse().map_err(|_no_address| bad())?),
    };
    Ok(HostSpec { name: name.to_owned(), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        let of = |address: Option<&str>| {
            let address = address.map(|address| address.parse().expect("an address"));
            Ok(HostSpec { name: "db".to_owned(), address })
        };
        assert_eq!(host("db:10.0.0.7"), of(Some("10.0.0.7")));
        assert_eq!(host("db=10.0.0.7"), of(Some("10.0.0.7")));
        for six in ["db:::1", "db:[::1]", "db=::1"] {
            assert_eq!(host(six), of(Some("::1")));
        }
        assert_eq!(host("db:host-gateway"), of(None));
        for bad in ["db", "db:", "db:x", "db:1.2.3", "10.0.0.7"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
