//! Bundles between clusters that never met, as users carry them: the shipped binary, a file,
//! and nothing else in common.

#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;
#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Host, Told, until};

/// Two clusters of one host each, and a place for what is carried.
struct Pair {
    one: Host,
    other: Host,
    place: tempfile::TempDir,
}

impl Pair {
    fn up() -> Self {
        let (one, other) = (Host::new("one"), Host::new("other"));
        one.up();
        other.up();
        Self { one, other, place: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }
}

fn jobs(host: &Host) -> Vec<(String, String)> {
    let listing = host.json(&["jobs", "-a"]);
    let items = listing["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut jobs: Vec<_> =
        items.iter().map(|item| (text(&item["name"]), text(&item["state"]))).collect();
    jobs.sort();
    jobs
}

fn has(told: &Told, words: &[&str]) {
    for word in words {
        assert!(told.err.contains(word), "no {word:?}: {told:?}");
    }
}

#[test]
fn jobs_reach_a_cluster_that_never_met_the_first_and_start_once() {
    let pair = Pair::up();
    let (one, other) = (&pair.one, &pair.other);
    let service = ["run", "-d", "--name", "web", "--replicas", "2", "-e", "MOOD=fine"];
    one.run(
        &[&service[..], &["-m", "64m", "--cpus", "0.1", "--exec", "--", "sleep", "1000"]].concat(),
    )
    .ok();
    one.run(&["run", "-d", "--name", "tick", "--exec", "--", "sh", "-c", "echo tock; exit 3"]).ok();
    one.run(&["wait", "tick"]);
    let file = pair.text("shop.bundle");
    one.run(&["bundle", "export", "-o", &file, "web", "tick"]).ok();
    assert!(!pair.path("shop.bundle.part").exists());
    let show = other.run(&["bundle", "show", &file]).ok();
    assert!(show.contains("web") && show.contains("service") && show.contains("tick"), "{show}");
    let head = other.json(&["bundle", "show", &file]);
    assert_eq!(head["jobs"][0]["spec"]["owner"], "", "{head}");
    assert_eq!(head["cluster"], one.json(&["status"])["cluster"]);

    let told = other.run(&["bundle", "import", &file]);
    assert_eq!((told.code, told.out.as_str()), (0, "submitted web\nsubmitted tick\n"), "{told:?}");
    until("both copies run", || other.running("web") == 2);
    assert_eq!(other.run(&["wait", "tick"]).code, 3);
    assert_eq!(other.run(&["logs", "tick"]).ok(), "tock\n");
    let mine = one.json(&["jobs", "-a"])["items"][0]["owner"].clone();
    assert_eq!(other.json(&["jobs", "-a"])["items"][0]["owner"], mine, "whoever imports owns it");

    // Once more brings nothing, through a pipe just as well.
    let before = jobs(other);
    let told = other.run(&["bundle", "import", &file]);
    assert!(told.code == 0 && told.out.contains("web is here already"), "{told:?}");
    let piped = other.command(&["--json", "bundle", "import", "-"]);
    let told = fed(piped, &fs::read(&file).expect("read"));
    assert!(!told.err.contains("bundle"), "scripts want no headline: {told:?}");
    let states: serde_json::Value = serde_json::from_str(&told.ok()).expect("JSON");
    let state = |at: usize| states["jobs"][at]["state"].clone();
    assert_eq!((state(0), state(1)), ("there".into(), "over".into()), "{states}");
    assert_eq!(jobs(other), before);
    assert_eq!(other.running("web"), 2);

    // What was stopped is not started behind anybody's back.
    other.run(&["stop", "web"]).ok();
    let told = other.run(&["bundle", "import", &file]);
    has(&told, &["web is not started", "--again"]);
    assert_eq!(told.code, 1, "{told:?}");
    other.run(&["bundle", "import", "--again", "--only", "web", &file]).ok();
    until("both copies run again", || other.running("web") == 2);
}

fn fed(mut command: Command, input: &[u8]) -> Told {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().expect("ended");
    feed.join().expect("fed").expect("fed");
    out.into()
}

#[test]
fn a_process_takes_the_files_along_that_it_brought() {
    let pair = Pair::up();
    let (one, other) = (&pair.one, &pair.other);
    fs::write(pair.path("words"), "as shipped\n").expect("written");
    let ship =
        ["run", "--name", "p", "--exec", "--ship", &pair.text("words"), "--", "cat", "words"];
    assert_eq!(one.run(&ship).ok(), "as shipped\n");
    let file = pair.text("p.bundle");
    one.run(&["bundle", "export", "-o", &file, "p"]).ok();
    other.run(&["bundle", "import", &file]).ok();
    assert_eq!(other.run(&["wait", "p"]).code, 0);
    assert_eq!(other.run(&["logs", "p"]).ok(), "as shipped\n");
}

#[test]
fn a_name_that_is_taken_is_told_of_before_anything_is_imported() {
    let pair = Pair::up();
    let (one, other) = (&pair.one, &pair.other);
    let sleep = |name, time| ["run", "-d", "--name", name, "--exec", "--", "sleep", time];
    for name in ["a", "b"] {
        one.run(&sleep(name, "1000")).ok();
    }
    other.run(&sleep("b", "999")).ok();
    let file = pair.text("ab.bundle");
    one.run(&["bundle", "export", "-o", &file, "--all"]).ok();
    let told = other.run(&["bundle", "import", &file]);
    has(&told, &["nothing was imported", "called b", "--rename b=", "--only"]);
    assert_eq!((told.code, jobs(other).len()), (1, 1), "{told:?}");
    let told = other.run(&["bundle", "import", &file, "--only", "x"]);
    has(&told, &["no job x", "a, b"]);
    let told = other.run(&["bundle", "import", &file, "--rename", "b=a"]);
    has(&told, &["would be called a"]);
    other.run(&["bundle", "import", &file, "--images-only"]).ok();
    assert_eq!(jobs(other).len(), 1);
    other.run(&["bundle", "import", &file, "--rename", "b=b-2"]).ok();
    other.run(&["bundle", "import", &file, "--rename", "b=b-2"]).ok();
    until("all run", || ["a", "b", "b-2"].iter().all(|name| other.running(name) == 1));
    assert_eq!(jobs(other).len(), 3);
    // What cannot be exported is not begun.
    let told = one.run(&["bundle", "export", "-o", &pair.text("x"), "a", "nope"]);
    assert_eq!(told.code, 1, "{told:?}");
    let told = one.run(&["bundle", "export", "-o", &pair.text("x"), "--image", "no-such-image"]);
    has(&told, &["no-such-image"]);
    assert!(!pair.path("x").exists() && !pair.path("x.part").exists());
}

/// A small image of this name on a host.
fn image_on(pair: &Pair, host: &Host, name: &str) {
    let root = pair.path("root");
    image::make(&root);
    let tar = pair.path("root.tar");
    let packed = Command::new("tar").arg("cf").arg(&tar).arg("-C").arg(&root).arg(".").status();
    assert!(packed.expect("tar runs").success());
    let change = "CMD [\"sh\", \"-c\", \"echo from $0; sleep 1000\", \"the image\"]";
    host.run(&["image", "import", "-c", change, tar.to_str().expect("plain"), name]).ok();
}

#[test]
fn a_job_brings_the_image_that_it_runs_from() {
    if !image::possible() {
        return;
    }
    let pair = Pair::up();
    let (one, other) = (&pair.one, &pair.other);
    image_on(&pair, one, "app:1");
    one.run(&["run", "-d", "--name", "app", "app:1"]).ok();
    until("it runs", || one.running("app") == 1);
    let file = pair.text("app.bundle");
    one.run(&["bundle", "export", "-o", &file, "app"]).ok();
    // Any reader of images finds its own in there.
    let listed = Command::new("tar").args(["tf", &file]).output().expect("tar runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.starts_with("starling-bundle.json\n"), "{listed}");
    assert!(listed.contains("\nmanifest.json\n"), "{listed}");

    let told = other.run(&["bundle", "import", &file]);
    assert_eq!((told.code, told.out.as_str()), (0, "submitted app\n"), "{told:?}");
    until("it runs there", || other.running("app") == 1);
    until("it says so", || other.run(&["logs", "app"]).out == "from the image\n");
    let ids = |host: &Host| host.run(&["-q", "image", "ls", "app"]).ok();
    assert_eq!(ids(one), ids(other));
    let told = other.run(&["bundle", "import", &file]);
    assert_eq!((told.code, told.out.as_str()), (0, "app is here already\n"), "{told:?}");
    // Whoever has the job has nothing to import.
    let told = one.run(&["bundle", "import", &file]);
    assert_eq!((told.code, told.out.as_str()), (0, "app is here already\n"), "{told:?}");
    assert_eq!((jobs(one).len(), jobs(other).len()), (1, 1));

    // An image that no job runs from, for whoever only wants that.
    let images = pair.text("images.bundle");
    one.run(&["bundle", "export", "-o", &images, "--image", "app:1"]).ok();
    let third = Host::new("third");
    third.up();
    third.run(&["image", "load", &images]).ok();
    assert_eq!(ids(one), ids(&third));
    // What nobody has is named, and nothing is written.
    one.run(&["stop", "app"]).ok();
    until("it is over", || one.running("app") == 0);
    one.run(&["image", "rm", "-f", "app:1"]).ok();
    let told = one.run(&["bundle", "export", "-o", &pair.text("none.bundle"), "app"]);
    has(&told, &["app:1, which app runs from", "image load"]);
    assert!(told.code == 1 && !pair.path("none.bundle").exists(), "{told:?}");
    broken_files_start_nothing(&pair, &fs::read(&file).expect("read"));
}

/// Each into a cluster that has nothing, and has nothing afterwards.
fn broken_files_start_nothing(pair: &Pair, whole: &[u8]) {
    let host = Host::new("fresh");
    host.up();
    let file = pair.path("broken.bundle");
    let imported = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("written");
        let told = host.run(&["bundle", "import", file.to_str().expect("plain")]);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.err.contains("  why: "), "{told:?}");
        told
    };
    for part in [0, 100, 512, 1000, whole.len() / 2, whole.len() * 9 / 10] {
        imported(&whole[..part]);
    }
    has(&imported(b"#!/bin/sh\necho no\n"), &["no archive"]);
    has(&imported(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0]), &["compressed", "zcat"]);
    has(&imported(&whole[tail(whole)..]), &["no bundle", "image load"]);
    // One byte of a layer, and of the head, is another.
    let mut bent = whole.to_vec();
    let middle = bent.len() / 2;
    bent[middle] ^= 0x55;
    imported(&bent);
    let mut bent = whole.to_vec();
    bent[600] ^= 0x80;
    imported(&bent);
    assert_eq!(jobs(&host), []);
    assert_eq!(host.run(&["-q", "image", "ls"]).ok(), "");
    fs::write(&file, whole).expect("written");
    host.run(&["bundle", "import", "--images-only", file.to_str().expect("plain")]).ok();
    assert_eq!(jobs(&host), []);
}

/// Where the second entry of an archive begins.
fn tail(archive: &[u8]) -> usize {
    let size = std::str::from_utf8(&archive[124..135]).expect("digits");
    let size = usize::from_str_radix(size, 8).expect("a size");
    512 + size.next_multiple_of(512)
}

#[test]
fn a_file_is_shown_without_any_agent() {
    let host = Host::new("down");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    let show = |path: &Path| host.run(&["bundle", "show", path.to_str().expect("plain")]);
    fs::write(path("garbage"), [7; 4096]).expect("written");
    let told = show(&path("garbage"));
    assert!(told.code == 1 && told.err.contains("no archive"), "{told:?}");
    let told = show(&path("missing"));
    assert!(told.code == 1 && told.err.contains("No such file"), "{told:?}");
    let told = show(place.path());
    assert!(told.code == 1 && told.err.contains("  why: "), "{told:?}");
}
