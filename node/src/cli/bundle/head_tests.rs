//! What a bundle says survives the way into the file and back, and what it must not say is
//! refused with a sentence.

use gossip_core::container::ContainerSpec;
use gossip_core::spec::{JobKind, TaskSpec};

use super::*;

fn job(name: &str, run: Program) -> BundledJob {
    let mut spec = JobSpec::of_task(name.to_owned(), JobKind::Batch, 1, TaskSpec::of(run));
    spec.owner = "uid:0".to_owned();
    BundledJob::of(JobId::new([7; 16]), spec)
}

fn process(name: &str) -> BundledJob {
    job(name, Program::process(vec!["true".into()], None))
}

fn from_image(name: &str, id: Option<Digest>) -> BundledJob {
    let mut container: ContainerSpec = serde_json::from_value(serde_json::json!({
        "root": {"image": {"name": "app:1"}}, "argv": ["run"]
    }))
    .expect("a container");
    if let RootSpec::Image(image) = &mut container.root {
        image.id = id.map(|id| ContentHash::new(*id.as_bytes()));
    }
    job(name, Program::Container(Box::new(container)))
}

fn head(jobs: Vec<BundledJob>) -> Head {
    let names = vec!["app:1".parse().expect("a name")];
    let image = BundledImage { id: Digest::of(b"app"), names, bytes: 5 };
    Head::new(WallTime(1), ClusterId::new([9; 32]), jobs, vec![image])
}

#[test]
fn a_bundle_reads_as_it_was_written_with_what_newer_ones_add() {
    let written = head(vec![process("a"), from_image("b", Some(Digest::of(b"app")))]);
    let mut text = serde_json::to_value(&written).expect("JSON");
    assert_eq!(Head::parse(text.to_string().as_bytes()), Ok(written.clone()));
    text["mood"] = "fine".into();
    text["jobs"][0]["spec"]["mood"] = "fine".into();
    let read = Head::parse(text.to_string().as_bytes()).expect("read");
    let kept = read.jobs[0].spec.unknown.get("mood").and_then(|value| value.as_text());
    assert_eq!(kept, Some("fine"));
    assert_eq!(read.jobs[1], written.jobs[1]);
}

#[test]
fn a_newer_format_is_refused_by_its_number_whatever_else_it_says() {
    let told = Head::parse(br#"{"version": 2, "jobs": "elsewhere"}"#).expect_err("newer");
    assert_eq!(told, BadHead::Newer(2));
    let mut newer_job = process("a");
    newer_job.spec.version = 99;
    let text = serde_json::to_vec(&head(vec![newer_job])).expect("JSON");
    let told = Head::parse(&text).expect_err("newer").to_string();
    assert!(told.contains("job a") && told.contains("format 99"), "{told}");
}

#[test]
fn what_cannot_be_a_bundle_is_refused_with_a_sentence() {
    let sentence = |bytes: &[u8]| Head::parse(bytes).expect_err("refused").to_string();
    for garbage in [&b""[..], b"{", b"[]", b"{}", b"null", b"\xff\xfe", br#"{"version": 1}"#] {
        assert!(sentence(garbage).contains("cannot be read"), "{}", garbage.escape_ascii());
    }
    let of = |jobs: Vec<BundledJob>| sentence(&serde_json::to_vec(&head(jobs)).expect("JSON"));
    assert!(of(vec![process("a"), process("a")]).contains("two jobs called a"));
    assert!(of(vec![process("A b")]).contains("job A b"));
    // An image that is not pinned, or not there, could be any other where it is imported.
    assert!(of(vec![from_image("b", None)]).contains("app:1, which it lacks"));
    assert!(of(vec![from_image("b", Some(Digest::of(b"other")))]).contains("which it lacks"));
    let many = (0..=JOBS_MAX).map(|n| process(&format!("j{n}"))).collect();
    assert!(of(many).contains("1001 jobs"));
}

#[test]
fn a_key_follows_from_what_a_job_is_and_nobody_owns_it() {
    let cluster = ClusterId::new([9; 32]);
    let key = |job: &BundledJob| job.key(&cluster).expect("a key");
    let one = process("a");
    assert_eq!(one.spec.owner, "");
    assert_eq!(key(&one), key(&one.clone()));
    assert!(key(&one).len() <= 256);
    let mut others = [process("b"), one.clone(), one.clone()];
    others[1].id = JobId::new([8; 16]);
    others[2].spec.groups[0].count = 2;
    assert!(others.iter().all(|other| key(other) != key(&one)));
    assert_ne!(key(&one), one.key(&ClusterId::new([1; 32])).expect("a key"));
}

#[test]
fn jobs_are_chosen_and_renamed_by_the_names_they_have_in_the_bundle() {
    let head = head(vec![process("a"), process("b")]);
    let names =
        |jobs: Vec<BundledJob>| -> Vec<_> { jobs.into_iter().map(|job| job.spec.name).collect() };
    let renamed = BTreeMap::from([("b".to_owned(), "c".to_owned())]);
    assert_eq!(head.chosen(&[], &renamed).map(names), Ok(vec!["a".into(), "c".into()]));
    assert_eq!(head.chosen(&["b".into()], &renamed).map(names), Ok(vec!["c".into()]));
    let odd = head.chosen(&["x".into()], &renamed).expect_err("no such job");
    assert_eq!(odd, ["x"]);
    assert_eq!(renaming("a=b"), Ok(("a".into(), "b".into())));
    assert!(renaming("a").is_err() && renaming("a=").is_err() && renaming("a=B!").is_err());
}

#[test]
fn what_a_job_uses_of_its_node_is_known_to_be_left_behind() {
    assert!(process("a").left_behind().is_empty());
    let mut container = ContainerSpec::new(RootSpec::Path("/srv/root".into()), vec!["x".into()]);
    container.mounts = vec![
        MountSpec::Bind { source: "/srv/data".into(), target: "/d".into(), read_only: true },
        MountSpec::Volume { name: "v".into(), target: "/v".into(), read_only: false },
        MountSpec::Tmpfs { target: "/t".into(), bytes: None, mode: None },
    ];
    let job = job("a", Program::Container(Box::new(container)));
    assert_eq!(job.left_behind(), ["/srv/data", "/srv/root", "volume v"]);
}
