//! How a container's program is called: what its job says, over what its image says.
//!
//! Docker's rules, because every image was made for them. Pure.
//!
//! Must never: give a task rights. An image says what runs in it, where and as whom of its
//! own users; what that may do is the job's and the node's to say.

use std::path::PathBuf;

use gossip_core::container::ContainerSpec;
use gossip_core::spec::{TaskSpec, signal_number};
use runtime::image::ImageConfig;

/// What is run, and how it is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// The program and its arguments; empty if neither job nor image knows one.
    pub(super) argv: Vec<String>,
    /// What the image sets; the job's own come over it.
    pub(super) env: Vec<(String, String)>,
    /// The working directory; `/` where none is said.
    pub(super) directory: Option<PathBuf>,
    /// `USER[:GROUP]`; root where none is said.
    pub(super) user: Option<String>,
    /// By number; SIGTERM where none is said.
    pub(super) stop_signal: Option<i32>,
}

/// What a job and its image say together. A directory that an image calls a volume is one of
/// the container's own: what is written there goes with its other changes when it ends, as in
/// a volume without a name that `docker run --rm` makes.
pub(super) fn call(task: &TaskSpec, spec: &ContainerSpec, image: &ImageConfig) -> Call {
    let or = |said: &Option<String>, images: &String| {
        said.clone().or_else(|| Some(images.clone()).filter(|text| !text.is_empty()))
    };
    Call {
        argv: argv(spec, image),
        env: image.env.clone(),
        directory: or(&spec.directory, &image.directory).map(absolute),
        user: or(&spec.user, &image.user),
        // A signal that only some systems know is none that a task could be stopped with.
        stop_signal: match &task.stop_signal {
            Some(signal) => signal_number(signal),
            None => image.stop_signal.as_deref().and_then(signal_number),
        },
    }
}

/// The entrypoint and what stands behind it. A job's entrypoint takes the image's command
/// away too: that was made for the image's own.
fn argv(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let (entrypoint, cmd): (&[String], &[String]) = match &spec.entrypoint {
        Some(words) if spec.has_entrypoint() => (words, &[]),
        Some(_none) => (&[], &[]),
        None => (&image.entrypoint, &image.cmd),
    };
    let cmd = if spec.argv.is_empty() { cmd } else { &spec.argv };
    entrypoint.iter().chain(cmd).cloned().collect()
}

/// Builders write it whole; one that did not meant it from the root.
fn absolute(directory: String) -> PathBuf {
    if directory.starts_with('/') { directory.into() } else { format!("/{directory}").into() }
}

#[cfg(test)]
mod tests {
    use gossip_core::container::{ImageSpec, RootSpec};
    use gossip_core::spec::Program;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve 80"),
            env: vec![("PATH".into(), "/opt/bin".into()), ("A".into(), "image".into())],
            directory: "/srv".into(),
            user: "app:web".into(),
            stop_signal: Some("SIGQUIT".into()),
            ..ImageConfig::default()
        }
    }

    fn of(change: impl FnOnce(&mut ContainerSpec), image: &ImageConfig) -> Call {
        let root = RootSpec::Image(ImageSpec::named("x".to_owned()));
        let mut spec = ContainerSpec::new(root, Vec::new());
        change(&mut spec);
        let task = TaskSpec::of(Program::Container(Box::new(spec.clone())));
        call(&task, &spec, image)
    }

    #[test]
    fn entrypoint_and_command_are_put_together_as_docker_does() {
        let bare = ImageConfig { entrypoint: Vec::new(), ..image() };
        let mute = ImageConfig { cmd: Vec::new(), ..image() };
        let none = ImageConfig::default();
        // The image's, the job's entrypoint, the job's argv, what runs.
        let cases: [(&ImageConfig, Option<&str>, &str, &str); 13] = [
            (&image(), None, "", "/entry -x serve 80"),
            (&image(), None, "sh -c y", "/entry -x sh -c y"),
            (&image(), Some("sh"), "", "sh"),
            (&image(), Some("sh"), "-c y", "sh -c y"),
            (&image(), Some(""), "", ""),
            (&image(), Some(""), "ls", "ls"),
            (&bare, None, "", "serve 80"),
            (&bare, None, "ls /", "ls /"),
            (&bare, Some("sh"), "", "sh"),
            (&mute, None, "", "/entry -x"),
            (&mute, None, "a", "/entry -x a"),
            (&none, None, "", ""),
            (&none, None, "ls", "ls"),
        ];
        for (image, entrypoint, argv, runs) in cases {
            let call = of(
                |spec| {
                    spec.entrypoint = entrypoint.map(words);
                    spec.argv = words(argv);
                },
                image,
            );
            assert_eq!(call.argv, words(runs), "{entrypoint:?} {argv:?}");
        }
        let empty_word = of(|spec| spec.entrypoint = Some(vec![String::new()]), &image());
        assert_eq!(empty_word.argv, Vec::<String>::new(), "docker run --entrypoint ''");
    }

    #[test]
    fn the_job_is_heard_before_its_image() {
        let plain = of(|_| {}, &image());
        assert_eq!(plain.user.as_deref(), Some("app:web"));
        assert_eq!(plain.directory, Some("/srv".into()));
        assert_eq!(plain.stop_signal, Some(3));
        let said = of(
            |spec| {
                spec.user = Some("7".into());
                spec.directory = Some("/tmp".into());
            },
            &image(),
        );
        assert_eq!((said.user.as_deref(), said.directory), (Some("7"), Some("/tmp".into())));
        let silent = of(|_| {}, &ImageConfig::default());
        assert_eq!(silent, Call::default());
        let odd = ImageConfig {
            stop_signal: Some("SIGRTMIN+3".into()),
            directory: "app".into(),
            ..ImageConfig::default()
        };
        let odd = of(|_| {}, &odd);
        assert_eq!((odd.stop_signal, odd.directory), (None, Some("/app".into())));
    }

    #[tokio::test]
    async fn what_an_image_says_of_its_user_is_checked_as_what_a_job_says() {
        use crate::agent::request::{self, Here};
        let root = RootSpec::Image(ImageSpec::named("x".to_owned()));
        let task = TaskSpec::of(Program::Container(Box::new(ContainerSpec::new(root, Vec::new()))));
        let kind = gossip_core::spec::JobKind::Batch;
        let spec = gossip_core::spec::JobSpec::of_task("x".to_owned(), kind, 1, task.clone());
        let launch = request::trial(&spec, &spec.groups[0], &task);
        let here = Here::new("a".to_owned(), std::path::Path::new("/srv/data"), false);
        let of = |user: &str, cmd: &str| {
            let image = ImageConfig { user: user.into(), cmd: words(cmd), ..Default::default() };
            let (launch, here) = (launch.clone(), here.clone());
            async move {
                let id = "t".parse().expect("an id");
                let made = request::of(&launch, &here, id, &image).await;
                made.map_err(|flaw| (flaw.word.flag, flaw.what))
            }
        };
        for user in ["4294967296", "65536", "-1", "0:4294967296", "a b", ":"] {
            let (flag, what) = of(user, "true").await.expect_err(user);
            assert_eq!(flag, "--user", "{user}: {what}");
        }
        assert!(of("", "true").await.is_ok() && of("7:8", "true").await.is_ok());
        assert_eq!(of("", "").await.expect_err("no command").0, "the command");
    }
}
