//! What a program that enters a task may do: what the task may, and no more.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use runtime::{Ids, Streams};

use crate::image::hosts_ids;
use crate::site::{IDLE, Site, TASK, exec, shell};
use crate::stage::id;

const SPACES: &str = "for n in user mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done";
const RIGHTS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status";

#[tokio::test]
async fn it_is_in_every_namespace_and_group_of_the_task_with_its_rights() {
    let text = format!("{SPACES}; {RIGHTS}; echo up; exec sleep 1000");
    for ids in [Ids::Own, Ids::Host] {
        if ids == Ids::Host && !hosts_ids() {
            continue;
        }
        let Some(site) = Site::container(&text, |it| it.ids = ids).await else { return };
        let wanted = site.stage.says(TASK, "\nup\n").await;
        let seen = site.says(&format!("{SPACES}; {RIGHTS}; echo up")).await;
        assert_eq!(seen, wanted);
        assert!(seen.contains("CapInh:\t0000000000000000"), "{seen}");
        assert!(seen.contains("NoNewPrivs:\t1") && seen.contains("Seccomp:\t2"), "{seen}");
    }
}

#[tokio::test]
async fn it_is_counted_where_the_task_is() {
    for site in Site::all().await {
        if !site.is_told_apart() {
            eprintln!("SKIPPED: no control groups for us on this machine");
            continue;
        }
        let session = site.begin(exec(["sleep", "2345"])).await;
        let rows = site.stage.runtime.processes(&id(TASK)).await.expect("listed");
        let row = rows.iter().find(|row| row.command.ends_with("sleep 2345")).expect("a row");
        let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
        assert_eq!(group(row.pid), group(site.pid.cast_signed()));
        drop(session);
    }
}

#[tokio::test]
async fn it_has_its_three_streams_open_and_nothing_else() {
    for site in Site::all().await {
        // The last is that of `ls` itself.
        assert_eq!(site.says("ls /proc/self/fd | tr '\\n' ' '").await, "0 1 2 3 ");
        let terminal = Streams::Terminal { rows: 3, columns: 4 };
        let told = site
            .run(runtime::Exec { streams: terminal, ..shell("ls /proc/self/fd | tr '\\n' ' '") })
            .await;
        assert_eq!(told.out, "0 1 2 3 ");
    }
}

#[tokio::test]
async fn no_descriptor_leads_it_out() {
    let Some(site) = Site::container(IDLE, |_| {}).await else { return };
    for number in 0..24 {
        let directory = Some(format!("/proc/self/fd/{number}").into());
        let told = site.run(runtime::Exec { directory, ..shell("pwd; ls") }).await;
        assert!(told.out.is_empty() && told.end.exit_code() != 0, "{number}: {told:?}");
    }
    let link = site.says("ln -s /proc/self/fd/7 /tmp/out && echo made").await;
    assert_eq!(link, "made\n");
    let told = site.run(runtime::Exec { directory: Some("/tmp/out".into()), ..shell("pwd") }).await;
    assert!(told.out.is_empty(), "{told:?}");
}

/// Looks at what every process that appears runs, and what it has open.
const SPY: &str = "echo up; while :; do for p in /proc/[0-9]*; do \
    readlink $p/exe $p/cwd $p/root $p/fd/* 2>/dev/null; \
    if cat $p/exe > /tmp/stolen 2>/dev/null; then stat -c %s /tmp/stolen; fi; done; done";

#[tokio::test]
async fn a_task_sees_nothing_of_who_enters_it() {
    let Some(site) = Site::container(SPY, |_| {}).await else { return };
    let size = fs::metadata(env!("CARGO_BIN_EXE_keeper-for-tests")).expect("a file").len();
    let begun = Instant::now();
    for _ in 0..40 {
        assert_eq!(site.says("echo in").await, "in\n");
    }
    eprintln!("one exec takes {:?}", begun.elapsed() / 40);
    site.stage.runtime.signal(&id(TASK), 9, runtime::Recipient::Main).await.expect("killed");
    let seen = site.stage.text(TASK, runtime::LogStream::Stdout).await;
    let seen: BTreeSet<&str> = seen.lines().collect();
    let ours = |line: &&&str| line.contains("keeper") || **line == size.to_string();
    assert_eq!(seen.iter().find(ours), None, "{seen:?}");
    assert!(seen.iter().any(|line| line.ends_with("/sleep") || line.ends_with("/sh")), "{seen:?}");
}

/// Writes into whatever runs that is no program of the container.
const OVERWRITER: &str = "echo up; while :; do for p in /proc/[0-9]*; do \
    case $(readlink $p/exe) in /bin/*) ;; *) (exec 9< $p/exe; n=0; while [ $n -lt 100 ]; \
    do echo evil > /proc/self/fd/9; n=$((n + 1)); done) ;; esac; done 2>/dev/null; done";

/// The class of CVE-2019-5736, with root that is root of the host.
#[tokio::test]
async fn what_runs_us_cannot_be_written_from_inside() {
    let program = env!("CARGO_BIN_EXE_keeper-for-tests");
    let before = fs::read(program).expect("read");
    for ids in [Ids::Own, Ids::Host] {
        if ids == Ids::Host && !hosts_ids() {
            continue;
        }
        let Some(site) = Site::container(OVERWRITER, |it| it.ids = ids).await else { return };
        site.says("printf '#!/proc/self/exe\n' > /tmp/s; chmod 755 /tmp/s").await;
        for _ in 0..40 {
            // Its interpreter is what runs it: us.
            site.run(exec(["/tmp/s"])).await;
        }
        assert!(fs::read(program).expect("read") == before, "{ids:?}: it was overwritten");
        site.says("true").await;
    }
}
