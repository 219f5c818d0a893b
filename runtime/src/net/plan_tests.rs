//! Plans compared as text: what a person would read, and nothing that a kernel did.

use super::super::route::{Link, Route};
use super::*;

fn names() -> Names {
    Names::new("t1").expect("done")
}

fn subnet(text: &str) -> Subnet {
    text.parse().expect("it parses")
}

fn default_by(index: u32) -> Route {
    Route { to: Subnet::around(Ipv4Addr::UNSPECIFIED, 0), by: Some(index) }
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link { index, name: name.to_owned(), mtu, ..Link::default() }
}

fn read(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::to_string).collect()
}

#[test]
fn a_fresh_host_gets_a_bridge_that_fits_its_way_out() {
    let host = Host {
        links: vec![link(1, "lo", 65536), link(2, "ens4", 1460)],
        addresses: Vec::new(),
        addresses6: Vec::new(),
        routes: vec![default_by(2), Route { to: subnet("10.88.3.0/24"), by: Some(2) }],
    };
    let base = base(&names(), "", None, &host, false).expect("done");
    assert_eq!(base.mtu, 1460);
    assert_eq!(
        read(&base.steps),
        [
            "switch on net.ipv4.ip_forward",
            "make bridge star-t1 mtu 1460",
            "start star-t1 as 02:53:0a:59:00:01",
            "give star-t1 10.89.0.1/16",
            "switch on net.ipv4.conf.star-t1.route_localnet",
            "make table starling-t1, which masquerades 10.89.0.0/16",
        ]
    );
}

#[test]
fn a_bridge_of_ours_keeps_its_subnet_and_is_only_put_right() {
    let own = subnet("10.90.0.0/16");
    let host = Host {
        links: vec![link(7, "star-t1", 1500)],
        addresses: vec![(7, own.gateway(), 16)],
        addresses6: Vec::new(),
        routes: vec![Route { to: own, by: Some(7) }],
    };
    let found = base(&names(), "", None, &host, true).expect("done");
    assert_eq!((found.subnet, found.mtu), (own, 1500));
    assert_eq!(read(&found.steps)[0], "make bridge star-t1 mtu 1500", "it forwards already");
    let other = base(&names(), "", Some(subnet("10.91.0.0/16")), &host, true).expect_err("refused");
    assert_eq!(
        other.to_string(),
        "the bridge star-t1 has the subnet 10.90.0.0/16, not 10.91.0.0/16; end all tasks on it first"
    );
}

#[test]
fn a_subnet_that_would_hide_something_is_refused() {
    let route = subnet("10.88.3.0/24");
    let host = Host { routes: vec![Route { to: route, by: None }], ..Host::default() };
    let wanted = subnet("10.88.0.0/16");
    let refused = base(&names(), "", Some(wanted), &host, true);
    assert_eq!(refused, Err(PlanError::Collides { subnet: wanted, route }));
}

#[test]
fn a_task_gets_its_cable_before_its_ports_and_loses_them_in_the_other_order() {
    let own = subnet("10.88.0.0/16");
    let address = Ipv4Addr::new(10, 88, 1, 5);
    let publish = [
        Publish { host_ip: None, host_port: 8080, port: 80, protocol: Protocol::Tcp },
        Publish {
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            host_port: 53,
            port: 5353,
            protocol: Protocol::Udp,
        },
    ];
    let steps = attach(&names(), (own, None, 1500), "web.0", address, &publish).expect("done");
    assert_eq!(
        read(&steps),
        [
            "lay cable vt1-105 to eth0 02:53:0a:58:01:05 of web.0",
            "inside, give eth0 10.88.1.5/16 and a route by 10.88.0.1",
            "send tcp 8080 to 10.88.1.5:80",
            "send udp 127.0.0.1:53 to 10.88.1.5:5353",
            "forget conversations with udp 53",
        ]
    );
    assert_eq!(
        read(&detach(
            &names(),
            (own, None),
            "web.0",
            address,
            &[Protocol::Tcp, Protocol::Udp].into()
        )),
        ["close the ports of web.0", "remove cable vt1-105", "forget conversations with 10.88.1.5",]
    );
    assert_eq!(
        read(&detach(&names(), (own, None), "web.0", address, &BTreeSet::new())),
        ["remove cable vt1-105"]
    );
}

#[test]
fn a_host_with_ipv6_gives_both_and_publishes_on_what_was_asked_for() {
    let (own, prefix) = (subnet("10.88.0.0/16"), Prefix6::of("a"));
    let publish = |host_ip: Option<&str>| Publish {
        host_ip: host_ip.map(|text| text.parse().expect("it parses")),
        host_port: 80,
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let address = "10.88.1.5".parse().expect("it parses");
    let steps = |prefix, host_ip| {
        let steps = attach(&names(), (own, prefix, 1500), "web.0", address, &[publish(host_ip)]);
        steps.map(|steps| read(&steps)[1..].join("; "))
    };
    let six = prefix.nth(0x105);
    let (four, also) = ("send tcp 80 to 10.88.1.5:8080", format!("send tcp 80 to [{six}]:8080"));
    let inside = format!("inside, give eth0 10.88.1.5/16 and a route by 10.88.0.1; and {six}");
    for (host_ip, wanted) in [
        (None, format!("{inside}; {four}; {also}")),
        (Some("::"), format!("{inside}; {four}; {also}")),
        (Some("0.0.0.0"), format!("{inside}; {four}")),
        (Some("fd00::9"), format!("{inside}; send tcp [fd00::9]:80 to [{six}]:8080")),
    ] {
        assert_eq!(steps(Some(prefix), host_ip).expect("planned"), wanted);
    }
    assert!(!steps(None, None).expect("planned").contains(&six.to_string()));
    let refused = steps(None, Some("fd00::9")).expect_err("no IPv6");
    assert!(matches!(refused, PublishError::NoIpv6 { .. }), "{refused}");
    let refused = steps(Some(prefix), Some("::1")).expect_err("no way");
    assert!(matches!(refused, PublishError::Loopback6 { .. }), "{refused}");
    assert_eq!(
        read(&base6(&names(), prefix, false)),
        [
            "switch on net.ipv6.conf.all.forwarding".to_owned(),
            format!("give star-t1 {}/64", prefix.gateway()),
            format!("make table starling-t1 of IPv6, which masquerades {prefix}"),
        ]
    );
}

#[test]
fn names_tell_agents_apart_and_fit_an_interface() {
    let longest = Names::new("abcdefgh").expect("done");
    let last = subnet("172.16.0.0/12");
    assert_eq!(longest.cable(last, last.last()).len(), 15);
    assert!(longest.bridge.len() <= 15);
    assert_eq!(longest.cable_number("vabcdefgh-fffff"), Some(0xf_ffff));
    for foreign in ["vabcdefg-5", "vabcdefghi-5", "veth0", "vabcdefgh-", "vabcdefgh-x"] {
        assert_eq!(longest.cable_number(foreign), None, "{foreign}");
    }
    for bad in ["", "abcdefghi", "A", "a-b", "a/b", "é"] {
        assert_eq!(Names::new(bad), Err(BadTag { given: bad.to_owned() }));
    }
}

#[test]
fn networks_of_nobody_are_known_and_those_with_tasks_left_alone() {
    let ours = |index, name: &str, alias: &str| Link {
        alias: alias.to_owned(),
        ..link(index, name, 1500)
    };
    let links = vec![
        ours(1, "star-a1", "gone"),
        ours(2, "star-b2", "there"),
        ours(3, "star-c3", "gone"),
        Link { on: Some(3), ..link(4, "vc3-2", 1500) },
        ours(5, "docker0", "gone"),
        ours(6, "star-", "gone"),
    ];
    let host = Host { links, ..Host::default() };
    let found = deserted(&host, |alias| alias == "gone");
    let steps: Vec<_> = found.iter().flat_map(close).collect();
    assert_eq!(read(&steps), ["remove table starling-a1", "remove bridge star-a1"]);
}
