//! Members that give something else than a layer, between real agents: it costs time, never a
//! wrong byte, and never the image while an honest member has it.
//!
//! A member is made to lie by damage to its store: its layers are told again from files, and
//! their lists of chunks are kept in one.

#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/layers.rs"]
mod layers;
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use layers::{fetch, fetched, load};
use support::{Host, Told, cluster, until};

/// Noise in a layer: some dozens of chunks.
const NOISE: usize = 4 << 20;

/// What a list of chunks begins with, and the bytes of an entry of it.
const HEAD: &[u8] = b"starling chunks 1\n";
const ENTRY: usize = 36;

/// The directories of the layers that a host has.
fn stored(host: &Host) -> Vec<PathBuf> {
    let dir = host.data().join("run/images/layers");
    fs::read_dir(dir).expect("a store").map(|entry| entry.expect("listed").path()).collect()
}

/// Changes a byte in the middle of the files with this path in the layers that a host has, and
/// not how long they are.
fn damage(host: &Host, file: &str) {
    let files = stored(host).into_iter().map(|layer| layer.join("tree").join(file));
    let mut damaged = 0;
    for path in files.filter(|path| path.is_file()) {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("opens");
        let middle = file.metadata().expect("read").len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle).expect("read");
        file.write_all_at(&[!byte[0]], middle).expect("written");
        damaged += 1;
    }
    assert!(damaged > 0, "no layer has {file}");
}

/// Has a host keep lists of its layers that are another's, changed like that.
fn list_as(host: &Host, other: &Host, lie: impl Fn(&mut Vec<[u8; ENTRY]>)) {
    for layer in stored(other) {
        let kept = fs::read(layer.join("chunks")).expect("it was asked for");
        let entries = kept.strip_prefix(HEAD).expect("a list");
        let mut entries: Vec<[u8; ENTRY]> =
            entries.chunks(ENTRY).map(|entry| entry.try_into().expect("whole")).collect();
        lie(&mut entries);
        let name = layer.file_name().expect("a name");
        let layer = host.data().join("run/images/layers").join(name);
        fs::write(layer.join("chunks"), [HEAD, &entries.concat()].concat()).expect("written");
    }
}

/// `run` of a container without a network, which not every machine can make.
fn run(host: &Host, name: &str) -> Told {
    host.run(&["run", "--rm", "--network", "none", name])
}

/// Removes an image, as soon as this host has heard that the job is over which ran elsewhere.
fn forget(host: &Host, name: &str) {
    until("the image is not in use", || host.run(&["image", "rm", name]).code == 0);
}

/// Hosts of which all but the last are full, so that what runs must run there.
fn all_but_one_full(count: usize) -> Vec<Host> {
    let hosts = cluster(count - 1);
    let array = (count - 1).to_string();
    let filler = ["run", "-d", "--name", "filler", "--array", &array, "--cpus", "1"];
    hosts[0].run(&[&filler[..], &["--exec", "--", "sleep", "9999"]].concat()).ok();
    until("they are full", || hosts[0].running("filler") == count - 1);
    let last = Host::new(&format!("h{count}"));
    last.join(&hosts[0].invite(1));
    until("all know it", || {
        hosts.iter().all(|host| {
            let nodes = host.json(&["node", "ls"]);
            let items = nodes["items"].as_array().cloned().unwrap_or_default();
            items.len() == count && items.iter().all(|node| node["free"].is_object())
        })
    });
    hosts.into_iter().chain([last]).collect()
}

/// The content of a file of a host's layers.
fn content(host: &Host, file: &str) -> Vec<Vec<u8>> {
    let files = stored(host).into_iter().map(|layer| layer.join("tree").join(file));
    files.filter_map(|path| fs::read(path).ok()).collect()
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.data().join("agent.log")).expect("a log")
}

/// Whether a line of a host's log has all of these.
fn logged(host: &Host, words: &[&str]) -> bool {
    log(host).lines().any(|line| words.iter().all(|word| line.contains(word)))
}

/// Fetches from two of which one lies, until it was asked for something.
const ASKED_WITHIN: u32 = 10;

/// What one says of itself that found out.
const DAMAGED: &str = "a layer is damaged on the disk";

const LIED: &str = "a member sent something else than the layer";

/// Two that have an image, and a third that lacks it and must run it. Either of the two may be
/// asked first, so each lies once.
fn each_lies_once(lie: impl Fn(&Host, &Host)) {
    each_lies(Named::Yes, lie);
}

/// Whether it is known for certain who lied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Yes,
    /// It may break off before it is found out.
    Perhaps,
}

fn each_lies(named: Named, lie: impl Fn(&Host, &Host)) {
    if !image::possible() {
        return;
    }
    let hosts = all_but_one_full(3);
    for (liar, honest) in [(0, 1), (1, 0)] {
        let lied = |host: usize| logged(&hosts[2], &[LIED, &format!("from=\"h{}\"", host + 1)]);
        let is_told = || named == Named::Perhaps || lied(liar) || logged(&hosts[liar], &[DAMAGED]);
        let mut tries = 1..=ASKED_WITHIN;
        // Now and then the honest one is so fast that the other is not needed.
        loop {
            let attempt = tries.next();
            assert!(attempt.is_some(), "it is not named: {}", log(&hosts[2]));
            let name = format!("app:{liar}-{}", attempt.unwrap_or_default());
            let motd = format!("of {name}\n");
            load(&hosts[honest], &name, &motd, NOISE);
            fetched(fetch(&hosts[liar], &name));
            let good = content(&hosts[honest], "srv/noise");
            lie(&hosts[liar], &hosts[honest]);
            let told = run(&hosts[2], &name);
            let said = (told.code, told.out.as_str());
            assert_eq!(said, (0, motd.as_str()), "{told:?}\n{}", log(&hosts[2]));
            assert!(content(&hosts[2], "srv/noise") == good, "{name} is not what was loaded");
            forget(&hosts[0], &name);
            if is_told() {
                break;
            }
        }
        // The second time both have lied.
        assert!(liar == 1 || !lied(honest), "{}", log(&hosts[2]));
    }
}

/// Damages every layer.
fn damage_all(host: &Host) {
    for file in ["bin/sh", "srv/noise", "etc/motd"] {
        damage(host, file);
    }
}

#[test]
fn one_whose_layers_were_damaged_before_it_listed_them_costs_time_alone() {
    // Nobody asked for its lists yet: they say what the damage says.
    each_lies_once(|liar, _| damage_all(liar));
}

#[test]
fn one_whose_layers_were_damaged_after_it_listed_them_costs_time_alone() {
    each_lies_once(|liar, honest| {
        list_as(liar, honest, |_| {});
        damage_all(liar);
    });
}

#[test]
fn one_whose_lists_are_of_other_chunks_costs_time_alone() {
    each_lies_once(|liar, honest| {
        list_as(liar, honest, |entries| entries.iter_mut().for_each(|entry| entry[20] ^= 1));
    });
}

#[test]
fn one_whose_lists_have_another_order_or_other_lengths_costs_time_alone() {
    each_lies_once(|liar, honest| {
        list_as(liar, honest, |entries| {
            entries.reverse();
            // A few bytes of one are said to be another's.
            for (entry, lie) in entries.iter_mut().skip(1).zip([8_u32, 8_u32.wrapping_neg()]) {
                let bytes = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
                entry[..4].copy_from_slice(&bytes.wrapping_add(lie).to_le_bytes());
            }
        });
    });
}

/// Has a host say of its layers that they are of other lengths than they are.
fn lie_in_lengths(host: &Host) {
    let lies = [|_: u64| 7, |bytes| bytes + 4096, |_| 1 << 40];
    for (layer, lie) in stored(host).into_iter().zip(lies.iter().cycle()) {
        let path = layer.join("info");
        let info = fs::read(&path).expect("read");
        let mut info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
        info["bytes"] = lie(info["bytes"].as_u64().expect("a length")).into();
        fs::write(path, info.to_string()).expect("written");
        // Cut anew, it is of the true length.
        let _ = fs::remove_file(layer.join("chunks"));
    }
}

#[test]
fn one_whose_layers_claim_other_lengths_costs_time_alone() {
    each_lies(Named::Perhaps, |liar, honest| {
        lie_in_lengths(liar);
        // Read at its next start.
        liar.crash_agent();
        liar.up();
        until("they hear of each other", || {
            [liar, honest].iter().all(|host| {
                let nodes = host.json(&["node", "ls"]);
                let items = nodes["items"].as_array().cloned().unwrap_or_default();
                items.len() == 3 && items.iter().all(|node| node["state"] == "ready")
            })
        });
    });
}

#[test]
fn where_only_a_liar_has_the_image_the_job_says_so() {
    if !image::possible() {
        return;
    }
    let hosts = all_but_one_full(2);
    load(&hosts[0], "app:1", "of app:1\n", NOISE);
    damage(&hosts[0], "srv/noise");
    let told = run(&hosts[1], "app:1");
    assert_eq!(told.code, 125, "{told:?}");
    for word in ["app:1 cannot be had here", "h1"] {
        assert!(told.err.contains(word), "{told:?}");
    }
    // Whichever of the two found out first.
    let reasons = ["is not what was promised", "has it damaged"];
    assert!(reasons.iter().any(|reason| told.err.contains(reason)), "{told:?}");
    assert_eq!(told.out, "");
    assert!(content(&hosts[1], "srv/noise").is_empty(), "nothing wrong is kept");
    // Once it has it whole, it is asked again.
    forget(&hosts[0], "app:1");
    load(&hosts[0], "app:1", "of app:1\n", NOISE);
    assert_eq!(run(&hosts[1], "app:1").ok(), "of app:1\n");
}
