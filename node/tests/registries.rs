//! Images between the shipped binary and registries: pulled and pushed with credentials and
//! under short names; what a user sees of a registry that refuses, redirects or is silent;
//! and that a pull ends with the last one who waits for it.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/registry.rs"]
mod registry;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use archive::Recipe;
use image::{beside, text};
use registry::{Registry, Reply, Stub};
use support::terminal::Terminal;
use support::{Host, Told, until};

/// Much more than the image's own programs pack to, so that only this is held back.
const HELD: usize = 24 << 20;

/// `user:secret`.
const PASS: &str = "dXNlcjpzZWNyZXQ=";

/// A host that is up, and an image in its store and the registry; the image's id.
fn pushed(registry: &Registry, name: &str, noise: usize) -> (Host, String) {
    let host = Host::new("h1");
    host.up();
    let recipe = Recipe { noise, ..Recipe::small(name) };
    let (archive, id) = recipe.make(&beside(&host, "image"));
    host.run(&["image", "load", text(&archive)]).ok();
    host.run(&["image", "push", name]).ok();
    assert!(registry.stub.count("PUT", "/manifests/") > 0);
    (host, id)
}

fn settings(host: &Host, text: &str) {
    fs::write(host.data().join("registries.json"), text).expect("written");
}

/// What the agent's own door answers to a request as it stands here.
fn asked(host: &Host, line: &str) -> String {
    let mut door = UnixStream::connect(host.data().join("api.sock")).expect("it listens");
    let request = format!("{line} HTTP/1.1\r\nHost: starling\r\nConnection: close\r\n\r\n");
    door.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    door.read_to_string(&mut answer).expect("it answers");
    answer
}

/// Whether an image is on its way to a host.
fn is_fetching(host: &Host) -> bool {
    asked(host, "GET /v1/local/fetches").contains("\"bytes\"")
}

fn begin(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

/// Ctrl-C.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::INT)
        .expect("it runs still");
}

#[test]
fn an_image_goes_to_a_registry_and_back_with_credentials_and_under_a_short_name() {
    let registry = Registry::closed(PASS);
    let at = registry.host();
    let host = Host::new("h1");
    host.up();
    let name = format!("{at}/library/app:1");
    let (archive, id) = Recipe::small(&name).make(&beside(&host, "image"));
    host.run(&["image", "load", text(&archive)]).ok();
    let told = host.run(&["image", "push", &name]);
    assert_eq!(told.code, 1, "{told:?}");
    for words in
        ["the registry does not let this node in", "without credentials", "registries.json"]
    {
        assert!(told.err.contains(words), "{words}: {told:?}");
    }
    settings(
        &host,
        &format!(
            r#"{{"auths": {{"{at}": {{"auth": "{PASS}"}}}}, "mirrors": {{"docker.io": ["{at}"]}}}}"#
        ),
    );
    let told = host.run(&["image", "push", &name]).ok();
    assert!(told.contains("pushed") && told.contains("on h1"), "{told}");
    host.run(&["image", "rm", &name]).ok();
    let told = host.run(&["image", "pull", "app:1"]);
    assert!(told.out.contains(&format!("pulled app:1 ({})", &id[..12])), "{told:?}");
    assert_eq!(told.err.lines().filter(|line| line.contains(": ")).count(), 3, "{told:?}");
    assert_eq!(host.run(&["-q", "image", "ls"]).ok(), format!("{}\n", &id[..12]));
    // What is here comes no second time.
    let before = registry.stub.count("GET", "/blobs/");
    let told = host.run(&["image", "pull", "app:1"]);
    assert!(told.err.contains("is here already"), "{told:?}");
    assert!(registry.stub.count("GET", "/blobs/") <= before + 1, "the config alone");
    settings(&host, &format!(r#"{{"auths": {{"{at}": {{"auth": "{}"}}}}}}"#, "dXNlcjp4"));
    let told = host.run(&["image", "pull", &name]);
    assert!(told.code == 1 && told.err.contains("does not accept the credentials"), "{told:?}");
}

#[test]
fn what_a_registry_does_wrong_is_told_in_words() {
    let host = Host::new("h1");
    host.up();
    // Waited for last: a minute is what a registry gets.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let name = format!("{}/app:1", mute.local_addr().expect("its address"));
    let silent = begin(host.command(&["image", "pull", &name]));

    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("its address").to_string();
    drop(closed);
    let circles = Stub::start(|request| Reply::new(307, "").with("Location", request.path.clone()));
    let away = Stub::start(|_| Reply::new(307, "").with("Location", "gopher://elsewhere/x"));
    let page = Stub::start(|_| Reply::new(200, "<html>welcome</html>"));
    let lacking = Registry::open();
    for (at, message, why) in [
        (nobody, "the registry cannot be used", "nothing can be reached at"),
        (circles.host(), "the registry cannot be used", "redirects in circles"),
        (away.host(), "the registry cannot be used", "which is no address"),
        (page.host(), "the image cannot be used", ""),
        (lacking.host(), "the registry does not have it", "has no 1 in app"),
    ] {
        let name = format!("{at}/app:1");
        let told = host.run(&["image", "pull", &name]);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.err.contains(message) && told.err.contains(why), "{name}: {told:?}");
        // And the same of a job, whose image it would be.
        let told = host.run(&["run", "-d", "--network", "none", &name]);
        assert!(told.code != 0 && told.err.contains(why), "{name}: {told:?}");
        assert_eq!(told.err.matches("error:").count(), 1, "{told:?}");
        assert!(told.err.contains("hint:"), "{name}: {told:?}");
    }
    assert_eq!(host.run(&["-q", "jobs", "-a"]).ok(), "", "nothing was submitted");
    let told: Told = silent.wait_with_output().expect("it ends").into();
    assert!(told.code == 1 && told.err.contains("did not answer within 60 s"), "{told:?}");
}

#[test]
fn a_pull_ends_with_the_last_one_who_waits_for_it() {
    let registry = Registry::open();
    let name = format!("{}/big:1", registry.host());
    let (host, id) = pushed(&registry, &name, HELD);
    host.run(&["image", "rm", &name]).ok();
    registry.shelf.hold_over(HELD / 2);
    // A submission and a pull of the same name are one pull.
    let run = begin(host.command(&["run", "--network", "none", &name]));
    until("its layer is asked for", || registry.shelf.is_waited_for());
    let mut pull = begin(host.command(&["image", "pull", &name]));
    // It is told of the layers that came before it joined.
    let mut told = BufReader::new(pull.stderr.take().expect("a pipe"));
    assert!(told.read_line(&mut String::new()).expect("a line") > 0, "it joined");
    let asked = || registry.stub.count("GET", "/blobs/");
    let layers = asked();
    interrupt(&run);
    let told: Told = run.wait_with_output().expect("it ends").into();
    assert_eq!(told.code, 130, "{told:?}");
    assert!(is_fetching(&host), "somebody waits still");
    assert_eq!(host.run(&["-q", "jobs", "-a"]).ok(), "", "there is no job");
    registry.shelf.let_go();
    let told: Told = pull.wait_with_output().expect("it ends").into();
    assert!(told.ok().contains(&id[..12]));
    assert_eq!(asked(), layers, "nothing was asked for twice");
    host.run(&["image", "rm", &name]).ok();
    // And now with nobody who stays: a job of any kind, and a pull.
    let ways: [&[&str]; 3] =
        [&["run", "--network", "none"], &["run", "-d", "--network", "none"], &["image", "pull"]];
    for words in ways {
        registry.shelf.hold_over(HELD / 2);
        let child = begin(host.command(&[words, &[name.as_str()]].concat()));
        until("it is fetched", || is_fetching(&host));
        interrupt(&child);
        child.wait_with_output().expect("it ends");
        until("nobody waits", || !is_fetching(&host));
        registry.shelf.let_go();
        assert_eq!(host.run(&["-q", "jobs", "-a"]).ok(), "", "{words:?}");
        assert_eq!(host.run(&["-q", "image", "ls"]).ok(), "", "{words:?}");
    }
}

#[test]
fn a_client_of_the_api_that_leaves_ends_the_pull_of_its_submission() {
    let registry = Registry::open();
    let name = format!("{}/big:1", registry.host());
    let (host, _) = pushed(&registry, &name, HELD);
    host.run(&["image", "rm", &name]).ok();
    registry.shelf.hold_over(HELD / 2);
    // A job as the CLI would submit it, of an agent that is asked by hand.
    let spec = serde_json::json!({
        "name": "web", "kind": "service",
        "groups": [{ "name": "main", "count": 1, "tasks": [{
            "name": "main", "run": { "container": { "root": { "image": { "name": name } } } },
        }]}],
    });
    let body = serde_json::json!({ "key": "k", "spec": spec }).to_string();
    let mut door = UnixStream::connect(host.data().join("api.sock")).expect("it listens");
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: starling\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    door.write_all(head.as_bytes()).expect("it reads");
    door.set_nonblocking(true).expect("it may");
    until("it is fetched", || {
        let mut told = [0; 4096];
        if let Ok(length) = door.read(&mut told) {
            panic!("it answered {}", String::from_utf8_lossy(&told[..length]));
        }
        is_fetching(&host)
    });
    drop(door);
    until("nobody waits", || !is_fetching(&host));
    assert_eq!(host.run(&["-q", "jobs", "-a"]).ok(), "");
}

#[test]
fn who_waits_at_a_terminal_sees_how_far_the_pull_is() {
    let registry = Registry::open();
    let name = format!("{}/big:1", registry.host());
    let (host, _) = pushed(&registry, &name, HELD);
    host.run(&["image", "rm", &name]).ok();
    registry.shelf.hold_over(HELD / 2);
    let command = host.command(&["run", "--network", "none", &name]);
    let mut terminal = Terminal::of(&command, 24, 100);
    // What it has in all is known before it comes, and some of it has come.
    terminal.shows("% ");
    terminal.shows("MiB of ");
    terminal.types(b"\x03");
    assert_eq!(terminal.ends(), 130);
    until("nobody waits", || !is_fetching(&host));
}

#[test]
fn what_is_asked_badly_of_images_is_refused_in_the_apis_words() {
    let host = Host::new("h1");
    host.up();
    for line in [
        "GET /v1/images/inspect",
        "GET /v1/images/inspect?nam=x",
        "DELETE /v1/images?name=x&force=perhaps",
        "POST /v1/images/prune?unused_s=-1",
        "POST /v1/images/tag?name=x",
        "POST /v1/images/pull",
        "POST /v1/images/ensure?name=x&pull=sometimes",
        "GET /v1/local/layers/x?from=y",
        "GET /v1/tasks?all=7",
    ] {
        let answer = asked(&host, line);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 400"), "{line}: {answer}");
        let failure: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(failure["error"]["code"], "bad_request", "{line}");
        assert_eq!(failure["error"]["why"].as_array().map(Vec::len), Some(1), "{line}: {body}");
        assert!(failure["error"]["hint"].is_string(), "{line}: {body}");
    }
}
