//! How fast an image is loaded, beside what anybody would do by hand. Not a test.
//!
//! Nothing is removed before the end: ext4 passes over inodes that were freed in the last
//! minutes one by one, so that files made after a removal of many take ten times as long.
//!
//! `cargo test --release -p runtime --test images -- --ignored --nocapture speed`

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use runtime::image::{LayerReader, Origin};
use runtime::unpack::remove_tree;

use crate::shelf::{Shelf, bounds, config, go_on};

const RUNS: usize = 3;

fn run(program: &str, arguments: &[&str]) -> Duration {
    let begin = Instant::now();
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    begin.elapsed()
}

fn list(times: &[Duration]) -> String {
    times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "a measurement"]
fn speed_of_a_load_beside_tar_sum_and_sync() {
    let dir = tempfile::tempdir_in(std::env::var("SPEED_IN").unwrap_or("/tmp".into())).unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let plain = at("plain.tar");
    let mut kept = Vec::new();
    let sources = std::env::var("SPEED_OF").unwrap_or("usr/share usr/lib/python3".to_owned());
    let mut arguments = vec!["-C", "/", "-cf", &plain];
    arguments.extend(sources.split(' '));
    run("tar", &arguments);
    run("sh", &["-c", &format!("gzip -1 -k {plain} && zstd -q -3 -k {plain} || true")]);
    for packed in ["plain.tar", "plain.tar.gz", "plain.tar.zst"].map(at) {
        let Ok(size) = std::fs::metadata(&packed) else { continue };
        let (mut by_hand, mut staged, mut committed) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            run("sync", &[]);
            let out = at(&format!("out-{}", kept.len()));
            std::fs::create_dir(&out).unwrap();
            let tar = run("tar", &["-C", &out, "-xpf", &packed]);
            let sum = run("sha256sum", &[&packed]);
            let sync = run("sync", &[]);
            println!("  tar {}", list(&[tar, sum, sync]));
            by_hand.push(tar + sum + sync);
            let shelf = Shelf::in_dir(tempfile::tempdir_in(dir.path()).unwrap());
            let images = shelf.open();
            let begin = Instant::now();
            let mut file = File::open(&packed).unwrap();
            let layer = images.stage(&mut file, "x", None, &bounds(), &go_on).unwrap();
            let stage = begin.elapsed();
            let id = layer.diff_id();
            images.commit(&config(&[id], ""), None, vec![layer], &[], Origin::Asked).unwrap();
            println!("  stage {}", list(&[stage, begin.elapsed() - stage]));
            staged.push(stage);
            committed.push(begin.elapsed());
            if packed == plain {
                let begin = Instant::now();
                let mut reader = images.read_layer(&id).unwrap();
                std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
                let recipe = shelf.path().join("layers").join(id.hex()).join("recipe");
                println!(
                    "  again {:.2} s for {} MB, recipe {} KiB",
                    begin.elapsed().as_secs_f64(),
                    LayerReader::bytes(&reader) / 1_000_000,
                    std::fs::metadata(recipe).unwrap().len() / 1024,
                );
            }
            kept.push(shelf);
        }
        println!(
            "{packed}, {} MB: tar, sum, sync {}; stage {}, with commit {}",
            size.len() / 1_000_000,
            list(&by_hand),
            list(&staged),
            list(&committed)
        );
    }
    let top = File::open(dir.path()).unwrap();
    for number in 0..kept.len() {
        remove_tree(top.as_fd(), format!("out-{number}").as_bytes()).unwrap();
    }
}
