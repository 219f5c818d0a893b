//! Roots that become images.

use std::io::Read;
use std::time::Duration;

use runtime::image::{Changes, Digest, ImageError, LoadOptions, Loaded, Origin, Reference, import};

use crate::shapes::zstd;
use crate::shop::{Shop, whole};
use crate::tarball::{Tarball, gzip};

fn root() -> Vec<u8> {
    Tarball::new().dir("bin").file("bin/true", "#!").symlink("sh", "bin/true").end()
}

fn take(shop: &Shop, mut root: impl Read, lines: &[&str]) -> Result<Loaded, ImageError> {
    let changes = Changes::parse(lines.iter().copied())?;
    let name: Reference = "mine:1".parse()?;
    let options = LoadOptions::default();
    import(&shop.images, &mut root, Some(&name), &changes, &options, &|_| true)
}

#[test]
fn a_root_is_one_image_however_often_and_packed_it_comes() {
    let shop = Shop::new();
    let lines = ["CMD [\"/bin/true\"]", "ENV A=1 B=2", "WORKDIR /bin", "USER 7"];
    let first = take(&shop, root().as_slice(), &lines).unwrap();
    assert!(!first.known);
    assert_eq!(first.info.names.len(), 1);
    assert_eq!(first.info.layers[0].diff_id, Digest::of(&root()));
    let config = shop.images.config(&first.info.id).unwrap();
    assert_eq!((config.cmd.as_slice(), config.user.as_str()), (&["/bin/true".to_owned()][..], "7"));
    assert_eq!(config.env.len(), 2);
    for packed in [gzip(&root()), zstd(&root())] {
        let again = take(&shop, packed.as_slice(), &lines).unwrap();
        assert_eq!((again.info.id, again.known), (first.info.id, true));
    }
    let other = take(&shop, root().as_slice(), &[]).unwrap();
    assert_ne!(other.info.id, first.info.id);
    assert!(shop.images.get(&first.info.id).unwrap().names.is_empty(), "its name has moved");
}

#[test]
fn a_root_that_is_cut_off_or_none_is_refused() {
    let shop = Shop::new();
    let before = shop.stock();
    let root = root();
    let refused = |bytes: &[u8]| {
        let error = take(&shop, bytes, &[]).unwrap_err();
        assert_eq!(shop.stock(), before);
        whole(&error)
    };
    // Up to its end, which is two blocks of which one is enough.
    for cut in (0..=root.len() - 1024).step_by(128) {
        refused(&root[..cut]);
    }
    let packed = gzip(&root);
    for cut in [1, 10, packed.len() / 2, packed.len() - 1] {
        refused(&packed[..cut]);
    }
    refused(b"no archive");
    refused(&Tarball::new().file("../x", "out").end());
    let error = take(&shop, root.as_slice(), &["FROM x"]).unwrap_err();
    assert!(whole(&error).contains("FROM x"), "{error}");
}

#[test]
fn what_a_process_brought_along_goes_when_nobody_needs_it_and_nothing_else_goes_with_it() {
    let shop = Shop::new();
    let bring = |name: Option<&str>, lines: &[&str], origin, content: &str| {
        let name: Option<Reference> = name.map(|name| name.parse().unwrap());
        let changes = Changes::parse(lines.iter().copied()).unwrap();
        let options = LoadOptions { origin, ..LoadOptions::default() };
        let root = Tarball::new().file("it", content).end();
        import(&shop.images, &mut &root[..], name.as_ref(), &changes, &options, &|_| true)
            .unwrap()
            .info
            .id
    };
    let held = bring(None, &[], Origin::Needed, "held");
    let _held = shop.images.hold(&held).unwrap();
    for (name, lines, origin, content) in [
        (Some("named:1"), &[][..], Origin::Needed, "named"),
        (None, &["CMD [\"/it\"]"], Origin::Needed, "to be run"),
        (None, &[], Origin::Asked, "asked for"),
    ] {
        bring(name, lines, origin, content);
    }
    let old = bring(None, &[], Origin::Needed, "old");
    // Once the clock went on.
    let shipped = loop {
        let shipped = shop.images.shipped(Duration::ZERO);
        if !shipped.is_empty() {
            break shipped;
        }
    };
    assert_eq!(shipped, [old]);
    let hour = Duration::from_secs(3_600);
    assert_eq!(shop.images.shipped(hour), []);
    assert_eq!(shop.images.collect_shipped(&shipped, hour).unwrap().images, []);
    // Brought again, it is new again.
    assert_eq!(bring(None, &[], Origin::Needed, "old"), old);
    let all: Vec<Digest> = shop.images.list().iter().map(|info| info.id).collect();
    let removed = loop {
        let removed = shop.images.collect_shipped(&[old], Duration::ZERO).unwrap().images;
        if !removed.is_empty() {
            break removed;
        }
    };
    assert_eq!(removed, [old]);
    assert_eq!(shop.images.list().len(), all.len() - 1);
}
