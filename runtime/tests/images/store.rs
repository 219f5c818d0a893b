//! What is kept, found, shared, held and removed.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use runtime::image::{Digest, ImageError, Origin, Stage, Staged};

use crate::shelf::{Shelf, bounds, config, go_on, load, load_as, name, stage};
use crate::tarball::{Tarball, gzip};

fn one() -> Vec<u8> {
    Tarball::new().dir("bin").file("bin/true", "#!").end()
}

fn two() -> Vec<u8> {
    Tarball::new().file("two", vec![2; 5_000]).end()
}

#[test]
fn an_image_is_found_by_what_people_call_it_now_and_after_a_restart() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let (one, two) = (one(), two());
    let loaded = load(&images, &[&one, &two], &["nginx:1.27", "host:5000/a/b"]);
    assert_eq!(loaded.platform, "linux/amd64");
    assert_eq!(loaded.layers.iter().map(|l| l.bytes).sum::<u64>(), (one.len() + two.len()) as u64);
    assert!(!loaded.in_use && loaded.used_ms.is_none());
    let check = |images: &runtime::image::Images| {
        let hex = loaded.id.hex();
        for text in ["nginx:1.27", "docker.io/library/nginx:1.27", "host:5000/a/b", &hex, &hex[..6]]
        {
            assert_eq!(images.find(text).unwrap(), loaded, "{text}");
        }
        assert_eq!(images.find(&loaded.id.to_string()).unwrap(), loaded);
        assert_eq!(images.named(&name("nginx:1.27")).as_ref(), Some(&loaded));
        assert_eq!(images.list(), std::slice::from_ref(&loaded));
        assert_eq!(Digest::of(&images.config_bytes(&loaded.id).unwrap()), loaded.id);
        assert_eq!(images.manifest_bytes(&loaded.id).unwrap(), None);
        for text in ["nginx", "nginx:2", "0123", "ffffffff"] {
            assert!(matches!(images.find(text), Err(ImageError::Unknown { .. })), "{text}");
        }
        assert!(matches!(images.find("A B"), Err(ImageError::Reference(_))));
    };
    check(&images);
    drop(images);
    let images = shelf.open();
    images.sweep();
    check(&images);
    // Again, with another name: nothing is twice.
    let again = load(&images, &[&one, &two], &["other"]);
    assert_eq!((again.id, again.names.len(), again.came_ms), (loaded.id, 3, loaded.came_ms));
    assert_eq!((shelf.count("layers"), shelf.count("images"), shelf.count("parts")), (2, 1, 0));
}

#[test]
fn a_name_goes_to_the_image_that_got_it_last() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let first = load(&images, &[&one()], &["app", "app:1"]);
    let second = load(&images, &[&two()], &["app"]);
    assert_eq!(images.find("app").unwrap().id, second.id);
    assert_eq!(images.get(&first.id).unwrap().names, [name("app:1")]);
    images.tag(&first.id, &name("app")).unwrap();
    drop(images);
    let images = shelf.open();
    assert_eq!(images.find("app").unwrap().id, first.id);
    assert!(images.get(&second.id).unwrap().names.is_empty());
    assert!(matches!(images.tag(&Digest::of(b""), &name("x")), Err(ImageError::Unknown { .. })));
    // A manifest comes later, and is known by its digest from then on.
    let config = images.config_bytes(&second.id).unwrap();
    let info = images.commit(&config, Some(b"{}"), Vec::new(), &[], Origin::Needed).unwrap();
    assert_eq!((info.manifest, info.origin), (Some(Digest::of(b"{}")), Origin::Asked));
    let by_manifest = format!("whatever@{}", Digest::of(b"{}"));
    drop(images);
    let images = shelf.open();
    assert_eq!(images.find(&by_manifest).unwrap().id, second.id);
    assert_eq!(images.manifest_bytes(&second.id).unwrap().as_deref(), Some(&b"{}"[..]));
}

#[test]
fn what_is_not_an_image_is_refused_and_leaves_nothing() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let layer = || vec![stage(&images, &one()).unwrap()];
    let diff_id = layer()[0].diff_id();
    let many = vec![diff_id; 128];
    for config in [
        b"".to_vec(),
        b"{}".to_vec(),
        b"[]".to_vec(),
        config(&[], ""),
        config(&many, ""),
        config(&[diff_id, Digest::of(b"missing")], ""),
        vec![b' '; 9 << 20],
    ] {
        let refused = images.commit(&config, None, layer(), &[name("a")], Origin::Asked);
        assert!(matches!(refused, Err(ImageError::Document { .. })), "{refused:?}");
    }
    let wanted = Digest::of(b"another");
    let refused = images.stage(&mut one().as_slice(), "x", Some(&wanted), &bounds(), &go_on);
    assert!(matches!(refused, Err(ImageError::Mismatch { .. })), "{refused:?}");
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the cable was cut"))
        }
    }
    let mut broken = one().as_slice()[..700].to_vec();
    broken[600..].fill(0);
    let broken = images.stage(&mut broken.chain(Broken), "x", None, &bounds(), &go_on);
    let Err(ImageError::Read { source, .. }) = broken else { panic!("{broken:?}") };
    assert_eq!(source.to_string(), "the cable was cut");
    assert!(images.list().is_empty());
    assert_eq!((shelf.count("layers"), shelf.count("images"), shelf.count("parts")), (0, 0, 0));
}

#[test]
fn a_watcher_is_told_and_may_end_the_work() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let tar = Tarball::new().file("big", vec![1; 3 << 20]).end();
    let told = AtomicU64::new(0);
    let watcher = |progress: runtime::image::Progress| {
        assert_eq!(progress.layer.as_deref(), Some("x"));
        told.fetch_add(1, Ordering::Relaxed);
        progress.bytes < 1 << 20
    };
    let ended = images.stage(&mut tar.as_slice(), "x", None, &bounds(), &watcher);
    assert!(matches!(ended, Err(ImageError::CalledOff)), "{ended:?}");
    assert!((2..20).contains(&told.load(Ordering::Relaxed)), "{told:?}");
    assert_eq!(shelf.count("parts"), 0);
}

#[test]
fn who_trickles_a_layer_in_keeps_nobody_else_from_it() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let tar = one();
    let diff_id = Digest::of(&tar);
    /// Ends when it is told to, and brings nothing until then.
    struct Stuck(std::sync::mpsc::Receiver<()>, Arc<Barrier>, bool);
    impl Read for Stuck {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            if !std::mem::replace(&mut self.2, true) {
                self.1.wait();
            }
            let _ = self.0.recv();
            Ok(0)
        }
    }
    let begun = Arc::new(Barrier::new(2));
    let (end, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut stuck = Stuck(told, Arc::clone(&begun), false);
            images.stage(&mut stuck, "stuck", Some(&diff_id), &bounds(), &go_on).map(drop)
        });
        begun.wait();
        let staged = images.stage(&mut tar.as_slice(), "b", Some(&diff_id), &bounds(), &go_on);
        assert_eq!(staged.unwrap().diff_id(), diff_id);
        drop(end);
        first.join().unwrap().unwrap_err();
    });
}

#[test]
fn two_who_bring_the_same_layer_share_the_work() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let tar = one();
    let diff_id = Digest::of(&tar);
    /// Says when it is read first, and then waits.
    struct Slow<'a>(&'a [u8], Arc<Barrier>, bool);
    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if !std::mem::replace(&mut self.2, true) {
                self.1.wait();
                self.1.wait();
            }
            self.0.read(into)
        }
    }
    let barrier = Arc::new(Barrier::new(2));
    let asked = AtomicU64::new(0);
    let (one, other) = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut slow = Slow(&tar, Arc::clone(&barrier), false);
            images.stage(&mut slow, "slow", Some(&diff_id), &bounds(), &go_on).unwrap()
        });
        barrier.wait();
        let second = scope.spawn(|| {
            let watcher = |progress: runtime::image::Progress| {
                // Asked a second time, it has waited once.
                let asked = asked.fetch_add(1, Ordering::AcqRel);
                assert!(progress.stage == Stage::Working || asked >= 2);
                true
            };
            let mut never = std::io::repeat(b'?');
            images.stage(&mut never, "second", Some(&diff_id), &bounds(), &watcher).unwrap()
        });
        while asked.load(Ordering::Acquire) < 2 {
            std::thread::yield_now();
        }
        barrier.wait();
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!((one.packed(), other.packed()), (diff_id, diff_id));
    assert_eq!((one.packed_bytes(), other.packed_bytes()), (tar.len() as u64, 0));
    assert_eq!(shelf.count("parts"), 1);
    // Each may be committed, or dropped, in any order.
    drop(one);
    let id =
        images.commit(&config(&[diff_id], ""), None, vec![other], &[], Origin::Asked).unwrap().id;
    assert!(images.get(&id).is_some());
    assert_eq!((shelf.count("parts"), shelf.count("layers")), (0, 1));
}

#[test]
fn a_staged_layer_outlives_the_image_that_was_first_to_have_it() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let first = stage(&images, &one()).unwrap();
    let layer = first.diff_id();
    let second = stage(&images, &gzip(&one())).unwrap();
    let commit = |staged: Vec<Staged>, salt| {
        images.commit(&config(&[layer], salt), None, staged, &[], Origin::Asked).unwrap().id
    };
    let id = commit(vec![first], "1");
    assert_eq!(images.remove(&id.to_string(), false).unwrap().bytes, 0);
    assert!(images.has_layer(&layer));
    let id = commit(vec![second], "2");
    assert_eq!(images.remove(&id.to_string(), false).unwrap().bytes, one().len() as u64);
    assert!(!images.has_layer(&layer));
    let third = stage(&images, &one()).unwrap();
    drop(third);
    assert_eq!((shelf.count("layers"), shelf.count("images"), shelf.count("parts")), (0, 0, 0));
}

#[test]
fn removal_spares_what_is_shared_and_what_is_held() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let (one, two) = (one(), two());
    let a = load(&images, &[&one, &two], &["a", "b"]);
    let c = load(&images, &[&one], &["c"]);
    let removed = images.remove("b", false).unwrap();
    assert_eq!((removed.names.as_slice(), removed.images.len()), (&[name("b")][..], 0));
    let held = images.hold(&a.id).unwrap();
    assert!(images.get(&a.id).unwrap().in_use && images.get(&a.id).unwrap().used_ms.is_some());
    for text in ["a", &a.id.to_string()] {
        let refused = images.remove(text, false);
        assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");
    }
    assert_eq!(images.find("a").unwrap().id, a.id);
    let removed = images.remove("a", true).unwrap();
    assert_eq!((removed.images, removed.bytes), (vec![a.id], 0));
    assert!(images.get(&a.id).is_none() && images.hold(&a.id).is_err());
    // It runs on, and a later agent knows it by its paths.
    assert!(held.layers().iter().all(|layer| layer.is_dir()));
    assert_eq!(held.layers().len(), 2);
    let later = images.hold_layers(held.layers());
    drop(held);
    images.sweep();
    assert_eq!(shelf.count("layers"), 2);
    drop(later);
    assert_eq!(shelf.count("layers"), 1);
    let removed = images.remove(&c.id.hex()[..8], false).unwrap();
    assert_eq!((removed.names, removed.bytes), (vec![name("c")], one.len() as u64));
    assert_eq!((shelf.count("layers"), shelf.count("images"), shelf.count("parts")), (0, 0, 0));
    drop(images);
    assert!(shelf.open().list().is_empty());
}

#[test]
fn layers_of_a_removed_image_wait_for_who_ran_before_the_restart() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let a = load(&images, &[&one(), &two()], &["a"]);
    let b = load_as(&images, &[&two()], &["b"], Origin::Needed, "");
    let paths = images.hold(&a.id).unwrap().layers().to_vec();
    let held = images.hold(&a.id).unwrap();
    images.remove("a", true).unwrap();
    // As a process that was killed: nobody lets go.
    std::mem::forget(held);
    drop(images);
    let images = shelf.open();
    let elsewhere = [shelf.dir.path().join("x"), shelf.path().join("layers"), "/".into()];
    assert!(images.hold_layers(&elsewhere).layers().is_empty());
    let held = images.hold_layers(&paths);
    assert_eq!(held.layers(), paths);
    images.sweep();
    assert_eq!(shelf.count("layers"), 2);
    // One of them is b's, which is not in use by that.
    assert!(!images.get(&b.id).unwrap().in_use);
    drop(held);
    assert_eq!(shelf.count("layers"), 1);
    let again = images.hold_layers(images.hold(&b.id).unwrap().layers());
    assert!(images.get(&b.id).unwrap().in_use, "its layers are held");
    assert!(matches!(images.remove("b", false), Err(ImageError::InUse { .. })));
    drop(again);
    images.remove("b", false).unwrap();
}

#[test]
fn layers_below_one_that_hides_all_are_left_out_and_none_comes_twice() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let hides = Tarball::new().file(".wh..wh..opq", "").file("new", "").end();
    let (one, two) = (one(), two());
    let image = load(&images, &[&one, &hides, &two, &one, &two], &[]);
    let held = images.hold(&image.id).unwrap();
    let path = |tar: &[u8]| shelf.path().join("layers").join(Digest::of(tar).hex()).join("tree");
    assert_eq!(held.layers(), [path(&hides), path(&one), path(&two)]);
    assert!(held.layers()[0].join("new").exists());
}

#[test]
fn prune_and_collect_take_what_nobody_wants() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let (one, two) = (one(), two());
    let needed = |salt, names: &[&str]| load_as(&images, &[&one], names, Origin::Needed, salt).id;
    let asked = load(&images, &[&two], &["asked"]).id;
    let (old, new, held) = (needed("old", &["old"]), needed("new", &[]), needed("held", &[]));
    let _held = images.hold(&held).unwrap();
    let hour = Duration::from_secs(3_600);
    assert_eq!(images.collect(hour, 0).unwrap().images, []);
    // In use again, so it is the newer of the two.
    let came = images.list().iter().map(|info| info.came_ms).max();
    let before = loop {
        drop(images.hold(&new).unwrap());
        let used = images.get(&new).unwrap().used_ms;
        if used > came {
            break used.unwrap();
        }
    };
    let before = SystemTime::UNIX_EPOCH + Duration::from_millis(before);
    let removed = images.prune(true, Some(before)).unwrap();
    assert!(removed.images.contains(&old) && removed.images.contains(&asked), "{removed:?}");
    assert!(!removed.images.contains(&new) && !removed.images.contains(&held));
    let asked = load(&images, &[&two], &["asked"]).id;
    // All the room there is, and one byte more.
    let removed = images.collect(hour, u64::MAX).unwrap();
    assert_eq!(removed.images, [new]);
    assert!(images.get(&asked).is_some() && images.get(&held).is_some());
    assert_eq!(images.prune(false, None).unwrap().images, []);
    let bare = load_as(&images, &[&two], &[], Origin::Asked, "bare").id;
    assert_eq!(images.prune(false, None).unwrap().images, [bare]);
    assert_eq!(images.prune(true, None).unwrap().images, [asked]);
    assert_eq!(images.list().len(), 1);
}

#[test]
fn what_somebody_named_is_not_collected_although_a_task_brought_it() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let one = one();
    let brought = |name| load_as(&images, &[&one], &[name], Origin::Needed, name).id;
    let (named, other) = (brought("app:1"), brought("app:2"));
    images.tag(&named, &"mine:1".parse().unwrap()).unwrap();
    drop(images);
    let images = shelf.open();
    assert_eq!(images.collect(Duration::ZERO, u64::MAX).unwrap().images, [other]);
    assert_eq!(images.get(&named).unwrap().origin, Origin::Asked);
}

#[test]
fn what_is_damaged_is_set_aside_and_the_rest_goes_on() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let (one, two) = (one(), two());
    let a = load(&images, &[&one], &["a"]);
    let b = load(&images, &[&two], &["b"]);
    let c = load(&images, &[&one, &two], &["c"]);
    drop(images);
    let at =
        |kind: &str, id: &Digest, name: &str| shelf.path().join(kind).join(id.hex()).join(name);
    std::fs::write(at("images", &a.id, "info"), "{").unwrap();
    std::fs::write(at("layers", &Digest::of(&two), "info"), "").unwrap();
    let images = shelf.open();
    assert!(images.list().is_empty(), "{:?}", (a.id, b.id, c.id));
    assert_eq!(shelf.count("damaged"), 4);
    let again = load(&images, &[&one, &two], &["c"]);
    assert_eq!(again.id, c.id);
    images.prune(false, None).unwrap();
    assert!(!shelf.path().join("damaged").exists());
    drop(images);
    std::fs::write(at("images", &c.id, "config"), "{}").unwrap();
    std::fs::write(shelf.path().join("names"), "?").unwrap();
    assert!(shelf.open().list().is_empty());
    // A newer one is nobody's to judge.
    let newer = r#"{"version":2,"what":"ever"}"#;
    for path in [at("layers", &Digest::of(&one), "info"), shelf.path().join("version")] {
        let text = if path.ends_with("version") { "2" } else { newer };
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let refused = runtime::image::Images::open(&shelf.path(), runtime::unpack::Owners::Mine);
        assert!(matches!(refused, Err(ImageError::Newer { version: 2, .. })), "{refused:?}");
        std::fs::write(&path, before).unwrap();
    }
}
