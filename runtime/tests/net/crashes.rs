//! An agent that dies leaves its network as it is; the next one takes it over.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use runtime::net::{Bridge, BridgeConfig, Closed, Ports, PublishError};

use crate::stage::{Netns, config, ip, network, on_a_host, talk, tcp};

const HOST_LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn the_next_agent_keeps_the_living_and_sweeps_the_dead() {
    on_a_host(|| {
        let host = Netns::current();
        let (lives, dies) = (Netns::new(), Netns::new());
        let first = network("d");
        let own = first.attach("job.0", lives.fd(), &[tcp(8080, 80)]).expect("done");
        first.attach("job.1", dies.fd(), &[tcp(8081, 80)]).expect("done");
        // What the supervisors of the two have.
        let of_living = Ports::hold(&[tcp(8080, 80)]).expect("free");
        let of_dead = Ports::hold(&[tcp(8081, 80)]).expect("free");
        let subnet = first.subnet();
        drop(first);

        let listener = lives.listen(Ipv4Addr::UNSPECIFIED, 80);
        assert!(talk(&listener, &host, (HOST_LOOPBACK, 8080)).is_ok(), "meanwhile");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "nobody else gets it meanwhile");
        drop(of_dead);

        let next = network("d");
        assert_eq!(next.subnet(), subnet);
        assert_eq!(next.tasks().len(), 2);
        let living = BTreeSet::from(["job.0".to_owned()]);
        assert_eq!(next.sweep(&living).expect("done"), ["job.1"]);
        assert_eq!(next.sweep(&living).expect("done"), Vec::<String>::new());
        assert_eq!(ip("-o link show type veth").lines().count(), 1);
        let heir = host.listen(Ipv4Addr::UNSPECIFIED, 8081);
        assert!(talk(&heir, &host, (HOST_LOOPBACK, 8081)).is_ok(), "the port of the dead is free");
        drop(heir);
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "that of the living is not");
        let taken = Ports::hold(&[tcp(8080, 80)]).expect_err("refused");
        assert!(matches!(taken, PublishError::Taken { .. }), "{taken}");
        let other = next.attach("job.2", dies.fd(), &[tcp(8081, 80)]).expect("done");
        assert_ne!(other.address, own.address);
        assert!(talk(&listener, &host, (HOST_LOOPBACK, 8080)).is_ok(), "all the while");
        drop(of_living);

        assert_eq!(next.sweep(&BTreeSet::new()).expect("done"), ["job.0", "job.2"]);
        assert_eq!(next.close().expect("done"), Closed::Gone);
        assert_eq!(Bridge::remains("d").expect("done"), Vec::<String>::new());
    });
}

#[test]
fn a_cable_laid_by_halves_and_a_port_without_a_cable_are_removed() {
    on_a_host(|| {
        let first = network("d");
        let netns = Netns::new();
        first.attach("lost", netns.fd(), &[tcp(8080, 81)]).expect("done");
        drop(first);
        // Its cable goes, its rule stays; and another crash came before the alias.
        let cable =
            Bridge::remains("d").expect("done").into_iter().find(|name| name.starts_with('v'));
        ip(&format!("link del {}", cable.expect("done")));
        ip("link add vd-ff type veth peer name stray");
        ip("link set vd-ff master star-d");

        let next = network("d");
        assert_eq!(next.tasks().len(), 0);
        assert_eq!(ip("-o link show type veth"), "");
        next.attach("found", netns.fd(), &[tcp(8080, 80)]).expect("done");
        let listener = netns.listen(Ipv4Addr::UNSPECIFIED, 80);
        assert!(talk(&listener, &Netns::current(), (HOST_LOOPBACK, 8080)).is_ok());
        next.detach("found").expect("done");
        assert_eq!(next.close().expect("done"), Closed::Gone);
    });
}

#[test]
fn the_network_of_an_agent_that_is_no_more_goes_with_the_next() {
    on_a_host(|| {
        let home = tempfile::tempdir().expect("a directory");
        let of = |tag| BridgeConfig { home: home.path().into(), ..config(tag, None) };
        let (busy, idle) = (Bridge::open(&of("a")).expect("done"), Bridge::open(&of("b")));
        let (netns, idle) = (Netns::new(), idle.expect("done"));
        busy.attach("job.0", netns.fd(), &[]).expect("done");
        assert_ne!(busy.subnet(), idle.subnet());
        let freed = idle.subnet();
        drop((busy, idle));
        assert_eq!(Bridge::remains("b").expect("done").len(), 2, "its directory is there");
        home.close().expect("removed");
        assert_eq!(network("c").subnet(), freed);
        assert_eq!(Bridge::remains("b").expect("done"), Vec::<String>::new());
        assert_eq!(Bridge::remains("a").expect("done").len(), 3, "a task is on it");
    });
}
