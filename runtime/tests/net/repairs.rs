//! Rules that somebody removes while containers run.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use runtime::net::Closed;

use crate::firewall;
use crate::stage::{
    HOST, NEIGHBOUR, Netns, ip, neighbour, network, on_a_host, talk, tcp, udp, unreachable,
};

#[test]
fn flushed_rules_come_back_and_whole_ones_are_left_alone() {
    on_a_host(|| {
        let (outside, network, task) = (neighbour(), network("h"), Netns::new());
        let publish = vec![tcp(8080, 80), udp(53, 53)];
        let own = network.attach("task", task.fd(), &publish).expect("done");
        let idle = Netns::new();
        network.attach("idle", idle.fd(), &[]).expect("done");
        let wanted = BTreeMap::from([
            ("task".to_owned(), publish),
            ("idle".to_owned(), Vec::new()),
            ("gone".to_owned(), vec![tcp(9090, 90)]),
        ]);
        let inside = task.listen(Ipv4Addr::UNSPECIFIED, 80);
        let beyond = outside.listen(NEIGHBOUR, 7);
        let works = || {
            let came = talk(&inside, &outside, (HOST, 8080)).is_ok();
            let went = talk(&beyond, &task, (NEIGHBOUR, 7));
            came && went.is_ok_and(|from| from == IpAddr::V4(HOST))
        };
        assert!(works());
        assert_eq!(network.repair(&wanted).expect("done"), 0, "nothing is missing");

        firewall::flush();
        assert!(unreachable(&outside, (HOST, 8080)));
        assert_eq!(network.repair(&wanted).expect("done"), 3, "the table and two ports");
        assert!(works());
        assert_eq!(network.repair(&wanted).expect("done"), 0);

        for (chain, put_back) in [("publish", 2), ("postrouting", 1), ("shield", 1)] {
            firewall::flush_chain("starling-h", chain);
            assert_eq!(network.repair(&wanted).expect("done"), put_back, "{chain}");
            assert!(works(), "{chain}");
        }
        assert_eq!(network.tasks()["task"], own.address);
        network.detach("task").expect("done");
        firewall::flush();
        assert_eq!(network.repair(&wanted).expect("done"), 1, "the table, and nobody's ports");
        network.detach("idle").expect("done");
        assert_eq!(network.close().expect("done"), Closed::Gone);
        assert_eq!(network.repair(&wanted).expect("done"), 0, "it is gone for good");
    });
}

#[test]
fn rules_flushed_while_no_agent_lived_are_put_back_by_the_next() {
    on_a_host(|| {
        let (host, task) = (Netns::current(), Netns::new());
        let publish = vec![tcp(8080, 80)];
        let first = network("h");
        first.attach("task", task.fd(), &publish).expect("done");
        drop(first);
        firewall::flush();
        let next = network("h");
        let inside = task.listen(Ipv4Addr::UNSPECIFIED, 80);
        assert!(unreachable(&host, (Ipv4Addr::LOCALHOST, 8080)));
        let wanted = BTreeMap::from([("task".to_owned(), publish)]);
        assert_eq!(next.repair(&wanted).expect("done"), 1);
        assert!(talk(&inside, &host, (Ipv4Addr::LOCALHOST, 8080)).is_ok());
        next.detach("task").expect("done");
        assert_eq!(next.close().expect("done"), Closed::Gone);
    });
}

#[test]
fn a_bridge_that_somebody_removed_is_made_anew_with_its_tasks_on_it() {
    on_a_host(|| {
        let (host, task) = (Netns::current(), Netns::new());
        let first = network("h");
        first.attach("task", task.fd(), &[tcp(8080, 80)]).expect("done");
        assert!(first.is_there().expect("read"));
        ip(&format!("link del {}", first.name()));
        assert!(!first.is_there().expect("read"));
        drop(first);
        let next = network("h");
        let inside = task.listen(Ipv4Addr::UNSPECIFIED, 80);
        assert!(talk(&inside, &host, (Ipv4Addr::LOCALHOST, 8080)).is_ok());
        next.attach("other", Netns::new().fd(), &[]).expect("done");
        next.detach("task").expect("done");
        next.detach("other").expect("done");
        assert_eq!(next.close().expect("done"), Closed::Gone);
    });
}
