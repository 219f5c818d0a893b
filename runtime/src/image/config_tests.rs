//! Configs as Docker, BuildKit and Podman write them, and as nobody should.

use super::*;

const LAYER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn whole(call: &str) -> String {
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{call},
            "rootfs":{{"type":"layers","diff_ids":["{LAYER}"]}}}}"#
    )
}

fn read(call: &str) -> ImageConfig {
    ImageConfig::parse(whole(call).as_bytes()).expect("a config")
}

fn refused(text: &str) -> String {
    ImageConfig::parse(text.as_bytes()).expect_err(text).to_string()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn all_that_docker_writes_is_read() {
    let config = ImageConfig::parse(
        br#"{"architecture":"arm","variant":"v7","os":"linux","created":"2024-05-01T10:00:00.5Z",
            "author":"x","docker_version":"20.10","container":"c","id":"i","parent":"p",
            "config":{"Hostname":"","Domainname":"","User":"101:102","AttachStdin":false,
              "ExposedPorts":{"80/tcp":{},"443/tcp":{}},"Tty":false,
              "Env":["PATH=/bin","A=1","A=2=3"],"Cmd":["nginx","-g","daemon off;"],
              "Healthcheck":{"Test":["CMD-SHELL","curl x"],"Interval":30000000000,"Retries":3},
              "Image":"","Volumes":{"/data":{}},"WorkingDir":"/srv","Entrypoint":["/e"],
              "OnBuild":null,"Labels":{"a":"b"},"StopSignal":"SIGQUIT","StopTimeout":10,
              "Shell":null,"ArgsEscaped":true},
            "container_config":{"Cmd":["/bin/sh","-c","x"]},
            "history":[{"created":"x","created_by":"y","empty_layer":true}],
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
    )
    .expect("a config");
    let expected = ImageConfig {
        os: "linux".to_owned(),
        architecture: "arm".to_owned(),
        variant: "v7".to_owned(),
        created: Some("2024-05-01T10:00:00.5Z".to_owned()),
        env: vec![("PATH".to_owned(), "/bin".to_owned()), ("A".to_owned(), "2=3".to_owned())],
        entrypoint: words(&["/e"]),
        cmd: words(&["nginx", "-g", "daemon off;"]),
        user: "101:102".to_owned(),
        directory: "/srv".to_owned(),
        stop_signal: Some("SIGQUIT".to_owned()),
        ports: words(&["443/tcp", "80/tcp"]),
        volumes: words(&["/data"]),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        health: Some(HealthCheck {
            test: words(&["CMD-SHELL", "curl x"]),
            interval_ns: 30_000_000_000,
            retries: 3,
            ..HealthCheck::default()
        }),
        layers: vec![LAYER.parse().expect("a digest")],
    };
    assert_eq!(config, expected);
    assert_eq!(config.platform(), "linux/arm/v7");
}

#[test]
fn what_is_null_or_missing_is_the_default() {
    let bare = ImageConfig {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        layers: vec![LAYER.parse().expect("a digest")],
        ..ImageConfig::default()
    };
    assert_eq!(read("{}"), bare);
    assert_eq!(read("null"), bare);
    let nulls = r#"{"Env":null,"Cmd":null,"Entrypoint":null,"User":null,"WorkingDir":null,
        "ExposedPorts":null,"Volumes":null,"Labels":null,"StopSignal":"","Healthcheck":null}"#;
    assert_eq!(read(nulls), bare);
    let no_platform = ImageConfig::parse(br#"{"rootfs":{"diff_ids":null}}"#).expect("none");
    assert_eq!(no_platform.platform(), "linux/");
    // Go's zero, and what would move a terminal's cursor.
    for created in ["0001-01-01T00:00:00Z", "", "\\u001b[2J", &"1".repeat(50)] {
        let text = format!(r#"{{"created":"{created}","rootfs":{{}}}}"#);
        assert_eq!(ImageConfig::parse(text.as_bytes()).expect("read").created, None, "{created}");
    }
}

#[test]
fn env_is_taken_as_docker_takes_it() {
    let env = read(r#"{"Env":["A=1","B","C=3","A","C=4","=x","","D=","B=2"]}"#).env;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(env, [pair("C", "4"), pair("D", ""), pair("B", "2")]);
    let again = read(r#"{"Env":["A=1","A","A=2"]}"#).env;
    assert_eq!(again, [pair("A", "2")]);
}

#[test]
fn as_many_names_as_fit_take_no_time_that_grows_with_their_square() {
    let names: Vec<String> = (0..300_000).map(|number| format!("\"N{number}=\"")).collect();
    let config = read(&format!("{{\"Env\":[{}]}}", names.join(",")));
    assert_eq!(config.env.len(), 300_000);
}

#[test]
fn one_string_is_a_list_of_it_and_a_shell_of_ones_own_runs_the_check() {
    let config = read(
        r#"{"Cmd":"true","Entrypoint":"/e","Shell":["/bin/bash","-c"],
            "Healthcheck":{"Test":["CMD-SHELL","a && b"]}}"#,
    );
    assert_eq!((config.cmd, config.entrypoint), (words(&["true"]), words(&["/e"])));
    let health = config.health.expect("a check");
    assert_eq!(health.test, words(&["CMD", "/bin/bash", "-c", "a && b"]));
    assert_eq!(read(r#"{"Healthcheck":{}}"#).health, None);
    assert_eq!(read(r#"{"Healthcheck":{"Test":["NONE"]}}"#).health.expect("one").test, ["NONE"]);
}

#[test]
fn users_that_cannot_be_are_left_to_the_launch() {
    for user in ["4294967296", "99999999999:-1", "a b", "root:root:root"] {
        assert_eq!(read(&format!(r#"{{"User":"{user}"}}"#)).user, user);
    }
}

#[test]
fn what_is_no_config_or_cannot_be_is_refused_with_a_reason() {
    let many = vec![format!("\"{LAYER}\""); 128].join(",");
    let rootfs = |ids: &str| format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#);
    let deep = "[".repeat(1 << 20);
    for (text, reason) in [
        (String::new(), "not the JSON"),
        ("[]".to_owned(), "not the JSON"),
        ("{}".to_owned(), "no layers"),
        (deep.clone(), "not the JSON"),
        (format!(r#"{{"config":{{"Env":{deep}"#), "not the JSON"),
        (format!(r#"{{"config":{{"Cmd":{deep}"#), "not the JSON"),
        (format!(r#"{{"history":{deep}"#), "not the JSON"),
        (r#"{"rootfs":{"type":"layers"},"rootfs":{}}"#.to_owned(), "not the JSON"),
        (r#"{"rootfs":{"type":"base"}}"#.to_owned(), "\"base\""),
        (rootfs(r#""sha512:00""#), "sha512"),
        (rootfs("1"), "not the JSON"),
        (rootfs(&many), "128 layers"),
        (whole(r#"{"Env":["A=\u0000"]}"#), "zero byte"),
        (whole(r#"{"Cmd":["\u0000"]}"#), "zero byte"),
        (whole(r#"{"WorkingDir":"/\u0000"}"#), "zero byte"),
        (whole(r#"{"Healthcheck":{"Test":["CMD","\u0000"]}}"#), "zero byte"),
        (whole(r#"{"Healthcheck":{"Test":["CMD","x"],"Interval":-1}}"#), "negative"),
        (whole(r#"{"Healthcheck":{"Test":["CMD","x"],"Retries":4294967296}}"#), "retries"),
        (whole(r#"{"Healthcheck":{"Test":["WHAT","x"]}}"#), "WHAT"),
        (r#"{"os":"\u001b[2J","rootfs":{}}"#.to_owned(), r"\u{1b}"),
        (format!(r#"{{"rootfs":{{}},"x":"{}"}}"#, "y".repeat(9 << 20)), "are allowed"),
    ] {
        let cut: String = text.chars().take(60).collect();
        let error = ImageConfig::parse(text.as_bytes()).expect_err(&cut).to_string();
        assert!(error.contains(reason), "{cut}: {error}");
        assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{error}");
    }
    let long = format!(r#"{{"rootfs":"{}"}}"#, "\\u001b".repeat(1000));
    let error = refused(&long);
    assert!(error.len() < 2000 && !error.contains('\u{1b}'), "{error}");
}
