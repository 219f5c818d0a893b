//! Images between real agents, in chunks: two that lack one take it from each other too, what
//! is alike is not sent again, and a fetch outlives the agent that began it.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/layers.rs"]
mod layers;

use layers::{counted, fetch, fetched, load};
use support::{cluster, kill, until};

/// Noise in a layer: a few hundred chunks.
const NOISE: usize = 12 << 20;

#[test]
fn two_that_lack_an_image_take_it_from_each_other_too() {
    if !image::possible() {
        return;
    }
    let hosts = cluster(3);
    let bytes = load(&hosts[0], "app:1", "first", NOISE);
    let fetches: Vec<_> = hosts[1..].iter().map(|host| fetch(host, "app:1")).collect();
    fetches.into_iter().for_each(fetched);
    let sent: Vec<_> = hosts.iter().map(|host| counted(host, "sent-unpacked")).collect();
    let came: Vec<_> = hosts.iter().map(|host| counted(host, "peer-unpacked")).collect();
    assert!(came[1..].iter().all(|came| came * 100 >= bytes * 90), "{came:?} of {bytes}");
    // On a machine that does much else they may begin long after each other; then the later
    // one still takes part of it from the earlier.
    assert!(sent[0] < came[1] + came[2], "{sent:?} of {bytes}");
    assert!(sent[1] + sent[2] > 0, "{sent:?} of {bytes}");
    assert!(hosts.iter().all(|host| counted(host, "bad") == 0));
}

#[test]
fn what_is_alike_in_an_elder_image_is_not_sent_again() {
    if !image::possible() {
        return;
    }
    let hosts = cluster(2);
    let bytes = load(&hosts[0], "app:1", "first", NOISE);
    fetched(fetch(&hosts[1], "app:1"));
    let before = counted(&hosts[1], "peer");
    // The same noise and one megabyte more of it, in a layer that has another digest.
    load(&hosts[0], "app:2", "first", NOISE + (1 << 20));
    fetched(fetch(&hosts[1], "app:2"));
    let came = counted(&hosts[1], "peer") - before;
    assert!(came < 3 << 20, "{came} of {bytes} bytes came");
    assert!(counted(&hosts[1], "local") > NOISE as u64 / 2);
}

#[test]
fn a_fetch_goes_on_where_the_agent_before_was() {
    if !image::possible() {
        return;
    }
    let hosts = cluster(2);
    let bytes = load(&hosts[0], "app:1", "first", NOISE);
    let mut child = fetch(&hosts[1], "app:1");
    until("a part of it came", || counted(&hosts[1], "peer-unpacked") > 1 << 20);
    hosts[1].crash_agent();
    // Whoever waited is told by the broken door.
    let _ = child.wait();
    hosts[1].up();
    // A member that was just restarted is reached once the links to it are new.
    until("it is fetched", || {
        hosts[1].run(&["image", "save", "app:1", "-o", "/dev/null"]).code == 0
    });
    let again = counted(&hosts[1], "peer-unpacked");
    assert!(again < bytes, "{again} of {bytes} bytes came again");
    assert_eq!(counted(&hosts[1], "bad"), 0);
}

#[test]
fn a_fetch_outlives_one_of_two_that_hold_it_and_the_agent_that_began_it() {
    if !image::possible() {
        return;
    }
    let hosts = cluster(3);
    let bytes = load(&hosts[0], "app:1", "first", NOISE);
    fetched(fetch(&hosts[1], "app:1"));
    let mut child = fetch(&hosts[2], "app:1");
    until("a part of it came", || counted(&hosts[2], "peer-unpacked") > 2 << 20);
    // No word from it any more, and none that it is gone.
    let cut = hosts[0].agent();
    kill(cut, "STOP");
    let part = counted(&hosts[2], "peer-unpacked");
    hosts[2].crash_agent();
    // Whoever waited is told by the broken door.
    let _ = child.wait();
    hosts[2].up();
    until("it is fetched", || {
        hosts[2].run(&["image", "save", "app:1", "-o", "/dev/null"]).code == 0
    });
    let again = counted(&hosts[2], "peer-unpacked");
    assert!(part + again < bytes + NOISE as u64 / 2, "{part} and {again} of {bytes} bytes came");
    assert_eq!(counted(&hosts[2], "bad"), 0);
}
