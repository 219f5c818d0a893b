//! Images that come and go: archives and directories from afar, holders that leave, readers that
//! take nothing.

use super::*;

#[test]
fn an_import_with_too_many_lines_is_refused_rather_than_cut() {
    let host = Host::new("h1");
    host.up();
    let (archive, _) = Recipe::small("app:1").make(&beside(&host, "image"));
    let lines: Vec<String> = (0..257).map(|n| format!("-c=ENV A{n}=1")).collect();
    let mut words = vec!["image", "import", text(&archive), "root"];
    words.extend(lines.iter().map(String::as_str));
    let told = host.run(&words);
    assert!(told.code != 0 && told.err.contains("256 lines of --change at most"), "{told:?}");
    assert!(told.err.contains("257"), "{told:?}");
    host.run(&words[..4 + 256]).ok();
}

#[test]
fn what_is_no_archive_is_refused_and_harms_nothing() {
    let host = Host::new("h1");
    host.up();
    let dir = beside(&host, "image");
    let (archive, id) = Recipe::small("app:1").make(&dir);
    let whole = fs::read(&archive).expect("readable");
    let mut flipped = whole.clone();
    // Somewhere in the programs of the first layer.
    flipped[whole.len() / 2] ^= 1;
    let garbage: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("garbage", &garbage),
        ("cut off", &whole[..whole.len() / 2]),
        ("changed", &flipped),
        ("another archive", &whole[..1024]),
    ];
    for (what, bytes) in cases {
        let mut command = host.command(&["image", "load"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut load = command.spawn().expect("it runs");
        // It may have heard enough before its end.
        let _ = load.stdin.take().expect("a pipe").write_all(bytes);
        let told: Told = load.wait_with_output().expect("it ends").into();
        assert!(told.code == 1 && told.err.contains("error:"), "{what}: {told:?}");
        assert!(told.err.contains("why:") && !told.err.contains("left before"), "{what}: {told:?}");
    }
    assert_eq!(host.run(&["-q", "image", "ls"]).ok(), "");
    let told = host.run(&["image", "load", text(&dir.join("nosuch.tar"))]);
    assert!(told.code == 1 && told.err.contains("cannot be read"), "{told:?}");
    load(&host, &archive);
    assert!(host.run(&["image", "ls"]).ok().contains(&id[..12]));
}

#[test]
fn images_and_what_runs_from_them_outlive_the_agent() {
    if !image::possible() {
        return;
    }
    let host = Host::new("h1");
    host.up();
    let (archive, id) = Recipe::small("app:1").make(&beside(&host, "image"));
    load(&host, &archive);
    run(&host, &["-d", "--name", "web", "app:1", "sleep", "9999"]).ok();
    until("it runs", || host.running("web") == 1);
    host.crash_agent();
    host.up();
    until("it is found", || host.running("web") == 1);
    assert_eq!(places(&host, &id), [("h1".to_owned(), "loaded, in use".to_owned())]);
    assert_eq!(host.run(&["image", "rm", "app:1"]).code, 1, "it is in use still");
    assert_eq!(run(&host, &["app:1"]).ok(), "of the image\n");
    host.run(&["stop", "web"]).ok();
    until("it is free", || host.run(&["image", "rm", "app:1"]).code == 0);
    assert_eq!(host.run(&["-q", "image", "ls"]).ok(), "");
}

#[test]
fn what_is_saved_on_one_host_is_the_same_image_elsewhere() {
    let founder = full_founder();
    let (archive, id) = Recipe::small("app:1").make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = joined(&founder, "h2");
    let saved = beside(&other, "saved").join("app.tar");
    // From a host that has to fetch it first.
    other.run(&["image", "save", "-o", text(&saved), "app:1"]).ok();
    let stranger = Host::new("h9");
    stranger.up();
    assert_eq!(stranger.run(&["-q", "load", "-i", text(&saved)]).ok(), "app:1\n");
    assert_eq!(stranger.run(&["-q", "image", "ls"]).ok(), format!("{}\n", &id[..12]));
    let told = other.run(&["image", "save", "-o", text(&saved), "nosuch:1"]);
    assert!(told.code == 1 && told.err.contains("there is no image"), "{told:?}");
    assert!(saved.exists(), "what was there stays");
}

#[test]
fn a_job_of_an_unknown_image_is_refused_with_what_to_do() {
    let host = Host::new("h1");
    host.up();
    let told = run(&host, &["--pull", "never", "nosuch:1"]);
    assert_eq!(told.code, 125, "{told:?}");
    for words in ["there is no image nosuch:1", "starling image load", "starling image pull"] {
        assert!(told.err.contains(words), "{told:?}");
    }
    let told = run(&host, &["Not:a/name"]);
    assert!(told.code != 0 && told.err.contains("error:"), "{told:?}");
}

#[test]
fn how_far_an_image_is_can_be_seen_from_any_host() {
    if !image::possible() {
        return;
    }
    let founder = Host::new("h1");
    // Slow enough to be looked at.
    let mut up = founder.command(&["up"]);
    let up: Told = up.env("STARLING_IMAGE_RATE", "2Mi").output().expect("it runs").into();
    up.ok();
    let filler = ["run", "-d", "--name", "filler", "--cpus", "1", "--exec", "--", "sleep", "9999"];
    founder.run(&filler).ok();
    until("the founder is full", || founder.running("filler") == 1);
    let recipe = Recipe { noise: 32 << 20, ..Recipe::small("big:1") };
    let (archive, _) = recipe.make(&beside(&founder, "image"));
    load(&founder, &archive);
    let other = joined(&founder, "h2");
    let command = other.command(&["run", "--name", "web", "--network", "none", "big:1"]);
    let terminal = Terminal::of(&command, 24, 120);
    // From the host that fetches, and from the one that was not asked to.
    for host in [&other, &founder] {
        until("it is seen how far it is", || {
            let list = host.json(&["ps", "web"]);
            let fetching = &list["items"][0]["fetching"];
            let bytes = fetching["bytes"].as_u64().unwrap_or(0);
            let of = fetching["of"].as_u64().unwrap_or(0);
            bytes > 0 && bytes < of && of > 32 << 20 && fetching["from"][0] == "h1"
        });
        let told = host.run(&["ps", "web"]).ok();
        assert!(told.contains("starting: fetching big:1, "), "{told}");
        let told = host.run(&["why", "web"]).ok();
        assert!(told.contains(" % of ") && told.contains("from h1"), "{told}");
    }
    terminal.shows("h2: fetching big:1, ");
    terminal.shows(" % of ");
    terminal.shows("MiB/s, from h1");
    // Of one that is silent there is no detail, and nobody waits for it.
    let silent = other.agent();
    kill(silent, "STOP");
    let began = Instant::now();
    let list = founder.json(&["ps", "web"]);
    let took = began.elapsed();
    kill(silent, "CONT");
    assert!(list["items"][0]["fetching"].is_null(), "{list}");
    assert!(list["items"][0]["node_name"] == "h2" && took < Duration::from_secs(10), "{took:?}");
    terminal.shows("of the image");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn an_image_is_loaded_into_and_saved_from_another_member() {
    let founder = Host::new("h1");
    founder.up();
    let other = joined(&founder, "h2");
    let user = Host::new("h9");
    let token = founder.run(&["-q", "invite", "--operator"]).ok();
    let from_afar = |words: &[&str]| {
        let mut command = user.command(words);
        command.env("XDG_CONFIG_HOME", beside(&user, "config"));
        Told::from(command.output().expect("it runs"))
    };
    from_afar(&["login", token.trim()]).ok();
    let status = other.json(&["status"]);
    let peer = status["operator_addresses"][0].as_str().expect("an address").to_owned();
    let recipe = Recipe { noise: 8 << 20, ..Recipe::small("app:1") };
    let (archive, id) = recipe.make(&beside(&user, "image"));
    let told = from_afar(&["--peer", &peer, "image", "load", "-i", text(&archive)]).ok();
    assert!(told.contains("loaded app:1") && told.contains("on h2"), "{told}");
    assert_eq!(places(&founder, "app:1"), [("h2".to_owned(), "loaded".to_owned())]);
    let saved = beside(&user, "saved").join("app.tar");
    from_afar(&["--peer", &peer, "image", "save", "-o", text(&saved), "app:1"]).ok();
    from_afar(&["--peer", &peer, "image", "rm", "app:1"]).ok();
    assert_eq!(founder.run(&["-q", "image", "ls"]).ok(), "");
    load(&founder, &saved);
    assert_eq!(founder.run(&["-q", "image", "ls"]).ok(), format!("{}\n", &id[..12]));
    let told = from_afar(&["--peer", "127.0.0.1:1", "image", "load", "-i", text(&archive)]);
    assert!(told.code != 0 && told.err.contains("error:"), "{told:?}");
}

#[test]
fn an_oci_layout_is_loaded_from_its_directory() {
    let host = Host::new("h1");
    host.up();
    let (archive, id) = Recipe::small("app:1").make(&beside(&host, "image"));
    load(&host, &archive);
    // Saved archives are OCI layouts, too.
    let saved = beside(&host, "saved").join("app.tar");
    host.run(&["image", "save", "-o", text(&saved), "app:1"]).ok();
    let layout = beside(&host, "layout");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(&layout).arg("-xf").arg(&saved);
    assert!(tar.status().expect("tar runs").success());
    assert!(layout.join("oci-layout").exists() && layout.join("index.json").exists());
    // What only Docker reads is not needed.
    fs::remove_file(layout.join("manifest.json")).expect("removed");
    let stranger = Host::new("h9");
    stranger.up();
    let told = stranger.run(&["image", "load", text(&layout)]).ok();
    assert!(told.contains("loaded app:1"), "{told}");
    assert_eq!(stranger.run(&["-q", "image", "ls"]).ok(), format!("{}\n", &id[..12]));
    fs::remove_file(layout.join("index.json")).expect("removed");
    let told = stranger.run(&["image", "load", text(&layout)]);
    assert!(told.code == 1 && told.err.contains("a directory without an image"), "{told:?}");
}

#[test]
fn a_holder_that_is_gone_for_good_is_not_waited_for() {
    if !image::possible() {
        return;
    }
    let (founder, other) = full_and_lacking();
    run(&other, &["-d", "--name", "web", "big:1", "sleep", "9999"]).ok();
    until("the other one fetches", || is_staging(&other));
    founder.kill_all();
    // The start ends with the reason, and is tried again for as long as somebody wants it.
    until("it is told that nobody has it", || {
        let told = other.run(&["--json", "ps", "-a", "web"]);
        told.out.contains("big:1 cannot be had here") && told.out.contains("h1 is silent")
    });
}

#[test]
fn readers_that_take_nothing_lose_their_turns_to_those_who_do() {
    let host = Host::new("h1");
    host.up();
    let recipe = Recipe { noise: 16 << 20, ..Recipe::small("big:1") };
    let (archive, _) = recipe.make(&beside(&host, "image"));
    load(&host, &archive);
    // As many as may at once, and none of them reads: a user's, and some of programs.
    let mut command = host.command(&["image", "save", "big:1"]);
    let mut user = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut begun = [0];
    user.stdout.as_mut().expect("a pipe").read_exact(&mut begun).expect("it has begun");
    let stuck: Vec<UnixStream> = (0..7)
        .map(|_| {
            let mut door = UnixStream::connect(host.data().join("api.sock")).expect("it listens");
            let request = "GET /v1/images/save?name=big:1 HTTP/1.1\r\nHost: starling\r\n\r\n";
            door.write_all(request.as_bytes()).expect("it reads");
            door.read_exact(&mut [0]).expect("it has begun");
            door
        })
        .collect();
    let saved = beside(&host, "saved").join("big.tar");
    let save = || host.run(&["image", "save", "-o", text(&saved), "big:1"]);
    let told = save();
    assert!(told.code == 1 && told.err.contains("too many images are moved"), "{told:?}");
    until("one of them is left", || save().code == 0);
    until("all of them are", || {
        let log = fs::read_to_string(host.data().join("agent.log")).expect("a log");
        log.matches("took nothing for 30 seconds").count() == 8
    });
    let told: Told = user.wait_with_output().expect("it ends").into();
    assert!(told.code == 1 && told.err.contains("broke off before its end"), "{}", told.err);
    drop(stuck);
}
