//! The switch and its orders: obeyed, refused, or not understood at all.

use std::os::unix::net::UnixDatagram;

use testnet::fabric::control::{self, ControlError, Directions, Healing};
use testnet::fabric::link::Change;

use crate::ground::Laid;

pub(crate) fn heal_everything(laid: &Laid) {
    let names = || laid.0.hosts.iter().map(|host| host.name.as_str());
    let all = vec![Directions::between(names(), names())];
    control::heal(&laid.0, all, Healing::Everything).expect("the switch obeys");
}

#[test]
fn nonsense_disturbs_nothing() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let stranger = UnixDatagram::unbound().expect("a socket");
    let huge = vec![b'['; 100_000];
    for nonsense in [
        &b""[..],
        b"\0\xff\xfe",
        b"{}",
        b"{\"order\":\"explode\"}",
        b"{\"order\":\"set\",\"on\":[],\"change\":{\"loss_ppm\":-1}}",
        b"{\"order\":\"set\",\"on\":[{\"from\":[\"h1\"],\"to\":[\"h9\"]}],\"change\":{\"cut\":true}}",
        &huge,
    ] {
        stranger
            .send_to(nonsense, laid.0.control_socket())
            .expect("taken in");
    }
    laid.set("h1", "h2", Change::CUT);
    assert!(laid.link("h1", "h2").faults.cut);
    assert!(!laid.link("h2", "h1").faults.cut);
}

#[test]
fn an_unknown_host_is_refused_and_nothing_changes() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let on = vec![Directions::between(["h1"], ["h2", "h9"])];
    let refused = control::set(&laid.0, on, Change::CUT);
    assert!(matches!(refused, Err(ControlError::Refused { .. })), "{refused:?}");
    assert!(!laid.link("h1", "h2").faults.cut);
}

#[test]
fn trouble_is_listed_and_healed() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let troubled = || control::show_troubled(&laid.0).expect("the switch answers").0;
    assert_eq!(troubled(), []);
    let on = vec![Directions::between(["h1"], ["h1", "h2", "h3"])];
    let cut = control::set(&laid.0, on, Change::CUT).expect("obeyed");
    assert_eq!(cut, 2, "a host has no link to itself");
    let names: Vec<_> = troubled().into_iter().map(|row| (row.from, row.to)).collect();
    assert_eq!(names, [("h1", "h2"), ("h1", "h3")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    heal_everything(&laid);
    assert!(troubled().iter().all(|row| !row.faults.cut));
}
