//! What is refused, and that a refusal changes nothing.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use runtime::Publish;
use runtime::net::{Bridge, BridgeError, Ports};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::firewall;
use crate::stage::{Netns, config, ip, network, on_a_host, tcp, udp};

#[test]
fn a_port_of_the_host_is_not_taken_from_whoever_listens_there() {
    on_a_host(|| {
        let (network, netns) = (network("e"), Netns::new());
        let _tcp = TcpListener::bind("0.0.0.0:8080").expect("done");
        let _udp = UdpSocket::bind("127.0.0.1:5300").expect("done");
        let before = Bridge::remains("e").expect("done");
        for publish in [tcp(8080, 80), udp(5300, 53)] {
            let refused = Ports::hold(&[tcp(80, 80), publish]).expect_err("refused");
            assert!(refused.to_string().contains("of this host is already in use"), "{refused}");
        }
        let own = network.attach("one", netns.fd(), &[tcp(80, 80)]).expect("done");
        let second = Netns::new();
        let twice = network.attach("one", second.fd(), &[]).expect_err("refused");
        assert!(matches!(twice, BridgeError::Attached { .. }), "{twice}");
        assert_eq!(network.tasks(), [("one".to_owned(), own.address)].into());
        network.detach("one").expect("done");
        assert_eq!(Bridge::remains("e").expect("done"), before);
    });
}

#[test]
fn a_failure_half_way_is_undone() {
    on_a_host(|| {
        let (network, netns) = (network("e"), Netns::new());
        // Something called eth0 is in the way.
        netns.within(|| ip("link add eth0 type veth peer name eth1"));
        let before = (Bridge::remains("e").expect("done"), netns.within(|| ip("-o link show")));
        let refused = network.attach("task", netns.fd(), &[tcp(80, 80)]).expect_err("refused");
        assert!(refused.to_string().starts_with("cannot lay cable ve-2 to eth0"), "{refused}");
        assert_eq!(
            (Bridge::remains("e").expect("done"), netns.within(|| ip("-o link show"))),
            before
        );
    });
}

#[test]
fn the_hosts_own_network_is_not_a_containers() {
    on_a_host(|| {
        let network = network("e");
        // Numbers, names and hardware addresses: a new bridge's state settles by and by.
        let links = || -> Vec<String> {
            let fields = |line: &str| {
                let fields: Vec<_> = line.split_whitespace().collect();
                let address = line.split_once("link/").map(|(_, address)| address);
                format!("{} {address:?}", fields[..2].join(" "))
            };
            ip("-o link show").lines().map(fields).collect()
        };
        let before = links();
        assert!(network.attach("task", Netns::current().fd(), &[]).is_err());
        assert_eq!(links(), before);
    });
}

#[test]
fn without_the_right_to_it_there_is_no_bridge_but_a_sentence() {
    on_a_host(|| {
        // This thread alone: the others keep theirs.
        let mut sets = capabilities(None).expect("done");
        sets.effective -= CapabilitySet::NET_ADMIN;
        set_capabilities(None, sets).expect("done");
        let config = config("e", None);
        let refused = Bridge::open(&config).expect_err("refused").to_string();
        let said = Bridge::facts("e").expect("done").bridge().expect_err("refused").to_string();
        assert_eq!(refused, said);
        assert!(said.starts_with("bridge network is not available: "), "{said}");
        assert!(said.ends_with("use --network host or none"), "{said}");
        assert_eq!(ip("-o link show").lines().count(), 1, "nothing was made");
    });
}

#[test]
fn a_subnet_or_an_address_that_is_not_the_hosts_to_give_is_refused() {
    on_a_host(|| {
        ip("link add dummy0 type veth peer name dummy1");
        ip("addr add 10.88.7.1/24 dev dummy0");
        ip("link set dummy0 up");
        assert_eq!(network("e").subnet().to_string(), "10.89.0.0/16");
        let wanted = |tag: &str, subnet: &str| {
            let subnet = Some(subnet.parse().expect("it parses"));
            Bridge::open(&config(tag, subnet))
        };
        let collides = wanted("f", "10.88.0.0/16").expect_err("refused").to_string();
        assert!(collides.contains("overlaps the host's route to 10.88.7.0/24"), "{collides}");
        let differs = wanted("e", "10.70.0.0/16").expect_err("refused").to_string();
        assert!(differs.contains("star-e has the subnet 10.89.0.0/16"), "{differs}");
        let small = wanted("f", "10.70.0.0/28").expect("done");
        let many: Vec<Netns> = (0..14).map(|_| Netns::new()).collect();
        let given = many.iter().enumerate().map(|(number, netns)| {
            small.attach(&number.to_string(), netns.fd(), &[]).map(|own| own.address)
        });
        let given: Vec<_> = given.collect();
        assert!(given[..13].iter().all(Result::is_ok), "{given:?}");
        assert!(matches!(given[13], Err(BridgeError::Full { .. })), "{:?}", given[13]);
        let foreign = Publish { host_ip: Some(Ipv4Addr::new(192, 0, 2, 9).into()), ..tcp(1, 1) };
        small.detach("3").expect("done");
        let refused = Ports::hold(&[foreign]).expect_err("refused").to_string();
        assert_eq!(refused, "cannot publish 192.0.2.9:1/tcp: this host does not have that address");
    });
}

#[test]
fn a_firewall_that_drops_what_it_does_not_know_is_found_and_named() {
    on_a_host(|| {
        firewall::drop_forwarded();
        let network = network("e");
        let warned = Bridge::facts("e").expect("done").warnings(network.name());
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].contains("chain FORWARD of table filter drops"), "{warned:?}");
        firewall::accept_from("star-e");
        assert_eq!(Bridge::facts("e").expect("done").warnings("star-e"), Vec::<String>::new());
    });
}
