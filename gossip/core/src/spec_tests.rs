//! Specs as bytes: of older versions, of newer ones, and those that cannot be.

use super::*;
use crate::container::{ContainerSpec, ImageSpec, Pull, RootSpec};
use crate::restart::Restart;

fn spec() -> JobSpec {
    let task = TaskSpec::of(Program::process(vec!["true".into()], None));
    JobSpec::of_task("web".into(), JobKind::Batch, 1, task)
}

#[test]
fn a_spec_survives_its_blob() {
    let (hash, bytes) = spec().to_blob().expect("encodes");
    assert_eq!(JobSpec::from_blob(&bytes).expect("decodes"), spec());
    assert_eq!(ContentHash::of(&bytes), hash);
}

/// As version 0.1 wrote it, before there were labels, restarts and images.
const OLDER: &str = "\
    bf6776657273696f6e01646e616d65656f6c646572696e616d6573706163656764656661756c7465\
    6f776e657260646b696e6467736572766963656667726f75707381bf646e616d65646d61696e6563\
    6f756e7402657461736b7381bf646e616d65646d61696e6372756ea169636f6e7461696e6572b064\
    726f6f74a16470617468692f7372762f726f6f74646172677683627368622d636474727565696469\
    726563746f7279f66475736572f668686f73746e616d65f6676e6574776f726b6662726964676565\
    706f72747381a467686f73742d6970f664686f7374191f9069636f6e7461696e6572185063756470\
    f469726561642d6f6e6c79f4666d6f756e747381a166766f6c756d65a3646e616d65646461746166\
    746172676574652f6461746169726561645f6f6e6c79f4676465766963657380676361702d616464\
    80686361702d64726f70806773797363746c73a064696e6974f46973686d2d6279746573f6657472\
    7573748063656e76a161416162697265736f7572636573a2696370755f6d696c6c6918646c6d656d\
    6f72795f62797465731a04000000666c696d697473a3696370752d6d696c6c69f66c6d656d6f7279\
    2d6279746573f66470696473f667756c696d697473a06773747265616d7366636c6f7365646b7374\
    6f705f7369676e616c66534947494e546d73746f705f67726163655f6d73192710ffffff";

#[test]
fn an_older_spec_is_read_and_keeps_its_bytes() {
    let bytes = data_encoding::HEXLOWER.decode(OLDER.as_bytes()).expect("hex");
    let read = JobSpec::from_blob(&bytes).expect("reads");
    let task = &read.groups[0].tasks[0];
    assert!(read.labels.is_empty() && !read.remove && task.restart.is_none());
    assert_eq!(read.to_blob().expect("encodes").1, bytes, "its hash names it");
}

#[test]
fn a_process_brings_files_to_where_it_starts_and_nowhere_else() {
    let mut spec = spec();
    let files = ImageSpec { id: Some(ContentHash::of(b"x")), ..ImageSpec::named("./x".into()) };
    let run = |directory: Option<&str>| Program::Process {
        argv: vec!["./x".into()],
        directory: directory.map(str::to_owned),
        user: None,
        files: Some(files.clone()),
    };
    spec.groups[0].tasks[0].run = run(None);
    assert_eq!(spec.groups[0].tasks[0].run.image(), Some(&files));
    assert_eq!(spec.groups[0].tasks[0].run.command(), "./x");
    let (_, bytes) = spec.to_blob().expect("encodes");
    assert_eq!(JobSpec::from_blob(&bytes).expect("decodes"), spec);
    spec.groups[0].tasks[0].run = run(Some("/srv"));
    assert!(matches!(spec.check(), Err(BadSpec::Elsewhere)));
}

#[test]
fn labels_restarts_and_images_survive_a_blob() {
    let mut image = ContainerSpec::new(
        RootSpec::Image(ImageSpec { pull: Pull::Always, ..ImageSpec::named("web:1".into()) }),
        vec![],
    );
    image.entrypoint = Some(vec!["sh".into()]);
    let mut spec = spec();
    spec.labels.insert("tier".into(), "front".into());
    spec.remove = true;
    spec.groups[0].tasks[0].run = Program::Container(Box::new(image));
    spec.groups[0].tasks[0].restart = Some(Restart::OnFailure { most: Some(3) });
    let (_, bytes) = spec.to_blob().expect("encodes");
    assert_eq!(JobSpec::from_blob(&bytes).expect("decodes"), spec);
    assert_eq!(spec.groups[0].tasks[0].run.command(), "web:1");
}

#[test]
fn fields_of_a_newer_version_are_kept() {
    let mut newer = spec();
    newer.groups[0].tasks[0].unknown.insert("gpu".into(), ciborium::Value::from(2));
    let (hash, bytes) = newer.to_blob().expect("encodes");
    let again = JobSpec::from_blob(&bytes).expect("decodes").to_blob().expect("encodes");
    assert_eq!(again.0, hash);
}

#[test]
fn what_cannot_run_is_refused_with_a_reason() {
    type Breakage = fn(&mut JobSpec);
    let broken: [(&str, Breakage); 12] = [
        ("format 9", |s| s.version = 9),
        ("cannot be a name", |s| s.name = "Web!".into()),
        ("0 to", |s| s.groups.clear()),
        ("two groups", |s| s.groups.push(s.groups[0].clone())),
        ("at most", |s| s.groups[0].count = COUNT_MAX + 1),
        ("exactly one", |s| s.groups[0].tasks.clear()),
        ("NUL", |s| s.groups[0].tasks[0].env.extend([("A".into(), "\0".into())])),
        ("labels", |s| s.labels.extend([("a=b".into(), String::new())])),
        ("labels", |s| s.labels.extend((0..=LABELS_MAX).map(|n| (n.to_string(), "".into())))),
        ("restart", |s| {
            s.kind = JobKind::Service;
            s.groups[0].tasks[0].restart = Some(Restart::OnFailure { most: None });
        }),
        ("no command", |s| {
            let mut spec = ContainerSpec::new(RootSpec::Path("/r".into()), vec![]);
            spec.entrypoint = Some(vec![]);
            s.groups[0].tasks[0].run = Program::Container(Box::new(spec));
        }),
        ("more than a day", |s| s.groups[0].tasks[0].stop_grace_ms = u64::MAX),
    ];
    for (word, breakage) in broken {
        let mut spec = spec();
        breakage(&mut spec);
        let text = spec.check().expect_err(word).to_string();
        assert!(text.contains(word) || word == "0 to", "{word}: {text}");
    }
}

#[test]
fn only_a_container_over_an_image_may_leave_its_command_to_others() {
    let image = || RootSpec::Image(ImageSpec::named("nginx".into()));
    let of = |root, entrypoint: Option<&[&str]>| {
        let mut container = ContainerSpec::new(root, Vec::new());
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        container.entrypoint = entrypoint.map(words);
        let mut job = spec();
        job.groups[0].tasks[0].run = Program::Container(Box::new(container));
        job.check()
    };
    assert!(of(image(), None).is_ok());
    assert!(of(image(), Some(&["sh"])).is_ok());
    assert!(of(RootSpec::Path("/srv".into()), Some(&["sh"])).is_ok());
    for none in [&[][..], &[""][..]] {
        assert!(matches!(of(image(), Some(none)), Err(BadSpec::NoCommand)), "{none:?}");
    }
    assert!(matches!(of(RootSpec::Path("/srv".into()), None), Err(BadSpec::NoCommand)));
    assert!(matches!(of(image(), Some(&["a\0"])), Err(BadSpec::Container(_))));
}
