//! What a container finds in /etc/resolv.conf and /etc/hosts.
//!
//! Pure: text in, text out; whoever builds the container's files reads the host's
//! and writes ours. A container on a bridge has a loopback of its own, so a resolver
//! that the host runs on 127.0.0.53 is of no use to it: what that resolver itself
//! asks is, and systemd keeps that in a file of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::names::Names;

/// Where a host says whom to ask for names.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved asks itself; to be read when [`RESOLV_CONF`] names only it.
pub const UPSTREAM_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// A container's resolv.conf, from the host's and from what its local resolver asks
/// ([`UPSTREAM_RESOLV_CONF`], where there is one).
///
/// Search lists and options are kept, loopback resolvers dropped. If none is left
/// the text has no `nameserver` line, and names of the container's hosts file are
/// all that it can look up: better than 5 s of silence per lookup, or than asking a
/// stranger's resolver that nobody chose.
///
/// What `names` says comes in place of the host's, and of resolvers that were chosen none is
/// dropped.
pub fn resolv_conf(host: &str, upstream: Option<&str>, names: &Names) -> String {
    let named = |text: &str| text.lines().any(|line| nameserver(line).is_some_and(reachable));
    let source = match upstream {
        Some(upstream) if !named(host) && named(upstream) => upstream,
        _ => host,
    };
    let mut text = String::new();
    for line in source.lines() {
        let comment = line.trim_start().starts_with(['#', ';']);
        if !comment && !line.trim().is_empty() && nameserver(line).is_none_or(reachable) {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    chosen(&text, names)
}

/// A resolv.conf with the chosen resolvers, domains and options in place of its own.
pub fn chosen(text: &str, names: &Names) -> String {
    let is_replaced = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver") => !names.servers.is_empty(),
        Some("search" | "domain") => !names.search.is_empty(),
        Some("options") => !names.options.is_empty(),
        _ => false,
    };
    let mut kept = String::new();
    for line in text.lines().filter(|line| !is_replaced(line)) {
        let _ = writeln!(kept, "{line}");
    }
    for server in &names.servers {
        let _ = writeln!(kept, "nameserver {server}");
    }
    let domains: Vec<&str> =
        names.search.iter().map(String::as_str).filter(|name| *name != ".").collect();
    for (word, said) in [("search", domains.join(" ")), ("options", names.options.join(" "))] {
        if !said.is_empty() {
            let _ = writeln!(kept, "{word} {said}");
        }
    }
    kept
}

/// The resolver a line names: an address, perhaps with a zone that means something
/// on the host only.
fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
}

fn reachable(resolver: &str) -> bool {
    resolver.parse::<IpAddr>().is_ok_and(|address| {
        let mapped = address.to_canonical();
        !mapped.is_loopback() && !mapped.is_unspecified()
    })
}

/// A container's hosts file: localhost, itself, and what the job adds.
///
/// `address` is none for a container without a network, whose name then means its
/// loopback, as programs that look themselves up expect.
pub fn hosts(hostname: &str, address: Option<Ipv4Addr>, extra: &[(String, IpAddr)]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n"
        .to_owned();
    let own = address.unwrap_or(Ipv4Addr::LOCALHOST);
    let _ = writeln!(text, "{own}\t{hostname}");
    with_hosts(text, extra)
}

/// A hosts file with more hosts.
pub fn with_hosts(mut text: String, extra: &[(String, IpAddr)]) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_resolvers_are_the_hosts_where_it_can_reach_them() {
        let host = "# made by hand\nsearch lan example.org\nnameserver 192.168.1.1\n\
                    nameserver 127.0.0.1\noptions edns0\n";
        let kept = "search lan example.org\nnameserver 192.168.1.1\noptions edns0\n";
        assert_eq!(resolv_conf(host, None, &Names::default()), kept);
        assert_eq!(resolv_conf(host, Some("nameserver 9.9.9.9\n"), &Names::default()), kept);
    }

    #[test]
    fn a_stub_resolver_is_replaced_by_what_it_asks() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        let upstream = "nameserver 10.0.0.2\nnameserver fe80::1%2\nsearch corp\n";
        assert_eq!(
            resolv_conf(stub, Some(upstream), &Names::default()),
            "nameserver 10.0.0.2\nsearch corp\n"
        );
        assert_eq!(
            resolv_conf(stub, None, &Names::default()),
            "options edns0 trust-ad\nsearch .\n"
        );
        assert_eq!(
            resolv_conf(stub, Some(stub), &Names::default()),
            "options edns0 trust-ad\nsearch .\n"
        );
    }

    #[test]
    fn lines_that_make_no_sense_do_no_harm() {
        let odd =
            "nameserver\nnameserver ::1\nnameserver ::ffff:127.0.0.53\nnameserver 0.0.0.0\n\n";
        assert_eq!(resolv_conf(odd, None, &Names::default()), "");
    }

    #[test]
    fn a_container_finds_itself_and_its_friends() {
        let extra = [("db".to_owned(), "fd00::7".parse().expect("it parses"))];
        assert_eq!(
            hosts("web", Some(Ipv4Addr::new(10, 88, 0, 5)), &extra),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.88.0.5\tweb\nfd00::7\tdb\n"
        );
        assert!(hosts("alone", None, &[]).ends_with("127.0.0.1\talone\n"));
    }

    #[test]
    fn what_a_job_chose_comes_in_place_of_the_hosts() {
        let host = "search lan\nnameserver 192.168.1.1\nnameserver 127.0.0.1\noptions edns0\n";
        let mut names = Names { servers: vec![[127, 0, 0, 1].into()], ..Names::default() };
        assert_eq!(
            resolv_conf(host, None, &names),
            "search lan\noptions edns0\nnameserver 127.0.0.1\n"
        );
        names.search = vec!["a.b".into(), "c".into()];
        names.options = vec!["ndots:2".into(), "rotate".into()];
        let all = "nameserver 127.0.0.1\nsearch a.b c\noptions ndots:2 rotate\n";
        assert_eq!(resolv_conf(host, None, &names), all);
        assert_eq!(resolv_conf("", None, &names), all);
        let nowhere = Names { search: vec![".".into()], ..Names::default() };
        assert_eq!(chosen("domain lan\nsearch lan\n", &nowhere), "");
    }

    #[test]
    fn more_hosts_stand_in_lines_of_their_own() {
        let extra = [("db".to_owned(), IpAddr::from([10, 0, 0, 7]))];
        assert_eq!(with_hosts("127.0.0.1 x".into(), &extra), "127.0.0.1 x\n10.0.0.7\tdb\n");
        assert_eq!(with_hosts(String::new(), &extra), "10.0.0.7\tdb\n");
    }
}
