//! Containers with IPv6, on hosts that have it and on hosts that do not.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use runtime::Publish;
use runtime::net::{Bridge, Closed, Ports};

use crate::firewall;
use crate::stage::{Netns, ip, neighbour, network, on_a_host, talk, tcp, unreachable};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const SWITCHES: &str = "/proc/sys/net/ipv6/conf";

/// Whether this kernel has IPv6; says so if not.
fn has_six() -> bool {
    let has = fs::exists(SWITCHES).unwrap_or(false);
    if !has {
        eprintln!("SKIPPED: this kernel has no IPv6");
    }
    has
}

fn neighbour6() -> Netns {
    let outside = neighbour();
    ip(&format!("addr add {HOST}/64 dev out0 nodad"));
    outside.within(|| ip(&format!("addr add {NEIGHBOUR}/64 dev eth0 nodad")));
    outside
}

#[test]
fn containers_have_ipv6_of_their_own_behind_the_hosts_address() {
    on_a_host(|| {
        if !has_six() {
            return;
        }
        let (host, outside, network) = (Netns::current(), neighbour6(), network("i"));
        let (one, two) = (Netns::new(), Netns::new());
        let first = network.attach("one", one.fd(), &[]).expect("done");
        let publish = [tcp(8080, 80)];
        let second = network.attach("two", two.fd(), &publish).expect("done");
        let (first, second) = (first.address6.expect("one"), second.address6.expect("one"));
        assert_ne!(first, second);
        assert_eq!(first.octets()[0], 0xfd);
        let inside = two.listen(ANY, 80);
        assert_eq!(talk(&inside, &one, (second, 80)).expect("done"), IpAddr::V6(first));
        assert!(talk(&inside, &host, (second, 80)).is_ok(), "the host is on the bridge");
        // Outward it has the host's address; inward only what is published comes.
        let beyond = outside.listen(NEIGHBOUR, 7);
        assert_eq!(talk(&beyond, &one, (NEIGHBOUR, 7)).expect("done"), IpAddr::V6(HOST));
        assert_eq!(talk(&inside, &outside, (HOST, 8080)).expect("done"), IpAddr::V6(NEIGHBOUR));
        assert!(talk(&inside, &host, (HOST, 8080)).is_ok(), "from the host itself");
        assert!(talk(&inside, &one, (HOST, 8080)).is_ok(), "from a neighbour");
        assert!(talk(&inside, &two, (HOST, 8080)).is_ok(), "from itself");
        outside.within(|| ip(&format!("-6 route add fd00::/8 via {HOST}")));
        assert!(unreachable(&outside, (second, 80)), "straight to the container");
        // `localhost` is ::1 first: refused at once, so 127.0.0.1 is tried.
        assert!(unreachable(&host, (Ipv6Addr::LOCALHOST, 8080)));
        ["one", "two"].iter().for_each(|task| network.detach(task).expect("done"));
        assert!(unreachable(&outside, (HOST, 8080)));
        assert_eq!(network.close().expect("done"), Closed::Gone);
        assert_eq!(Bridge::remains("i").expect("done"), Vec::<String>::new());
    });
}

#[test]
fn the_next_agent_finds_the_range_and_flushed_rules_of_both_kinds_come_back() {
    on_a_host(|| {
        if !has_six() {
            return;
        }
        let (outside, first) = (neighbour6(), network("i"));
        let task = Netns::new();
        let publish = vec![tcp(8080, 80)];
        let own = first.attach("task", task.fd(), &publish).expect("done");
        let inside = task.listen(ANY, 80);
        // A packet that is passed on is the first to go there.
        assert!(talk(&inside, &outside, (HOST, 8080)).is_ok());
        drop(first);
        let next = network("i");
        let other = Netns::new();
        let beside = next.attach("other", other.fd(), &[]).expect("done");
        let half = |address: Option<Ipv6Addr>| address.expect("one").segments()[..4].to_vec();
        assert_eq!(half(own.address6), half(beside.address6));
        assert!(talk(&inside, &outside, (HOST, 8080)).is_ok());
        firewall::flush_all();
        assert!(unreachable(&outside, (HOST, 8080)));
        let wanted = BTreeMap::from([("task".to_owned(), publish)]);
        assert_eq!(next.repair(&wanted).expect("done"), 4, "two tables, two ports");
        assert_eq!(next.repair(&wanted).expect("done"), 0);
        assert!(talk(&inside, &outside, (HOST, 8080)).is_ok());
    });
}

#[test]
fn a_host_that_becomes_a_router_goes_on_to_hear_its_own() {
    on_a_host(|| {
        if !has_six() {
            return;
        }
        let _outside = neighbour6();
        let read = |path: &str| fs::read_to_string(format!("{SWITCHES}/{path}")).expect("read");
        assert_eq!((read("all/forwarding").trim(), read("out0/accept_ra").trim()), ("0", "1"));
        let network = network("i");
        assert_eq!((read("all/forwarding").trim(), read("out0/accept_ra").trim()), ("1", "2"));
        assert_eq!(network.close().expect("done"), Closed::Gone);
    });
}

#[test]
fn a_host_without_ipv6_has_containers_as_ever() {
    on_a_host(|| {
        for of in ["all", "default"] {
            let _ = fs::write(format!("{SWITCHES}/{of}/disable_ipv6"), "1");
        }
        let (host, network, task) = (Netns::current(), network("i"), Netns::new());
        let publish = [tcp(8080, 80)];
        let _held = Ports::hold(&publish).expect("free");
        let own = network.attach("task", task.fd(), &publish).expect("done");
        assert_eq!(own.address6, None);
        let inside = task.listen(Ipv4Addr::UNSPECIFIED, 80);
        assert!(talk(&inside, &host, (Ipv4Addr::LOCALHOST, 8080)).is_ok());
        let six = Publish { host_ip: Some(HOST.into()), ..tcp(8081, 80) };
        let refused = network.attach("six", Netns::new().fd(), &[six]).expect_err("refused");
        assert!(refused.to_string().contains("this host has no IPv6"), "{refused}");
    });
}

#[test]
fn a_port_is_held_on_both_kinds() {
    on_a_host(|| {
        if !has_six() {
            return;
        }
        let held = Ports::hold(&[tcp(8080, 80)]).expect("free");
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(ANY)] {
            assert!(std::net::TcpListener::bind((address, 8080)).is_err(), "{address}");
        }
        drop(held);
        let taken = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 8080)).expect("free");
        assert!(Ports::hold(&[tcp(8080, 80)]).is_err());
        let four = Publish { host_ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..tcp(8080, 80) };
        assert!(Ports::hold(&[four]).is_ok(), "IPv4 was asked for alone");
        drop(taken);
    });
}
