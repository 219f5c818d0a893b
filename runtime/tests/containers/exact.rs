//! Containers by another's description: they are as it says, and no more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runtime::{
    Access, CapabilitySet, Exact, FirstHold, Hold, Ids, Launch, LogStream, Mounted, NamespaceKind,
    Node, NodeKind, Place, PlainMount, PlainUser, Powers, Privileges, Share, Start,
};

use crate::image::{Image, hosts_ids, told};
use crate::stage::{Stage, id, until};

/// A field, and what spoils it.
type Case = (&'static str, fn(&mut Exact));

fn exact() -> Exact {
    let new = [NamespaceKind::Mnt, NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Uts];
    let new = new.into_iter().chain([NamespaceKind::Net, NamespaceKind::Cgroup]);
    let kinds = new.map(|kind| (kind, Share::New)).collect::<BTreeMap<_, _>>();
    let mount = |target: &str, kind: &str| PlainMount {
        target: target.into(),
        what: Mounted::New { kind: kind.into(), source: Some("here".into()), options: Vec::new() },
        attributes: (0, 0),
        deep_attributes: (0, 0),
        propagation: None,
    };
    Exact {
        namespaces: kinds,
        uids: Vec::new(),
        gids: Vec::new(),
        domainname: None,
        root: Access::Write,
        propagation: None,
        mounts: vec![mount("/proc", "proc"), mount("/dev", "tmpfs")],
        nodes: Vec::new(),
        links: Vec::new(),
        hidden: Vec::new(),
        read_only: Vec::new(),
        user: PlainUser::default(),
        powers: Powers::default(),
        privileges: Privileges::Renounced,
        oom_score_adj: None,
        filter: None,
        devices: None,
        groups: Vec::new(),
        first_hold: FirstHold::None,
    }
}

/// A container over an image that runs a script, as described.
fn script(image: &Image, text: &str, change: impl FnOnce(&mut Exact)) -> Launch {
    image.script("t", text, |container| {
        let mut exact = exact();
        change(&mut exact);
        container.ids = Ids::Host;
        container.id_base = None;
        container.exact = Some(Box::new(exact));
    })
}

/// A process in a namespace of its own, gone with the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn in_its_own(name: &str, option: &str) -> (Other, String) {
    let mut command = Command::new("unshare");
    let child =
        command.args([option, "sleep", "60"]).stdin(Stdio::null()).spawn().expect("unshare");
    let file = format!("/proc/{}/ns/{name}", child.id());
    let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("a link");
    let differs = || fs::read_link(&file).is_ok_and(|theirs| theirs != ours);
    until("it is in its namespace", differs).await;
    (Other(child), file)
}

#[tokio::test]
async fn it_is_born_into_the_namespaces_that_are_named_and_its_supervisor_is_not() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for (name, option, kind) in [
        ("net", "--net", NamespaceKind::Net),
        ("uts", "--uts", NamespaceKind::Uts),
        ("ipc", "--ipc", NamespaceKind::Ipc),
    ] {
        let (_other, file) = in_its_own(name, option).await;
        let text = format!("readlink /proc/self/ns/{name}");
        let launch = script(&image, &text, |exact| {
            exact.namespaces.insert(kind, Share::Of(file.clone().into()));
        });
        let wanted = fs::read_link(&file).expect("a link");
        assert_eq!(Path::new(told(&mut stage, launch).await.trim()), wanted);
        stage.runtime.remove(&id("t")).await.expect("removed");
        let launch = script(&image, &text, |exact| {
            exact.namespaces.remove(&kind);
        });
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("a link");
        assert_eq!(Path::new(told(&mut stage, launch).await.trim()), host);
        stage.runtime.remove(&id("t")).await.expect("removed");
    }
}

#[tokio::test]
async fn nothing_of_ours_is_in_it() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = script(&image, "ls /dev | wc -l; cat /proc/self/mountinfo | wc -l", |_| {});
    assert_eq!(told(&mut stage, launch).await, "0\n3\n");
}

#[tokio::test]
async fn user_groups_mask_nodes_and_powers_are_as_described() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let text = "id -u; id -g; id -G; umask; stat -c '%t:%T %a %u' /dev/x; \
        grep -E '^(Cap|NoNew)' /proc/self/status | tr '\\t' ' '; cat /proc/self/oom_score_adj";
    let kill = "CAP_KILL".parse::<CapabilitySet>().expect("a set");
    let launch = script(&image, text, |exact| {
        exact.user = PlainUser { uid: 10, gid: 11, groups: vec![5], umask: Some(0o27) };
        let path = "/dev/x".into();
        let kind = NodeKind::Character(10, 666);
        exact.nodes = vec![Node { path, kind, mode: 0o640, uid: 7, gid: 8 }];
        exact.powers = Powers {
            bounding: kill,
            permitted: kill,
            effective: kill,
            inheritable: kill,
            ambient: kill,
        };
        exact.privileges = Privileges::Gainable;
        exact.oom_score_adj = Some(100);
    });
    let wanted = "10\n11\n11 5\n0027\na:29a 640 7\n\
        CapInh: 0000000000000020\nCapPrm: 0000000000000020\nCapEff: 0000000000000020\n\
        CapBnd: 0000000000000020\nCapAmb: 0000000000000020\nNoNewPrivs: 0\n100\n";
    assert_eq!(told(&mut stage, launch).await, wanted);
}

#[tokio::test]
async fn it_is_held_before_its_root_too_if_that_is_wanted() {
    if !hosts_ids() {
        return;
    }
    let stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = script(&image, "echo began", |exact| exact.first_hold = FirstHold::BeforeRoot);
    let launch = Launch { start: Start::Held, ..launch };
    let pid = stage.launch(launch).await.expect("held");
    // A directory of the host's is in its root as long as that is the host's.
    let seen = Path::new(&format!("/proc/{pid}/root"))
        .join(stage.path().strip_prefix("/").expect("absolute"));
    assert!(seen.exists());
    assert_eq!(stage.runtime.start(&id("t")).await.expect("told"), Hold::Held);
    assert!(!seen.exists());
    assert_eq!(stage.runtime.start(&id("t")).await.expect("told"), Hold::Released);
    assert_eq!(stage.text("t", LogStream::Stdout).await, "began\n");
}

#[tokio::test]
async fn what_it_cannot_be_is_refused_by_its_field() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let cases: [Case; 4] = [
        ("namespaces", |exact| drop(exact.namespaces.remove(&NamespaceKind::Mnt))),
        ("namespaces", |exact| drop(exact.namespaces.insert(NamespaceKind::User, Share::New))),
        ("hidden[0]", |exact| exact.hidden = vec!["x".into()]),
        ("nodes[0]", |exact| {
            let path = "/../x".into();
            exact.nodes = vec![Node { path, kind: NodeKind::Pipe, mode: 0, uid: 0, gid: 0 }];
        }),
    ];
    for (at, (field, change)) in cases.into_iter().enumerate() {
        let mut launch = script(&image, "true", change);
        launch.id = id(&format!("t{at}"));
        let Place::Container(_) = &launch.place else { panic!("a container") };
        let reason = crate::image::refused(&mut stage, launch).await;
        assert!(reason.contains(&format!("container.exact.{field}")), "{reason}");
    }
}
