//! Who reaches whom, and who must not.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use runtime::Publish;

use crate::stage::{
    HOST, NEIGHBOUR, Netns, caller, echoes, ip, neighbour, network, on_a_host, talk, tcp, udp,
    unreachable,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[test]
fn containers_reach_each_other_themselves_and_the_gateway() {
    on_a_host(|| {
        let (host, network) = (Netns::current(), network("a"));
        let (one, two) = (Netns::new(), Netns::new());
        let first = network.attach("one", one.fd(), &[]).expect("done");
        let second = network.attach("two", two.fd(), &[]).expect("done");
        assert_ne!(first.address, second.address);
        let listener = two.listen(ANY, 80);
        assert_eq!(talk(&listener, &one, (second.address, 80)).expect("done"), first.address);
        assert_eq!(
            talk(&listener, &two, (Ipv4Addr::LOCALHOST, 80)).expect("done"),
            Ipv4Addr::LOCALHOST
        );
        assert_eq!(talk(&listener, &host, (second.address, 80)).expect("done"), second.gateway);
        let listener = host.listen(first.gateway, 81);
        assert_eq!(talk(&listener, &one, (first.gateway, 81)).expect("done"), first.address);
        let seen = one.within(|| ip("-o link show eth0"));
        assert!(seen.contains(&first.mac.to_string()), "{seen}");
        let low = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let first = [&one, &host].map(|netns| netns.within(|| std::fs::read_to_string(low)));
        assert_eq!(first.map(Result::ok), [Some("0\n".to_owned()), Some("1024\n".to_owned())]);
        let six = one.within(|| ip("-6 -o addr show dev eth0 scope link"));
        assert_eq!(six, "", "an address that nobody gave");
    });
}

#[test]
fn a_container_reaches_the_world_under_the_hosts_address() {
    on_a_host(|| {
        let (outside, network, task) = (neighbour(), network("a"), Netns::new());
        network.attach("task", task.fd(), &[]).expect("done");
        let listener = outside.listen(ANY, 80);
        assert_eq!(talk(&listener, &task, (NEIGHBOUR, 80)).expect("done"), HOST);
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_a_host(|| {
        // Nothing to switch off where br_netfilter is not loaded.
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        reached_from_everywhere();
    });
}

/// As Docker sets it for the whole host: bridged packets meet the rules for routed
/// ones, and a redirected one is bridged instead of routed.
#[test]
fn a_published_port_is_reached_also_where_bridged_packets_are_filtered() {
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    on_a_host(|| {
        if std::fs::write(switch, "1").is_err() {
            return eprintln!("SKIPPED: needs br_netfilter in the kernel");
        }
        reached_from_everywhere();
    });
}

fn reached_from_everywhere() {
    {
        let (host, outside, network) = (Netns::current(), neighbour(), network("a"));
        let (task, other) = (Netns::new(), Netns::new());
        let own = network.attach("task", task.fd(), &[tcp(8080, 80)]).expect("done");
        network.attach("other", other.fd(), &[]).expect("done");
        let listener = task.listen(ANY, 80);
        let from =
            |client: &Netns, address| talk(&listener, client, (address, 8080)).expect("done");
        assert_eq!(from(&outside, HOST), NEIGHBOUR, "the container sees who asks");
        assert_eq!(from(&host, HOST), HOST);
        assert_eq!(from(&host, Ipv4Addr::LOCALHOST), own.gateway);
        assert_eq!(from(&host, Ipv4Addr::new(127, 1, 2, 3)), own.gateway);
        // There and back by the host, or the answer would come from a stranger.
        assert_eq!(from(&other, HOST), own.gateway);
        assert_eq!(from(&task, HOST), own.gateway);
        assert_eq!(from(&other, own.gateway), own.gateway);
    }
}

#[test]
fn datagrams_find_the_container_that_has_the_port_now() {
    on_a_host(|| {
        let (host, outside, network) = (Netns::current(), neighbour(), network("a"));
        let (near, far) =
            (caller(&host, (Ipv4Addr::LOCALHOST, 5300)), caller(&outside, (HOST, 5300)));
        // Conversations with nobody, which the kernel keeps in mind.
        for caller in [&near, &far] {
            caller.send(b"anyone?").expect("sent");
            let refused = caller.recv(&mut [0; 1]).expect_err("nobody");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        for round in ["first", "second"] {
            let task = Netns::new();
            network.attach(round, task.fd(), &[udp(5300, 53)]).expect("done");
            let server = task.within(|| UdpSocket::bind((ANY, 53)).expect("done"));
            assert!(echoes(&server, &far), "{round}, from outside");
            assert!(echoes(&server, &near), "{round}, from the host");
            network.detach(round).expect("done");
        }
    });
}

#[test]
fn what_is_not_published_is_not_reached_from_outside() {
    on_a_host(|| {
        let (host, outside, network, task) =
            (Netns::current(), neighbour(), network("a"), Netns::new());
        let local = Publish { host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), ..tcp(8080, 80) };
        let limited = Publish { host_ip: Some(IpAddr::V4(HOST)), ..tcp(8081, 80) };
        let own = network.attach("task", task.fd(), &[local, limited]).expect("done");
        let listener = task.listen(ANY, 80);
        // The neighbour knows where containers live, and lies about loopback.
        outside.within(|| {
            ip(&format!("route add {} via {HOST}", network.subnet()));
            ip("link set lo down");
            ip(&format!("route add 127.0.0.0/8 via {HOST} dev eth0 src {NEIGHBOUR} table local"));
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").expect("done");
        });
        assert!(unreachable(&outside, (own.address, 80)), "straight to the container");
        assert!(unreachable(&outside, (HOST, 8080)), "a port for the host only");
        assert!(unreachable(&outside, (Ipv4Addr::LOCALHOST, 8080)), "the host's loopback");
        assert_eq!(talk(&listener, &outside, (HOST, 8081)).expect("done"), NEIGHBOUR);
        assert!(talk(&listener, &host, (Ipv4Addr::LOCALHOST, 8080)).is_ok());
        assert!(unreachable(&host, (Ipv4Addr::LOCALHOST, 8081)), "limited to another address");
    });
}

/// CVE-2020-8558: with `route_localnet` a neighbour could talk to 127.0.0.1.
#[test]
fn a_container_does_not_reach_what_the_host_keeps_on_its_loopback() {
    on_a_host(|| {
        let (host, network, task) = (Netns::current(), network("a"), Netns::new());
        let own = network.attach("task", task.fd(), &[]).expect("done");
        let secret = host.listen(Ipv4Addr::LOCALHOST, 6443);
        task.within(|| {
            ip("addr del 127.0.0.1/8 dev lo");
            ip(&format!("route add 127.0.0.0/8 via {} dev eth0 src {}", own.gateway, own.address));
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").expect("done");
        });
        assert!(unreachable(&task, (Ipv4Addr::LOCALHOST, 6443)));
        secret.set_nonblocking(true).expect("done");
        assert!(secret.accept().is_err(), "nobody came");
    });
}
