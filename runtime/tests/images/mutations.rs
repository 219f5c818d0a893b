//! Small archives with a few bytes changed: whatever comes of it, it is an image that is
//! right or an error, and the store is sound.

use runtime::image::Digest;

use crate::shapes::{self, Packed, layer, sample, tar};
use crate::shop::Shop;
use crate::stage::Dice;
use crate::tarball::{gzip, sum_up};

/// Of each shape: some thousands in all.
const TURNS: usize = 400;

fn mutate(archive: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(archive.len());
        match dice.roll(6) {
            0 => archive[at] ^= 1 << dice.roll(8),
            1 => archive[at] = b"0179/.{}[]\",:\0\xff"[dice.roll(15)],
            2 => archive.truncate(at),
            3 => {
                // A block more or less, or one for another.
                let (from, to) = (at / 512 * 512, dice.roll(archive.len()) / 512 * 512);
                let block: Vec<u8> = archive[from..(from + 512).min(archive.len())].to_vec();
                let end = if dice.roll(2) == 0 { to } else { (to + 512).min(archive.len()) };
                archive.splice(to..end, block);
            }
            4 => {
                let end = (at + dice.roll(512)).min(archive.len());
                archive.drain(at..end);
            }
            _ => {
                // In a header, with a sum that holds again.
                let begin = at / 512 * 512;
                if let Some(block) = archive.get_mut(begin..begin + 512)
                    && block[257..].starts_with(b"ustar")
                {
                    block[dice.roll(158)] = b"0127/.\0\xff"[dice.roll(8)];
                    sum_up(block.try_into().unwrap());
                }
            }
        }
        if archive.is_empty() {
            return;
        }
    }
}

#[test]
fn archives_with_bytes_changed_are_images_or_errors() {
    let image = sample(&["app:1"], vec![layer("a", "one"), layer("b", "two")]);
    let mut dice = Dice(17);
    let shop = Shop::quick();
    let mut loaded_ones = 0;
    let mut shapes = shapes::all(&image);
    shapes.push((
        "two",
        shapes::oci(&[&image, &sample(&["b:1"], vec![layer("c", "three")])], Packed::Gzip),
    ));
    for (shape, parts) in shapes {
        let sound = tar(&parts);
        for turn in 0..TURNS {
            let mut archive = sound.clone();
            mutate(&mut archive, &mut dice);
            // Behind a packing, damage is noticed by that alone: only some.
            let archive = if dice.roll(8) == 0 { gzip(&archive) } else { archive };
            let before = shop.stock();
            match shop.load(&archive) {
                Ok(loaded) => {
                    loaded_ones += 1;
                    for one in loaded {
                        let config = shop.images.config_bytes(&one.info.id).unwrap();
                        assert_eq!(Digest::of(&config), one.info.id);
                        for layer in &one.info.layers {
                            let mut reader = shop.images.read_layer(&layer.diff_id).unwrap();
                            let mut bytes = Vec::new();
                            std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
                            assert_eq!(Digest::of(&bytes), layer.diff_id);
                        }
                        shop.images.remove(&one.info.id.to_string(), true).unwrap();
                    }
                }
                Err(error) => {
                    assert_eq!(shop.stock(), before, "{shape} {turn}: {error}");
                }
            }
        }
    }
    assert!(shop.images.list().is_empty());
    assert!(loaded_ones > 20, "only {loaded_ones} were still images");
}
