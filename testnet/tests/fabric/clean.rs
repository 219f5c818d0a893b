//! What is left when a fabric is gone: nothing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use testnet::fabric::hosts::{Census, Marks};
use testnet::fabric::{netns, sweep};

use crate::ground::{Laid, PATIENCE};

/// Starts a shell on a host that has two children, one in a namespace of its own.
fn populate(laid: &Laid, name: &str) {
    let namespace = laid.host(name).namespace.clone().expect("has one");
    let script = "unshare -n sleep 1000 & sleep 1000 & echo ready; wait";
    let mut child = netns::within(&namespace, || {
        Command::new("sh")
            .args(["-c", script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
    })
    .expect("can be entered")
    .expect("sh starts");
    let mut ready = [0; 6];
    let out = child.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(out, &mut ready).expect("it says ready");
    // Reaped here, so that the sweep need not tell the dead from the living.
    std::thread::spawn(move || child.wait());
}

#[test]
fn a_sweep_leaves_no_process_no_namespace_no_cable_no_directory() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    populate(&laid, "h2");
    let fabric = laid.0.clone();
    let ours = Census::take().find(&Marks::of_fabric(&fabric));
    assert!(ours.len() >= 4, "three of h2 and the switch: {ours:?}");
    assert_eq!(netns::existing(&fabric.prefix).len(), 4);

    drop(laid);

    assert!(ours.iter().all(|process| process.ends_by(Instant::now())));
    assert!(netns::existing(&fabric.prefix).is_empty());
    assert!(!fabric.dir.exists());
    assert!(!fabric.stands());
    assert_eq!(sweep::leftovers(&fabric.dir).expect("nothing to do"), None);
}

#[test]
fn killing_one_host_spares_the_others() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    populate(&laid, "h1");
    populate(&laid, "h2");
    let marks = |name| Marks::of(laid.host(name));
    let killed = testnet::fabric::hosts::kill(&[marks("h1")]).expect("all go");
    assert!(killed >= 3);
    let census = Census::take();
    assert!(census.find(&[marks("h1")]).is_empty());
    assert!(census.find(&[marks("h2")]).len() >= 3);
}

#[test]
fn the_switch_ends_when_its_fabric_is_lost_and_the_rest_is_swept_up() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let namespace = laid.0.switch_namespace();
    let switch = Census::take().find(&[Marks::of_namespace(&namespace)]);
    assert_eq!(switch.len(), 1);
    fs::remove_dir_all(&laid.0.dir).expect("ours");
    assert!(switch[0].ends_by(Instant::now() + PATIENCE));
    let swept = sweep::leftovers(&laid.0.dir).expect("can be swept");
    assert_eq!(swept.map(|swept| swept.namespaces), Some(3));
    assert!(netns::existing(&laid.0.prefix).is_empty());
}

#[test]
fn a_lost_cable_does_not_disturb_the_switch() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let gone = Command::new("ip")
        .args(["-n", &laid.0.switch_namespace(), "link", "del", "h3"])
        .status()
        .expect("ip runs");
    assert!(gone.success());
    let (a, b) = (laid.udp("h1"), laid.udp("h2"));
    a.send_to(b"still here", laid.at("h2")).expect("sent");
    let mut buffer = [0; 64];
    assert_eq!(b.recv(&mut buffer).expect("arrives"), 10);
}
