//! Images as users handle them, with real agents: loaded on one host and run on another,
//! listed, removed; and what happens when archives, hosts or users break off.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;
#[path = "images/transfers.rs"]
mod transfers;

#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use archive::Recipe;
use image::{beside, text};
use support::terminal::Terminal;
use support::{Host, Told, kill, until};

/// Long enough to be met in the midst of, by whoever looks every few milliseconds.
const LONG: usize = 192 << 20;

/// A founder that is full, so that what runs must run elsewhere.
fn full_founder() -> Host {
    let founder = Host::new("h1");
    founder.up();
    let filler = ["run", "-d", "--name", "filler", "--cpus", "1", "--exec", "--", "sleep", "9999"];
    founder.run(&filler).ok();
    until("the founder is full", || founder.running("filler") == 1);
    founder
}

/// A founder that is full and has a long image, and one more host, which lacks it.
fn full_and_lacking() -> (Host, Host) {
    let founder = full_founder();
    let recipe = Recipe { noise: LONG, ..Recipe::small("big:1") };
    let (archive, _) = recipe.make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = joined(&founder, "h2");
    (founder, other)
}

/// One more host of its cluster.
fn joined(founder: &Host, name: &str) -> Host {
    let host = Host::new(name);
    host.join(&founder.invite(1));
    until("they know each other", || {
        let nodes = founder.json(&["node", "ls"]);
        let items = nodes["items"].as_array().cloned().unwrap_or_default();
        items.iter().any(|node| node["name"] == name && node["free"].is_object())
    });
    host
}

/// `run` of a container without a network, which not every machine can make.
fn run(host: &Host, words: &[&str]) -> Told {
    host.run(&[&["run", "--network", "none"], words].concat())
}

fn load(host: &Host, archive: &Path) {
    host.run(&["image", "load", text(archive)]).ok();
}

/// What `image where` says: node and state.
fn places(host: &Host, image: &str) -> Vec<(String, String)> {
    let told = host.run(&["image", "where", image]);
    let rows = told.out.lines().skip(1).map(|line| {
        let mut words = line.split_whitespace();
        let node = words.next().unwrap_or_default().to_owned();
        (node, words.skip(2).collect::<Vec<_>>().join(" "))
    });
    rows.collect()
}

/// Whether a fetch or load is under way on a host: something lies unfinished in its store.
fn is_staging(host: &Host) -> bool {
    let images = host.data().join("run/images");
    let mut dirs = vec![images];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() == "noise" {
                return true;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    false
}

#[test]
fn what_one_host_loaded_any_host_runs_as_the_image_says() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let says = r#"{"Env":["GREETING=hello","PATH=/bin"],"User":"app","WorkingDir":"/srv",
        "Entrypoint":["sh","-c"],"Cmd":["echo $GREETING $(id -u) $PWD; cat /etc/motd"]}"#;
    let recipe = Recipe { says, ..Recipe::small("app:1") };
    let (archive, id) = recipe.make(&beside(&founder, "image"));
    let told = founder.run(&["image", "load", text(&archive)]);
    assert!(told.out.contains("loaded app:1"), "{told:?}");
    assert!(told.err.contains(": "), "a line for each layer: {told:?}");
    let other = joined(&founder, "h2");
    assert_eq!(run(&other, &["app:1"]).ok(), "hello 7 /srv\nof the image\n");
    assert_eq!(run(&founder, &["-e", "GREETING=ho", "app:1", "echo $GREETING"]).ok(), "ho\n");
    let bare = ["-u", "0", "-w", "/etc", "--entrypoint", "cat", "app:1", "motd"];
    assert_eq!(run(&founder, &bare).ok(), "of the image\n");
    // By digits of its id, as any name.
    assert_eq!(run(&other, &[&id[..12], "echo $PWD"]).ok(), "/srv\n");
    let is = |node: &str, state: &str| (node.to_owned(), state.to_owned());
    assert_eq!(places(&founder, "app:1"), [is("h1", "loaded"), is("h2", "fetched")]);
    let list = other.run(&["image", "ls"]).ok();
    let row: Vec<_> = list.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[4]), ("app:1", &id[..12], "h1,h2"), "{list}");
    let told = other.run(&["image", "inspect", "app:1"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(shown[0]["Id"], format!("sha256:{id}"));
    assert_eq!(shown[0]["Config"]["User"], "app");
    assert_eq!(shown[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(3));
}

#[test]
fn an_image_in_use_is_kept_and_one_that_is_not_goes_everywhere() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let (archive, id) = Recipe::small("app:1").make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = joined(&founder, "h2");
    run(&founder, &["-d", "--name", "web", "app:1", "sleep", "9999"]).ok();
    until("it runs", || founder.running("web") == 1);
    let told = founder.run(&["image", "rm", "app:1"]);
    assert!(told.code == 1 && told.err.contains("in use") && told.err.contains("h2"), "{told:?}");
    assert_eq!(places(&founder, "app:1").len(), 2, "nobody removed it");
    founder.run(&["image", "tag", "app:1", "app:spare"]).ok();
    founder.run(&["rmi", "app:spare"]).ok();
    let told = founder.run(&["image", "rm", "-f", "app:1"]);
    assert!(told.code == 0 && told.out.contains("untagged app:1"), "{told:?}");
    assert_eq!(founder.running("web"), 1);
    assert_eq!(founder.run(&["exec", "web.1", "--", "cat", "/etc/motd"]).ok(), "of the image\n");
    assert!(run(&founder, &["--pull", "never", "app:1"]).err.contains("there is no image"));
    founder.run(&["stop", "web"]).ok();
    until("it goes with its last task", || {
        let told = other.run(&["image", "ls", "-q"]);
        told.code == 0 && !told.out.contains(&id[..12])
    });
}

#[test]
fn an_image_of_a_service_between_two_starts_is_in_use() {
    if !image::possible() {
        return;
    }
    let host = Host::new("h1");
    host.up();
    let (archive, _) = Recipe::small("app:1").make(&beside(&host, "image"));
    load(&host, &archive);
    run(&host, &["-d", "--name", "web", "--replicas", "1", "app:1", "sh", "-c", "exit 1"]).ok();
    until("it waits for its next start", || {
        host.tasks("web").iter().any(|(_, _, state)| state == "restarting")
    });
    let told = host.run(&["image", "rm", "app:1"]);
    assert!(told.code == 1 && told.err.contains("app:1 is in use"), "{told:?}");
    host.run(&["stop", "web"]).ok();
    until("it is free", || host.run(&["image", "rm", "app:1"]).code == 0);
}

#[test]
fn a_fetch_goes_on_with_another_host_when_the_first_one_dies() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let recipe = Recipe { noise: LONG, ..Recipe::small("big:1") };
    let (archive, _) = recipe.make(&beside(&founder, "image"));
    load(&founder, &archive);
    let spare = joined(&founder, "h2");
    load(&spare, &archive);
    spare.run(&["run", "-d", "--name", "more", "--cpus", "1", "--exec", "sleep", "9999"]).ok();
    until("both are full", || spare.running("more") == 1);
    let third = joined(&founder, "h3");
    let mut command = third.command(&["run", "--network", "none", "big:1"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    until("the third one fetches", || is_staging(&third));
    // Whoever sends, it ends for both; only one comes back.
    let (first, second) = (founder.agent(), spare.agent());
    kill(first, "STOP");
    kill(second, "STOP");
    kill(first, "KILL");
    kill(second, "CONT");
    let told: Told = running.wait_with_output().expect("it ends").into();
    assert_eq!(told.ok(), "of the image\n");
    let places = places(&third, "big:1");
    assert!(places.iter().any(|(node, state)| node == "h3" && state == "fetched"), "{places:?}");
}

#[test]
fn a_fetch_whose_only_holder_died_goes_on_when_that_is_back() {
    if !image::possible() {
        return;
    }
    let (founder, other) = full_and_lacking();
    let mut command = other.command(&["run", "--network", "none", "big:1"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    until("the other one fetches", || is_staging(&other));
    founder.kill_all();
    founder.up();
    let told: Told = running.wait_with_output().expect("it ends").into();
    assert_eq!(told.code, 0, "{told:?}");
}

#[test]
fn a_stop_calls_a_fetch_off_at_once() {
    if !image::possible() {
        return;
    }
    let (founder, other) = full_and_lacking();
    run(&other, &["-d", "--name", "web", "--replicas", "1", "big:1", "sleep", "9999"]).ok();
    until("the other one fetches", || is_staging(&other));
    let holder = founder.agent();
    kill(holder, "STOP");
    // There is nobody who could confirm it.
    assert_eq!(other.run(&["stop", "web"]).code, 3);
    until("it is over", || other.tasks("web").is_empty());
    until("nothing of it stays", || !is_staging(&other));
}

#[test]
fn a_node_goes_down_although_a_fetch_waits_for_somebody() {
    if !image::possible() {
        return;
    }
    let (founder, other) = full_and_lacking();
    run(&other, &["-d", "--name", "web", "big:1", "sleep", "9999"]).ok();
    until("the other one fetches", || is_staging(&other));
    kill(founder.agent(), "STOP");
    let began = Instant::now();
    other.run(&["down", "--stop-tasks"]).ok();
    // Tasks that do not end get half a minute.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn two_loads_of_one_image_at_once_are_one_image() {
    let host = Host::new("h1");
    host.up();
    let recipe = Recipe { noise: 8 << 20, ..Recipe::small("app:1") };
    let (archive, id) = recipe.make(&beside(&host, "image"));
    let loads: Vec<_> = (0..3)
        .map(|_| {
            let mut command = host.command(&["-q", "image", "load", "-i", text(&archive)]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
        })
        .collect();
    for load in loads {
        let told: Told = load.wait_with_output().expect("it ends").into();
        assert_eq!(told.ok(), "app:1\n");
    }
    assert_eq!(host.run(&["-q", "images"]).ok(), format!("{}\n", &id[..12]));
}

/// A small disk of its own for a host's data.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn of(host: &Host, size: &str) -> Option<Self> {
        let data = host.data();
        fs::create_dir_all(&data).expect("a directory");
        let options = format!("size={size},mode=755");
        let words = ["-t", "tmpfs", "-o", options.as_str(), "none", text(&data)];
        let mounted = Command::new("mount").args(words).output().is_ok_and(|o| o.status.success());
        if !mounted {
            eprintln!("SKIPPED: no small disk to be had");
        }
        mounted.then_some(Self(data))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the small disk stays");
    }
}

#[test]
fn a_disk_without_room_refuses_images_and_the_agent_writes_on() {
    let host = Host::new("h1");
    let Some(_disk) = SmallDisk::of(&host, "96m") else { return };
    host.up();
    host.run(&["run", "-d", "--name", "before", "--exec", "--", "sleep", "9999"]).ok();
    let recipe = Recipe { noise: 128 << 20, ..Recipe::small("big:1") };
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (archive, _) = recipe.make(&elsewhere.path().join("image"));
    let packed = Command::new("gzip").args(["-1", "-k", text(&archive)]).status();
    assert!(packed.is_ok_and(|status| status.success()));
    // One of known size is refused before, one of unknown size in the midst.
    let packed = archive.with_extension("tar.gz");
    let told = host.run(&["image", "load", text(&archive)]);
    assert!(told.code == 1 && told.err.contains("are needed"), "{told:?}");
    for words in [&["image", "load", text(&packed)][..], &["image", "import", text(&packed), "x"]] {
        let told = host.run(words);
        assert!(told.code == 1 && told.err.contains("the disk has"), "{told:?}");
        assert!(told.err.contains("starling image prune"), "{told:?}");
        assert!(!is_staging(&host), "something of it stays");
    }
    // What is written from now on is still there after a crash.
    host.run(&["run", "-d", "--name", "after", "--exec", "--", "sleep", "9999"]).ok();
    until("it runs", || host.running("after") == 1);
    host.crash_agent();
    host.up();
    let jobs = host.run(&["jobs"]).ok();
    assert!(jobs.contains("before") && jobs.contains("after"), "{jobs}");
    let (small, _) = Recipe::small("app:1").make(&elsewhere.path().join("small"));
    load(&host, &small);
}

/// The one file of this path in the layers of a host's store.
fn stored_file(host: &Host, path: &str) -> std::path::PathBuf {
    let layers = fs::read_dir(host.data().join("run/images/layers")).expect("a store");
    let mut found = layers.map(|layer| layer.expect("a layer").path().join("tree").join(path));
    found.find(|path| path.is_file()).expect("the file of a layer")
}

#[test]
fn what_a_disk_made_of_a_layer_is_noticed_and_comes_again_from_a_member() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let (archive, _) = Recipe::small("app:1").make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = joined(&founder, "h2");
    assert_eq!(run(&founder, &["app:1"]).ok(), "of the image\n", "on the other");
    fs::write(stored_file(&founder, "etc/motd"), "of the imagE\n").expect("written");
    let out = beside(&founder, "out").join("app.tar");
    let save = || founder.run(&["image", "save", "-o", text(&out), "app:1"]);
    let told = save();
    assert!(told.code != 0 && !out.exists(), "{told:?}");
    let told = founder.run(&["image", "verify"]);
    assert!(told.code == 1 && told.out.contains("DAMAGED: app:1"), "{told:?}");
    assert!(other.run(&["image", "verify", "app:1"]).ok().contains("sound: app:1"));
    let is = |node: &str, state: &str| (node.to_owned(), state.to_owned());
    let expected = [is("h1", "loaded, damaged"), is("h2", "fetched")];
    assert_eq!(places(&founder, "app:1"), expected);
    // Whoever needs it here next has it from there.
    save().ok();
    assert_eq!(places(&other, "app:1"), [is("h1", "loaded"), is("h2", "fetched")]);
    let motd = fs::read_to_string(stored_file(&founder, "etc/motd")).expect("readable");
    assert_eq!(motd, "of the image\n");
}

#[test]
fn a_member_that_sends_wrong_chunks_is_told_and_looks_at_its_disk() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let recipe = Recipe { noise: 16 << 20, ..Recipe::small("app:1") };
    let (archive, _) = recipe.make(&beside(&founder, "image"));
    load(&founder, &archive);
    let second = joined(&founder, "h2");
    second.run(&["image", "tag", "app:1", "app:2"]).ok();
    let noise = stored_file(&founder, "srv/noise");
    let bytes = fs::metadata(&noise).expect("there").len();
    fs::write(&noise, vec![7; usize::try_from(bytes).expect("small")]).expect("written");
    let third = joined(&founder, "h3");
    third.run(&["image", "tag", "app:1", "app:3"]).ok();
    until("the first host knows of its damage", || {
        places(&third, "app:1")
            .iter()
            .any(|(node, state)| node == "h1" && state.contains("damaged"))
    });
    assert_eq!(run(&third, &["app:3"]).ok(), "of the image\n");
}

#[test]
fn an_image_for_other_machines_is_told_of_and_judged_by_what_starts() {
    if !image::possible() {
        return;
    }
    let host = Host::new("h1");
    host.up();
    let dir = beside(&host, "image");
    let strange = Recipe { architecture: Some("s390x"), ..Recipe::small("app:1") };
    let (archive, _) = strange.make(&dir);
    let told = host.run(&["image", "load", text(&archive)]);
    assert!(told.err.contains("warning: app:1: it is made for linux/s390x"), "{told:?}");
    // Whatever it says, these programs are this machine's.
    let told = run(&host, &["app:1"]);
    assert!(told.err.contains("made for linux/s390x, and this node is linux/"), "{told:?}");
    assert_eq!(told.ok(), "of the image\n");
    // This one is not: the head of a program for such a machine.
    let program = dir.join("program");
    let mut head = [0; 64];
    head[..20].copy_from_slice(b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x16");
    fs::write(&program, head).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("permissions");
    let volume = format!("{}:/program:ro", text(&program));
    let told = run(&host, &["-v", &volume, "app:1", "/program"]);
    if told.err.contains("made for") && told.code == 126 {
        assert!(told.err.contains("binfmt_misc") && !told.err.contains("step"), "{told:?}");
    } else {
        assert!(Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists(), "{told:?}");
    }
    // Of an image for this machine it is its program that is to blame.
    let (archive, _) = Recipe::small("own:1").make(&dir);
    let told = host.run(&["image", "load", text(&archive)]);
    assert!(!told.err.contains("warning"), "{told:?}");
    let told = run(&host, &["-v", &volume, "own:1", "/program"]);
    assert!(told.code == 126 && told.err.contains("/program"), "{told:?}");
    assert!(!told.err.contains("it is made for"), "{told:?}");
}

#[test]
fn a_task_whose_image_does_not_fit_ends_with_why_and_what_helps() {
    if !image::possible() {
        return;
    }
    let founder = full_founder();
    let recipe = Recipe { noise: 64 << 20, ..Recipe::small("big:1") };
    let (archive, _) = recipe.make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = Host::new("h2");
    let Some(_disk) = SmallDisk::of(&other, "96m") else { return };
    other.join(&founder.invite(1));
    until("they know each other", || {
        let items = founder.json(&["node", "ls"])["items"].clone();
        let items = items.as_array().cloned().unwrap_or_default();
        items.iter().any(|node| node["name"] == "h2" && node["free"].is_object())
    });
    // Once as it comes and once unpacked: twice 64 MiB.
    let told = run(&founder, &["big:1"]);
    assert!(told.code == 125 && told.err.contains("are needed"), "{told:?}");
    assert!(told.err.contains("starling image prune"), "{told:?}");
    let told = other.run(&["image", "tag", "big:1", "big:2"]);
    assert!(told.code == 1 && told.err.contains("are needed"), "{told:?}");
}
