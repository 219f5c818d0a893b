//! Coming and going, many times and at once, and what is left of it.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use runtime::net::{Bridge, Closed};

use crate::stage::{Netns, PATIENCE, ip, network, on_a_host, seen, tcp, udp};

const CYCLES: u32 = 200;

#[test]
fn a_network_comes_and_goes_without_a_trace() {
    on_a_host(|| {
        let before = seen();
        let network = network("b");
        let (one, two) = (Netns::new(), Netns::new());
        let empty = seen();
        network.attach("one", one.fd(), &[tcp(80, 8080), udp(53, 53)]).expect("done");
        network.attach("two", two.fd(), &[]).expect("done");
        assert_ne!(seen(), empty);
        assert_eq!(network.close().expect("done"), Closed::InUse { tasks: 2 });
        for task in ["one", "one", "two", "never heard of"] {
            network.detach(task).expect("done");
        }
        assert_eq!(one.within(|| ip("-o link show type veth")), "", "its end went too");
        let links = |seen: [String; 4]| [seen[1].clone(), seen[2].clone(), seen[3].clone()];
        assert_eq!(links(seen()), links(empty), "as before they came");
        assert_eq!(network.close().expect("done"), Closed::Gone);
        assert_eq!(Bridge::remains("b").expect("done"), Vec::<String>::new());
        assert_eq!(seen(), before);
    });
}

#[test]
fn two_hundred_comings_and_goings_leave_nothing() {
    on_a_host(|| {
        let network = network("b");
        let netns = Netns::new();
        let descriptors = || fs::read_dir("/proc/self/fd").expect("done").count();
        let (mut coming, mut going, mut addresses) = (Vec::new(), Vec::new(), BTreeSet::new());
        for cycle in 0..CYCLES {
            // Half of them publish, as tasks do.
            let publish = if cycle % 2 == 0 { vec![] } else { vec![tcp(80, 80), udp(53, 53)] };
            let started = Instant::now();
            let own = network.attach("task", netns.fd(), &publish).expect("done");
            coming.push((started.elapsed(), publish.len()));
            addresses.insert(own.address);
            let started = Instant::now();
            network.detach("task").expect("done");
            going.push((started.elapsed(), publish.len()));
        }
        assert_eq!(addresses.len(), CYCLES as usize, "an address just given up comes last");
        assert_eq!(Bridge::remains("b").expect("done"), ["star-b", "starling-b"]);
        let again = network.attach("task", netns.fd(), &[tcp(80, 80)]);
        assert!(again.is_ok(), "{again:?}");
        network.detach("task").expect("done");
        for (what, times) in [("attach", coming), ("detach", going)] {
            for ports in [0, 2] {
                let mut of: Vec<Duration> =
                    times.iter().filter(|(_, count)| *count == ports).map(|(t, _)| *t).collect();
                of.sort();
                let (median, worst) = (of[of.len() / 2], of[of.len() - 1]);
                eprintln!("{what}, {ports} ports: median {median:?}, worst {worst:?}");
            }
        }
        let held = descriptors();
        drop(network);
        // Other tests run beside this one, so only its own share is certain.
        assert!(descriptors() < held + 50);
    });
}

#[test]
fn tasks_that_come_at_once_get_addresses_of_their_own() {
    on_a_host(|| {
        let network = network("b");
        let host = Netns::current();
        let addresses: BTreeSet<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    let (network, host) = (&network, &host);
                    scope.spawn(move || {
                        let netns = Netns::new();
                        let publish = [tcp(9000 + number, 80)];
                        let come = || network.attach(&number.to_string(), netns.fd(), &publish);
                        (host.within(come).expect("done").address, netns)
                    })
                })
                .collect();
            let all: Vec<_> =
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            assert_eq!(network.tasks().len(), 8);
            all.iter().map(|(address, _)| *address).collect()
        });
        assert_eq!(addresses.len(), 8);
        // Every second is taken off by two at once; the rest by the sweep.
        thread::scope(|scope| {
            for number in [0, 0, 2, 2, 4, 4, 6, 6] {
                let (network, host) = (&network, &host);
                scope.spawn(move || {
                    let task = number.to_string();
                    host.within(|| network.detach(&task)).expect("done");
                    assert!(!network.tasks().contains_key(&task), "done when it says so");
                });
            }
        });
        assert_eq!(network.sweep(&BTreeSet::new()).expect("done"), ["1", "3", "5", "7"]);
        assert_eq!(network.close().expect("done"), Closed::Gone);
    });
}

#[test]
fn a_container_that_is_gone_already_is_detached_all_the_same() {
    on_a_host(|| {
        let network = network("b");
        let netns = Netns::new();
        network.attach("task", netns.fd(), &[tcp(80, 80)]).expect("done");
        drop(netns);
        let deadline = Instant::now() + PATIENCE;
        while !ip("-o link show type veth").is_empty() {
            assert!(Instant::now() < deadline, "a namespace without a user goes away");
            thread::yield_now();
        }
        network.detach("task").expect("done");
        assert_eq!(network.close().expect("done"), Closed::Gone);
        assert_eq!(Bridge::remains("b").expect("done"), Vec::<String>::new());
    });
}

#[test]
fn agents_on_one_host_share_nothing_but_the_host() {
    on_a_host(|| {
        let (one, two) = (network("b"), network("c"));
        assert_ne!(one.subnet(), two.subnet());
        let netns = Netns::new();
        two.attach("task", netns.fd(), &[tcp(80, 80)]).expect("done");
        assert_eq!(one.close().expect("done"), Closed::Gone);
        assert_eq!(Bridge::remains("c").expect("done").len(), 3);
        two.detach("task").expect("done");
        assert_eq!(two.close().expect("done"), Closed::Gone);
    });
}
