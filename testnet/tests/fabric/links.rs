//! What faults do to real packets between three hosts.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use testnet::fabric::Segments;
use testnet::fabric::amount::{Chance, Rate, Span};
use testnet::fabric::link::Change;

use crate::ground::{Laid, until};

const ALWAYS: Option<Chance> = Chance::of_ppm(1_000_000);

fn send(from: &UdpSocket, laid: &Laid, to: &str, text: &str) {
    from.send_to(text.as_bytes(), laid.at(to)).expect("sent");
}

/// The next thing that arrives; fails when nothing does.
fn next(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2_048];
    let length = socket.recv(&mut buffer).expect("something arrives");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn every_host_reaches_every_other() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let sockets = ["h1", "h2", "h3"].map(|name| (name, laid.udp(name)));
    for (from, out) in &sockets {
        for (to, into) in sockets.iter().filter(|(to, _)| to != from) {
            send(out, &laid, to, from);
            assert_eq!(next(into), *from, "{from} to {to}");
        }
    }
}

#[test]
fn the_switch_adds_little() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let (a, b) = (laid.udp("h1"), laid.udp("h2"));
    let mut took: Vec<Duration> = (0..500).map(|_| round_trip(&laid, &a, &b)).collect();
    took.sort();
    println!("round trip: median {:?}, slowest {:?}", took[250], took[499]);
    assert!(took[250] < Duration::from_millis(5), "{:?}", took[250]);
}

/// One thread plays both hosts, so this is two crossings and no more.
fn round_trip(laid: &Laid, a: &UdpSocket, b: &UdpSocket) -> Duration {
    let began = Instant::now();
    send(a, laid, "h2", "there");
    assert_eq!(next(b), "there");
    send(b, laid, "h1", "back");
    assert_eq!(next(a), "back");
    began.elapsed()
}

#[test]
fn a_stream_arrives_whole_however_it_is_cut_into_frames() {
    for segments in [Segments::One, Segments::Many] {
        let Some(laid) = Laid::with(2, segments) else {
            return;
        };
        let (mut near, mut far) = laid.tcp("h1", "h2");
        let sent: Vec<u8> = (0..32_u32 << 20).map(|n| (n ^ (n >> 11)) as u8).collect();
        let began = Instant::now();
        let came = thread::scope(|scope| {
            scope.spawn(|| {
                near.write_all(&sent).expect("the other end reads");
                drop(near);
            });
            let mut came = Vec::new();
            far.read_to_end(&mut came).expect("the stream ends");
            came
        });
        let rate = 32.0 / began.elapsed().as_secs_f64();
        println!("stream of {segments:?}: {rate:.0} MiB/s");
        assert!(sent == came, "not one byte differs");
    }
}

#[test]
fn a_one_way_cut_is_one_way() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let (a, b, c) = (laid.udp("h1"), laid.udp("h2"), laid.udp("h3"));
    laid.set("h1", "h2", Change::CUT);
    send(&a, &laid, "h2", "lost");
    until("the cut takes it", || laid.link("h1", "h2").tally.cut == 1);
    send(&b, &laid, "h1", "the other way");
    assert_eq!(next(&a), "the other way");
    send(&a, &laid, "h3", "elsewhere");
    assert_eq!(next(&c), "elsewhere");
    laid.set("h1", "h2", Change::JOIN);
    send(&a, &laid, "h2", "healed");
    assert_eq!(next(&b), "healed", "and not what was sent before");
}

#[test]
fn a_cut_both_ways_ends_with_heal() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let (a, b) = (laid.udp("h1"), laid.udp("h2"));
    laid.set("h1", "h2", Change::CUT);
    laid.set("h2", "h1", Change::CUT);
    send(&a, &laid, "h2", "lost");
    send(&b, &laid, "h1", "lost");
    until("both are lost", || {
        laid.link("h1", "h2").tally.cut == 1 && laid.link("h2", "h1").tally.cut == 1
    });
    crate::orders::heal_everything(&laid);
    round_trip(&laid, &a, &b);
}

#[test]
fn a_delay_delays_each_direction() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let (a, b, c) = (laid.udp("h1"), laid.udp("h2"), laid.udp("h3"));
    let delay = Change { delay: Span::of_micros(40_000), ..Change::default() };
    laid.set("h1", "h2", delay);
    laid.set("h2", "h1", delay);
    for _ in 0..5 {
        let took = round_trip(&laid, &a, &b);
        assert!(took >= Duration::from_millis(80), "{took:?}");
        assert!(took < Duration::from_millis(400), "{took:?}");
    }
    // What is sent first to the slow link arrives after what is sent later to the fast one.
    let began = Instant::now();
    send(&a, &laid, "h2", "slow");
    send(&a, &laid, "h3", "fast");
    assert_eq!(next(&c), "fast");
    let fast = began.elapsed();
    assert_eq!(next(&b), "slow");
    assert!(fast < began.elapsed());
}

#[test]
fn certain_loss_on_one_link_leaves_the_others() {
    let Some(laid) = Laid::with_hosts(3) else {
        return;
    };
    let (a, b, c) = (laid.udp("h1"), laid.udp("h2"), laid.udp("h3"));
    let loss = Change { loss: ALWAYS, ..Change::default() };
    laid.set("h1", "h2", loss);
    for _ in 0..50 {
        send(&a, &laid, "h2", "lost");
        send(&a, &laid, "h3", "kept");
    }
    until("all are lost", || laid.link("h1", "h2").tally.lost == 50);
    for _ in 0..50 {
        assert_eq!(next(&c), "kept");
    }
    send(&c, &laid, "h2", "first to come");
    assert_eq!(next(&b), "first to come");
}

#[test]
fn a_rate_takes_its_time() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let (a, b) = (laid.udp("h1"), laid.udp("h2"));
    let rate = Change { rate: Some(Rate::of_kbit(800)), ..Change::default() };
    laid.set("h1", "h2", rate);
    let body = "x".repeat(1_000);
    let began = Instant::now();
    (0..30).for_each(|_| send(&a, &laid, "h2", &body));
    (0..30).for_each(|_| assert_eq!(next(&b).len(), 1_000));
    let took = began.elapsed();
    // 30 000 bytes at 100 000 bytes a second.
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn duplicates_come_twice_and_corruption_shows() {
    let Some(laid) = Laid::with_hosts(2) else {
        return;
    };
    let (a, b) = (laid.udp("h1"), laid.udp("h2"));
    let twice = Change { duplicate: ALWAYS, ..Change::default() };
    laid.set("h1", "h2", twice);
    send(&a, &laid, "h2", "again");
    assert_eq!([next(&b), next(&b)], ["again", "again"]);
    crate::orders::heal_everything(&laid);
    let corrupt = Change { corrupt: ALWAYS, ..Change::default() };
    laid.set("h1", "h2", corrupt);
    // A bit in the headers loses the packet; most are in the body.
    let body = "x".repeat(1_000);
    (0..20).for_each(|_| send(&a, &laid, "h2", &body));
    assert_ne!(next(&b), body);
}
