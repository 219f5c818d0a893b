//! Containers from an image of the runtime's own store: its layers are theirs until their end,
//! whoever removes the image and whoever the agent is by then.

use std::fs;
use std::process::Command;

use runtime::image::{Digest, ImageError, Images, Origin, Staged};
use runtime::unpack::Bounds;
use runtime::{End, Launch, LogStream, Root, Streams};

use crate::image::{Image, containers, refused, told};
use crate::stage::{Stage, until};

fn tar(image: &Image, arguments: &[&str]) -> Vec<u8> {
    let root = image.root.to_str().expect("text");
    let packed = Command::new("tar").args(["-C", root, "-cf", "-"]).args(arguments).output();
    packed.expect("packed").stdout
}

/// Three layers: the programs, what changes them, what hides some of that.
fn load(stage: &Stage, image: &Image, name: &str) -> Digest {
    let images = stage.runtime.images();
    let base = tar(image, &["."]);
    for (name, text) in [("who", "two"), ("later", "kept"), (".wh.group", "")] {
        fs::write(image.path("etc").join(name), text).expect("written");
    }
    let second = tar(image, &["etc/who", "etc/later", "etc/.wh.group"]);
    fs::write(image.path("etc/who"), "three").expect("written");
    let third = tar(image, &["etc/who"]);
    load_layers(images, &[base, second, third], name)
}

fn load_layers(images: &Images, tars: &[Vec<u8>], name: &str) -> Digest {
    let staged: Vec<Staged> = tars
        .iter()
        .map(|tar| {
            let staged =
                images.stage(&mut tar.as_slice(), "x", None, &Bounds::default(), &|_| true);
            staged.expect("staged")
        })
        .collect();
    let layers: Vec<String> = staged.iter().map(|layer| layer.diff_id().to_string()).collect();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{}"]}}}}"#,
        layers.join(r#"",""#)
    );
    let name = name.parse().expect("a name");
    let info = images.commit(config.as_bytes(), None, staged, &[name], Origin::Asked);
    info.expect("committed").id
}

#[tokio::test]
async fn a_container_sees_the_layers_of_its_image() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let id = load(&stage, &image, "app");
    let script = "cat /etc/who /etc/later; ls /etc/group 2>/dev/null; stat -c %u /etc/passwd; \
        echo mine > /etc/who; cat /etc/who";
    for name in ["a", "b"] {
        let launch = image.script(name, script, |container| container.root = Root::Image(id));
        assert_eq!(told(&mut stage, launch).await, "threekept0\nmine\n");
    }
    let info = stage.runtime.images().find("app").expect("there");
    assert!(info.used_ms.is_some() && !info.in_use);
    let unknown = Digest::of(b"no such image");
    let launch = image.script("c", "true", |container| container.root = Root::Image(unknown));
    let why = refused(&mut stage, launch).await;
    assert!(why.contains(&format!("there is no image {unknown} here")), "{why}");
}

#[tokio::test]
async fn an_image_stays_for_its_tasks_and_no_longer() {
    if !containers() {
        return;
    }
    let stage = Stage::set().await;
    let image = Image::of(&stage);
    let id = load(&stage, &image, "app");
    let waits = |name: &str, text: &str| {
        let launch = image.script(name, text, |container| container.root = Root::Image(id));
        Launch { streams: Streams::Input, ..launch }
    };
    let text = "echo up; head -1; cat /etc/who /etc/later";
    stage.launch(waits("a", text)).await.expect("started");
    stage.launch(waits("b", text)).await.expect("started");
    stage.says("b", "up").await;
    let in_use = |error| matches!(error, Err(ImageError::InUse { .. }));
    assert!(in_use(stage.runtime.images().remove("app", false)));
    // An agent that was not there knows as much.
    let (mut stage, found) = Stage::reopen(stage.close()).await;
    assert_eq!(found.len(), 2);
    assert!(in_use(stage.runtime.images().remove(&id.to_string(), false)));
    let removed = stage.runtime.images().remove("app", true).expect("removed");
    assert_eq!((removed.images.as_slice(), removed.bytes), (&[id][..], 0));
    let again = refused(&mut stage, waits("c", "true")).await;
    assert!(again.contains("there is no image"), "{again}");
    // And so does one that finds nothing but the layers.
    let (mut stage, _) = Stage::reopen(stage.close()).await;
    let layers = stage.path().join("images/layers");
    let count = || fs::read_dir(&layers).expect("listed").count();
    for (name, left) in [("a", 3), ("b", 0)] {
        assert_eq!(count(), 3);
        let mut input = stage.runtime.attach(&crate::stage::id(name)).await.expect("attached");
        input.write(b"go\n").await.expect("written");
        input.close().await.expect("closed");
        assert_eq!(stage.end(name).await, End::Exited { code: 0 });
        let text = stage.text(name, LogStream::Stdout).await;
        assert!(text.ends_with("threekept"), "{text}");
        until("its layers are gone", || count() == left).await;
    }
    assert_eq!(fs::read_dir(stage.path().join("images/parts")).expect("listed").count(), 0);
}

/// `cargo test --release -p runtime --test containers -- --ignored --nocapture speed_of_layers`
#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_layers_beside_one_directory() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let directory = Root::Directory(image.root.clone());
    let id = load(&stage, &image, "app");
    let base = vec![tar(&image, &["."])];
    let many = (0..20).map(|n| {
        fs::write(image.path("etc/who"), n.to_string()).expect("written");
        tar(&image, &["etc/who"])
    });
    let many: Vec<_> = base.into_iter().chain(many).collect();
    let many = load_layers(stage.runtime.images(), &many, "many");
    let roots = [("a directory", directory), ("3 layers", Root::Image(id))];
    let roots = roots.into_iter().chain([("21 layers", Root::Image(many))]);
    for (number, (what, root)) in roots.enumerate() {
        let mut times = Vec::new();
        for run in 0..40 {
            let name = format!("t{number}-{run}");
            let root = root.clone();
            let launch = image.script(&name, "exit 0", |container| container.root = root);
            let begin = std::time::Instant::now();
            stage.launch(launch).await.expect("started");
            stage.end(&name).await;
            times.push(begin.elapsed());
        }
        times.sort();
        println!("{what}: {:.1?}, at best {:.1?}", times[times.len() / 2], times[0]);
    }
}
