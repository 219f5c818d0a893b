//! What entered a task is gone with it, wherever it hides and whoever does not read.

use std::collections::BTreeSet;

use runtime::{End, Recipient};

use crate::site::{IDLE, Site, TASK, shell};
use crate::stage::{Stage, id, lives, until};

/// How a program inside may be when its task ends, as a script that says `sleep MARKER`
/// for what must be gone. Its output is not read.
const WAYS: [&str; 5] = [
    "exec sleep MARKER",
    "setsid sleep MARKER & wait",
    // Nobody's child any more, with closed streams.
    "(setsid sleep MARKER </dev/null >/dev/null 2>&1 &) ; exec sleep 600",
    // More than anybody takes who does not read.
    "trap '' HUP TERM; (setsid sleep MARKER &) ; exec yes",
    // It has ended, and what it said is not read.
    "(setsid sleep MARKER &) ; yes | head -c 8000000; exit 0",
];

/// The processes that are a `sleep` of this length.
fn sleepers(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let wanted = format!("sleep\0{marker}\0").into_bytes();
    let is_it = |pid: &i32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text == wanted && lives(*pid)
    };
    pids.filter(is_it).collect()
}

#[tokio::test]
async fn nothing_that_entered_a_task_runs_on_after_it() {
    for (at, way) in WAYS.into_iter().enumerate() {
        for (kind, mut site) in Site::all().await.into_iter().enumerate() {
            let marker = format!("4{at}{kind}{}", std::process::id());
            let session = site.begin(shell(&way.replace("MARKER", &marker))).await;
            until("it shows", || !sleepers(&marker).is_empty()).await;
            site.stage.runtime.signal(&id(TASK), 9, Recipient::Main).await.expect("killed");
            assert_eq!(site.stage.end(TASK).await, End::Signalled { signal: 9 }, "{way}");
            if site.is_told_apart() {
                assert!(sleepers(&marker).is_empty(), "{way}");
            }
            until(&format!("{way} is gone"), || sleepers(&marker).is_empty()).await;
            drop(session);
        }
    }
}

/// Who ran a task, by its claim.
fn supervisor(stage: &Stage, task: &str) -> String {
    let state = stage.state(task);
    let (_, rest) = state.split_once("\"supervisor\":{\"pid\":").expect("a supervisor");
    rest.split(',').next().expect("a number").to_owned()
}

#[tokio::test]
async fn no_other_task_gets_the_groups_of_one_that_was_entered() {
    let mut site = Site::process(IDLE).await;
    let mut entered = BTreeSet::new();
    for n in 0..8 {
        let name = format!("{TASK}-{n}");
        site.stage.start(&name, IDLE).await;
        site.stage.says(&name, "up").await;
        let marker = format!("49{n}{}", std::process::id());
        let daemon = shell(&format!("(setsid sleep {marker} &) ; exec yes"));
        let session = site.stage.runtime.exec(&id(&name), daemon).await.expect("a session");
        until("it shows", || !sleepers(&marker).is_empty()).await;
        site.stage.runtime.signal(&id(&name), 9, Recipient::Main).await.expect("killed");
        site.stage.end(&name).await;
        entered.insert(supervisor(&site.stage, &name));
        for n in 0..8 {
            let name = format!("{name}-{n}");
            site.stage.start(&name, "true").await;
            assert_eq!(site.stage.end(&name).await, End::Exited { code: 0 });
            let of = supervisor(&site.stage, &name);
            assert!(!entered.contains(&of), "{of} had a task that was entered");
        }
        drop(session);
    }
}
