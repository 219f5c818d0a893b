//! Programs beside a task's own: how they start, end, and are ended.

use runtime::{ControlError, End, Exec, ExecError, Piece, StartFault};

use crate::image::many_ids;
use crate::site::{IDLE, Site, TASK, exec, shell};
use crate::stage::{id, lives, until};

#[tokio::test]
async fn what_it_writes_and_its_exit_code_come_back() {
    for site in Site::all().await {
        let told = site.sh("echo out; echo err >&2; exit 7").await;
        assert_eq!((told.out.as_str(), told.err.as_str()), ("out\n", "err\n"));
        assert_eq!(told.end, End::Exited { code: 7 });
        assert_eq!(site.sh("kill -TERM $$").await.end, End::Signalled { signal: 15 });
        // It is no part of the task's log.
        assert!(!site.stage.says(TASK, "up").await.contains("out"));
    }
}

#[tokio::test]
async fn one_that_cannot_start_says_why_and_which_kind_it_is() {
    for site in Site::all().await {
        for (exec, wanted) in [
            (exec(["no-such-program"]), StartFault::NotFound),
            (exec(["/etc"]), StartFault::NotExecutable),
            (Exec { directory: Some("/no/such".into()), ..exec(["true"]) }, StartFault::Directory),
            (Exec { user: Some("nobody-here".into()), ..exec(["true"]) }, StartFault::User),
        ] {
            let told = site.run(exec).await;
            let End::NotStarted { fault, reason } = told.end else { panic!("{told:?}") };
            assert_eq!(fault, wanted, "{reason}");
            assert!(!reason.is_empty());
        }
    }
}

#[tokio::test]
async fn it_has_the_tasks_variables_and_directory_and_those_given() {
    for site in Site::all().await {
        let text = "echo $OF/$MORE/$PWD";
        let env = [("MORE".to_owned(), "more".to_owned())].into();
        let told = site.run(Exec { env, ..shell(text) }).await;
        let place = if site.image.is_some() {
            "/home".to_owned()
        } else {
            site.stage.file(TASK, "scratch").canonicalize().expect("a path").display().to_string()
        };
        assert_eq!(told.out, format!("the task/more/{place}\n"));
        let env = [("OF".to_owned(), "mine".to_owned())].into();
        let told = site.run(Exec { env, directory: Some("/tmp".into()), ..shell(text) }).await;
        assert_eq!(told.out, "mine///tmp\n");
    }
}

#[tokio::test]
async fn a_container_is_entered_as_another_of_its_users() {
    if !many_ids() {
        return;
    }
    let Some(site) = Site::container(IDLE, |_| {}).await else { return };
    let told = site.run(Exec { user: Some("app".into()), ..shell("id; echo $HOME") }).await;
    assert_eq!(told.out, "uid=1000(app) gid=1001(app) groups=1001(app),44(video)\n/home/app\n");
    let told = site.run(Exec { user: Some("7:8".into()), ..shell("id -u; id -g") }).await;
    assert_eq!(told.out, "7\n8\n");
}

#[tokio::test]
async fn only_a_running_task_can_be_entered() {
    let mut site = Site::process("echo up; read x < /dev/null; exit 0").await;
    site.stage.end(TASK).await;
    let ended = site.open(exec(["true"])).await.expect_err("refused");
    assert!(matches!(ended, ExecError::Task(ControlError::NotRunning { .. })), "{ended:?}");
    let unknown = site.stage.runtime.exec(&id("nobody"), exec(["true"])).await;
    let unknown = unknown.expect_err("refused");
    assert!(matches!(unknown, ExecError::Task(ControlError::Unknown { .. })), "{unknown:?}");
    let end = site.stage.runtime.end(&id(TASK)).await.expect("read");
    assert_eq!(end, Some(End::Exited { code: 0 }));
}

#[tokio::test]
async fn a_paused_task_is_not_entered_and_nobody_waits() {
    for site in Site::all().await {
        match site.stage.runtime.pause(&id(TASK)).await {
            Ok(()) => {}
            Err(error) => {
                eprintln!("SKIPPED: nothing can be paused here: {error}");
                return;
            }
        }
        let paused = site.open(exec(["true"])).await.expect_err("refused");
        assert!(paused.to_string().contains("paused"), "{paused}");
        site.stage.runtime.resume(&id(TASK)).await.expect("resumed");
        assert_eq!(site.sh("exit 3").await.end, End::Exited { code: 3 });
    }
}

/// The host's number of a process that says that it is there.
async fn found(site: &Site, marker: &str) -> i32 {
    let mut pid = None;
    until("it shows", || {
        pid = of_command(marker);
        pid.is_some()
    })
    .await;
    let rows = site.stage.runtime.processes(&id(TASK)).await.expect("listed");
    let pid = pid.expect("a number");
    let is_row = rows.iter().any(|row| row.pid == pid);
    assert!(is_row || !site.is_told_apart(), "{pid} is not in {rows:?}");
    assert_eq!(rows[0].pid.unsigned_abs(), site.pid);
    pid
}

fn of_command(marker: &str) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut pids = pids.filter(|pid| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text == format!("sleep\0{marker}\0").into_bytes()
    });
    pids.next()
}

#[tokio::test]
async fn who_leaves_takes_the_program_along_even_one_that_ignores_it() {
    for (at, site) in Site::all().await.into_iter().enumerate() {
        for (trap, name) in [("", 1), ("trap '' HUP;", 2)] {
            let marker = format!("31{at}{name}{}", std::process::id());
            let session = site.begin(shell(&format!("{trap} sleep {marker} & wait"))).await;
            let pid = found(&site, &marker).await;
            // Either half is enough.
            if name == 1 {
                drop(session.input);
            } else {
                drop(session.output);
            }
            until("it is gone", || !lives(pid)).await;
            assert!(lives(site.pid.cast_signed()), "the task itself goes on");
        }
    }
}

#[tokio::test]
async fn the_tasks_end_is_the_programs_end() {
    for (at, mut site) in Site::all().await.into_iter().enumerate() {
        let marker = format!("32{at}{}", std::process::id());
        let mut session = site.begin(exec(["sleep", &marker])).await;
        let pid = found(&site, &marker).await;
        site.stage.runtime.signal(&id(TASK), 9, runtime::Recipient::Main).await.expect("killed");
        site.stage.end(TASK).await;
        let piece = session.output.next().await;
        assert_eq!(piece, Some(Piece::Ended(End::Signalled { signal: 9 })));
        assert!(!lives(pid));
    }
}

#[tokio::test]
async fn many_at_once_disturb_nobody() {
    for site in Site::all().await {
        let all: Vec<_> = futures(&site, 24).await;
        assert!(all.iter().enumerate().all(|(at, out)| out == &format!("{at}\n")), "{all:?}");
        assert!(lives(site.pid.cast_signed()));
    }
}

async fn futures(site: &Site, count: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for at in 0..count {
        sessions.push(site.begin(shell(&format!("sleep 0.05; echo {at}"))).await);
    }
    let mut told = Vec::new();
    for session in sessions {
        told.push(crate::site::collect(session).await.out);
    }
    told
}
