//! An archive from a seed, over few names, so that entries meet; some of them damaged.

use crate::stage::Dice;
use crate::tarball::{Head, Tarball, gzip, head};

fn name(dice: &mut Dice, host: &str) -> Vec<u8> {
    let parts = ["a", "b", "c", "d", "host", "victim", "sub", "dev", ".", "a/b", "c/d"];
    let mut name = match dice.roll(30) {
        0 => "../".to_owned(),
        1 => "/".to_owned(),
        2 => format!("{host}/"),
        3 => "../host/".to_owned(),
        _ => String::new(),
    };
    for at in 0..=dice.roll(3) {
        if at > 0 {
            name.push('/');
        }
        name.push_str(match dice.roll(60) {
            0 => "..",
            1 => "",
            2 => ".wh.a",
            3 => ".wh..wh..opq",
            4 => ".wh...",
            _ => parts[dice.roll(parts.len())],
        });
    }
    name.into_bytes()
}

fn target(dice: &mut Dice, host: &str) -> Vec<u8> {
    match dice.roll(8) {
        0 => host.as_bytes().to_vec(),
        1 => format!("{host}/victim").into_bytes(),
        2 => b"../host".to_vec(),
        3 => b"../../host/sub".to_vec(),
        4 => b"..".to_vec(),
        5 => b"/".to_vec(),
        _ => name(dice, host),
    }
}

pub(crate) fn archive(dice: &mut Dice, host: &str) -> Vec<u8> {
    let mut tar = Tarball::new();
    for _ in 0..=dice.roll(25) {
        let kind = b"000001112222555556353"[dice.roll(21)];
        let path = name(dice, host);
        let content = match kind {
            b'0' => vec![b'c'; dice.roll(3) * 300],
            _ => Vec::new(),
        };
        if dice.roll(6) == 0 {
            let value = target(dice, host);
            let keys = ["path", "linkpath", "SCHILY.xattr.user.x", "SCHILY.xattr.trusted.x"];
            tar = tar.pax(&[(keys[dice.roll(4)], &value)]);
        }
        let mode = [0o644, 0o755, 0o4755, 0o2755, 0, 0o1777][dice.roll(6)];
        let id = [0, 0, 0, 1000, 65534][dice.roll(5)];
        let entry = Head { mode, ..head(path, kind) };
        tar = tar.add(entry.link(target(dice, host)).owner(id, id), &content);
    }
    let mut bytes = tar.end();
    // Now and then damage, half of it with a sum that holds again.
    for _ in 0..dice.roll(12).saturating_sub(8) {
        let at = dice.roll(bytes.len());
        bytes[at] = [0, 0xff, b'/', b'.', b'7', 0x80][dice.roll(6)];
        if dice.roll(2) == 0 {
            let begin = at / 512 * 512;
            let block = bytes[begin..begin + 512].first_chunk_mut().unwrap();
            crate::tarball::sum_up(block);
        }
    }
    if dice.roll(20) == 0 {
        bytes.truncate(dice.roll(bytes.len()));
    }
    if dice.roll(10) == 0 { gzip(&bytes) } else { bytes }
}
