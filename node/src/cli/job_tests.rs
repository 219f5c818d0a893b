//! Tables: which words become which job, and which none.

use super::*;
use clap::Parser;
use gossip_core::container::{ContainerSpec, MountSpec, NetworkSpec, Pull, Trust};
use gossip_core::health::HealthTest;
use gossip_core::limits::TaskLimits;
use gossip_core::resources::{DEFAULT_ASK, Resources};
use gossip_core::restart::Restart;
use gossip_core::spec::JobKind;

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    job: JobArgs,
}

fn read(words: &str) -> Result<JobSpec, Complaint> {
    let words = Words::try_parse_from(std::iter::once("run").chain(words.split(' ')));
    let words = words.map_err(|e| Complaint::new("usage", e.to_string()))?;
    words.job.spec(&Outside {
        made_up: "abc23",
        variable: &|name| (name == "HOME").then(|| "/root".to_owned()),
        file: &|path| match path.to_str() {
            Some("vars") => Ok(b"# of the file\nA=file\nB=file\nHOME\nUNSET".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
    })
}

fn task(spec: &JobSpec) -> &TaskSpec {
    &spec.groups[0].tasks[0]
}

fn container(spec: &JobSpec) -> &ContainerSpec {
    match &task(spec).run {
        Program::Container(container) => container,
        Program::Process { .. } => panic!("a container"),
    }
}

#[test]
fn the_first_word_is_the_image_and_the_rest_is_its_own() {
    type Check = fn(&JobSpec, &ContainerSpec) -> bool;
    let image = |c: &ContainerSpec| c.image().map(|image| image.name.clone());
    let id = format!("sha256:{}", "0a".repeat(32));
    let cases: [(&str, &str, &str, Check); 15] = [
        ("nginx", "nginx", "nginx-abc23", |_, c| c.argv.is_empty() && c.entrypoint.is_none()),
        ("--name web nginx:1.27 nginx -g x", "nginx:1.27", "web", |_, c| {
            c.argv == ["nginx", "-g", "x"]
        }),
        ("alpine -- sh", "alpine", "alpine-abc23", |_, c| c.argv == ["--", "sh"]),
        ("-it ghcr.io/me/app:2 sh", "ghcr.io/me/app:2", "app-abc23", |s, _| {
            task(s).streams == Streams::Terminal
        }),
        ("alpine ls --name x -d --rm", "alpine", "alpine-abc23", |_, c| {
            c.argv == ["ls", "--name", "x", "-d", "--rm"]
        }),
        ("-- alpine -l", "alpine", "alpine-abc23", |_, c| c.argv == ["-l"]),
        ("4bcff63911fc true", "4bcff63911fc", "4bcff63911fc-abc23", |_, c| c.argv == ["true"]),
        (&id, &id, "0a0a0a0a0a0a-abc23", |_, _| true),
        ("--entrypoint sh alpine -c x", "alpine", "alpine-abc23", |_, c| {
            c.entrypoint == Some(vec!["sh".to_owned()]) && c.argv == ["-c", "x"]
        }),
        ("--entrypoint= alpine ls", "alpine", "alpine-abc23", |_, c| {
            c.entrypoint == Some(vec![]) && c.argv == ["ls"]
        }),
        ("--pull always alpine", "alpine", "alpine-abc23", |_, c| {
            c.image().is_some_and(|image| image.pull == Pull::Always)
        }),
        ("--network none --read-only --init -u 7 -w /srv alpine", "alpine", "alpine-abc23", {
            |_, c| c.network == NetworkSpec::None && c.read_only && c.init
        }),
        ("--security-opt seccomp=unconfined alpine", "alpine", "alpine-abc23", |s, c| {
            c.trust.contains(&Trust::AllCalls) && s.groups[0].needs_trust().is_some()
        }),
        ("--security-opt no-new-privileges alpine", "alpine", "alpine-abc23", |_, c| {
            c.trust.is_empty()
        }),
        ("-v a:/a --mount type=tmpfs,dst=/b --tmpfs /c alpine", "alpine", "alpine-abc23", {
            |_, c| c.mounts.len() == 3 && matches!(c.mounts[1], MountSpec::Tmpfs { .. })
        }),
    ];
    for (words, name, job, check) in cases {
        let spec = read(words).expect(words);
        let c = container(&spec);
        assert_eq!((image(c).as_deref(), spec.name.as_str()), (Some(name), job), "{words}");
        assert!(check(&spec, c), "{words}: {spec:?}");
    }
}

#[test]
fn an_entrypoint_over_files_is_where_the_command_begins() {
    for (words, argv) in [
        ("--rootfs /r --entrypoint /bin/app -v x:/y one", vec!["/bin/app", "one"]),
        ("--rootfs /r --entrypoint /bin/app", vec!["/bin/app"]),
    ] {
        let spec = read(words).expect(words);
        assert_eq!(
            (container(&spec).argv.clone(), &container(&spec).entrypoint),
            (argv.into_iter().map(str::to_owned).collect(), &None,)
        );
        assert_eq!(spec.name, "app-abc23");
    }
}

#[test]
fn files_of_variables_and_labels_give_way_to_flags() {
    let spec = read("--exec --env-file vars -e B=flag -l tier=front -l new --label-file vars x");
    let spec = spec.expect("a job");
    let pairs = |map: &BTreeMap<String, String>| {
        map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&task(&spec).env), ["A=file", "B=flag", "HOME=/root"]);
    let labels = ["A=file", "B=file", "HOME=", "UNSET=", "new=", "tier=front"];
    assert_eq!(pairs(&spec.labels), labels);
}

#[test]
fn restarts_are_a_kind_of_job_or_a_rule() {
    for (words, kind, rule) in [
        ("--exec --restart no x", JobKind::Batch, None),
        ("--exec --restart always x", JobKind::Service, None),
        ("-it --restart unless-stopped alpine", JobKind::Service, None),
        ("--exec --restart=on-failure x", JobKind::Batch, Some(None)),
        ("--exec --restart on-failure:3 --array 4 x", JobKind::Batch, Some(Some(3))),
    ] {
        let spec = read(words).expect(words);
        assert_eq!(spec.kind, kind, "{words}");
        let rule = rule.map(|most| Restart::OnFailure { most });
        assert_eq!(task(&spec).restart, rule, "{words}");
    }
}

#[test]
fn checks_are_a_jobs_own_or_change_its_images() {
    let health = |words: &str| task(&read(words).expect(words)).health.clone();
    assert_eq!(health("--exec x"), None);
    let own = health("--health-interval 1m30s --health-retries 5 --health-cmd true --exec x");
    let own = own.expect("a check");
    assert_eq!(own.test, Some(HealthTest::Shell("true".into())));
    assert_eq!((own.interval_ms, own.retries, own.timeout_ms), (Some(90_000), Some(5), None));
    let changed = health("--health-timeout 2s --health-start-period 9 alpine").expect("a change");
    assert_eq!((&changed.test, changed.timeout_ms), (&None, Some(2000)));
    assert_eq!(changed.start_period_ms, Some(9000));
    let off = health("--no-healthcheck alpine").expect("a word");
    assert_eq!(off.test, Some(HealthTest::None));
}

#[test]
fn words_become_jobs() {
    type Check = fn(&JobSpec) -> bool;
    let cases: [(&str, Check); 16] = [
        ("--exec -- true", |s| s.kind == JobKind::Batch && s.groups[0].count == 1),
        ("--exec true", |s| s.name == "true-abc23"),
        ("--exec -- /usr/bin/My_App -v", |s| s.name == "my-app-abc23"),
        ("--exec --name web sleep 1", |s| s.name == "web"),
        ("--exec --replicas 3 x", |s| s.kind == JobKind::Service && s.groups[0].count == 3),
        ("--exec --array 9 x", |s| s.kind == JobKind::Batch && s.groups[0].count == 9),
        ("--exec --cpus 1.5 -m 1g x", |s| {
            task(s).resources == Resources { cpu_milli: 1500, memory_bytes: 1 << 30 }
        }),
        ("--exec --cpus 2 --reserve-cpu 0.5 x", |s| {
            task(s).resources.cpu_milli == 500 && task(s).limits.cpu_milli == Some(2000)
        }),
        ("--exec x", |s| task(s).limits == TaskLimits::default()),
        ("--exec -u web:web --ulimit nofile=10:20 x", |s| {
            s.groups[0].needs_trust().is_some() && task(s).rlimits().eq([Some(("nofile", 10, 20))])
        }),
        ("--rootfs /srv/r -v /srv/d:/d -p 80 --user 7 sh -c x", |s| {
            let Program::Container(container) = &task(s).run else { return false };
            container.argv == ["sh", "-c", "x"]
                && container.user.as_deref() == Some("7")
                && (container.mounts.len(), container.ports.len()) == (1, 1)
                && s.groups[0].needs_trust().is_none()
        }),
        ("--exec x", |s| task(s).resources == DEFAULT_ASK && task(s).stop_grace_ms == 10_000),
        ("--exec -e A=b=c -e HOME -e UNSET x", |s| {
            let env: Vec<_> = task(s).env.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            env == ["A:b=c", "HOME:/root"]
        }),
        ("--exec --stop-timeout 3 x", |s| task(s).stop_grace_ms == 3000),
        ("--exec -w /srv x --name y -d", |s| {
            let argv = ["x", "--name", "y", "-d"].map(str::to_owned).to_vec();
            let directory = Some("/srv".to_owned());
            task(s).run == Program::process(argv, directory)
        }),
        ("--exec -- -weird", |s| {
            let argv = vec!["-weird".to_owned()];
            task(s).run == Program::process(argv, None)
        }),
    ];
    for (words, check) in cases {
        let spec = read(words).expect(words);
        assert!(check(&spec), "{words}: {spec:?}");
    }
}

#[test]
fn what_cannot_be_a_job_is_refused_before_anybody_is_asked() {
    let cases = [
        ("./nginx", "bad_image"),
        ("/bin/sh", "bad_image"),
        ("Nginx", "bad_image"),
        ("nginx:", "bad_image"),
        ("--rootfs /r --pull always x", "bad_spec"),
        ("--pull sometimes x", "usage"),
        ("--platform windows/amd64 x", "usage"),
        ("--entrypoint sh", "usage"),
        ("--exec --entrypoint sh x", "bad_spec"),
        ("--exec --restart always --array 2 x", "bad_spec"),
        ("--exec --restart no --replicas 2 x", "bad_spec"),
        ("--exec --restart sometimes x", "usage"),
        ("--exec --env-file gone x", "bad_file"),
        ("--exec -l =x x", "usage"),
        ("--security-opt no-new-privileges=false x", "usage"),
        ("--mount type=bind,source=x,target=/y x", "usage"),
        ("--network mine x", "usage"),
        ("--health-interval 5s --exec x", "bad_spec"),
        ("--health-cmd= --exec x", "bad_spec"),
        ("--health-cmd x --health-interval 50ms --exec x", "bad_spec"),
        ("--health-cmd x --health-retries 0 --exec x", "bad_spec"),
        ("--health-cmd x --no-healthcheck alpine", "usage"),
        ("--exec --replicas 2 --array 2 x", "usage"),
        ("--exec --array 0 x", "usage"),
        ("--exec --array 20001 x", "usage"),
        ("--exec --cpus x x", "usage"),
        ("--exec", "usage"),
        ("--exec --name Web x", "usage"),
        ("--exec -e =x x", "usage"),
        ("--exec -w srv x", "usage"),
        ("--exec --stop-timeout 25h x", "bad_spec"),
        ("--exec --stop-signal NONE x", "bad_spec"),
        ("--exec --ulimit nofile=2:1 x", "bad_spec"),
        ("--exec --rootfs /r x", "usage"),
        ("--exec -v /a:/b x", "bad_spec"),
        ("--rootfs r x", "usage"),
        ("--rootfs /r --network host -p 80 x", "bad_spec"),
    ];
    for (words, code) in cases {
        assert_eq!(read(words).expect_err(words).code, code, "{words}");
    }
}

#[test]
fn ports_without_a_bridge_are_refused_in_plain_words() {
    for network in ["host", "none"] {
        let words = format!("--rootfs /r --network {network} -p 80 x");
        let told = read(&words).expect_err("refused");
        assert!(told.why.concat().contains(&format!("--network {network}")), "{told:?}");
        assert!(told.hint.is_some_and(|hint| hint.contains("leave out -p")));
    }
}
