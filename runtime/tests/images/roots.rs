//! Roots that become images.

use std::io::Read;

use runtime::image::{Changes, Digest, ImageError, LoadOptions, Loaded, Reference, import};

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
