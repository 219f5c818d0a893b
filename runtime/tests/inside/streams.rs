//! Standard streams and terminals of a program inside.

use std::time::Duration;

use runtime::{End, Exec, Piece, Session, Streams, Typed};
use tokio::time::timeout;

use crate::site::{Site, collect, exec, gather, shell};
use crate::stage::PATIENCE;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn five_megabytes_go_in_and_come_back_the_same() {
    for site in Site::all().await {
        let sent = noise(5 << 20);
        let program = Exec { streams: Streams::Input, ..exec(["cat"]) };
        let Session { input, output } = site.begin(program).await;
        let feed = async {
            for piece in sent.chunks(100_000) {
                input.send(Typed::Bytes(piece.to_vec())).await.expect("taken");
            }
            input.send(Typed::End).await.expect("taken");
        };
        let session = Session { input: input.clone(), output };
        let ((), (back, told)) = tokio::join!(feed, gather(session));
        assert_eq!(told.end, End::Exited { code: 0 });
        assert!(back == sent, "{} bytes came back", back.len());
    }
}

#[tokio::test]
async fn twenty_megabytes_come_out_whole_before_the_end_is_told() {
    for site in Site::all().await {
        let program = shell("head -c 20971520 /dev/zero; echo last >&2; exit 4");
        let (out, told) = gather(site.begin(program).await).await;
        assert_eq!((out.len(), told.err.as_str()), (20 << 20, "last\n"));
        assert_eq!(told.end, End::Exited { code: 4 });
    }
}

#[tokio::test]
async fn who_reads_slowly_holds_the_program_up_and_loses_nothing() {
    for site in Site::all().await {
        let program = shell("head -c 8000000 /dev/zero; touch done; sleep 0.2; rm done");
        let session = site.begin(program).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Sixteen pieces, a socket and a pipe hold less than that.
        assert!(site.sh("ls done").await.end.exit_code() != 0, "it was not held up");
        let (out, _) = gather(session).await;
        assert_eq!(out.len(), 8_000_000);
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_does_not_keep_the_end_from_being_told() {
    for site in Site::all().await {
        let told = timeout(PATIENCE, site.sh("sleep 600 & echo left")).await;
        let told = told.expect("in time");
        assert_eq!((told.out.as_str(), told.end), ("left\n", End::Exited { code: 0 }));
        let told = timeout(PATIENCE, site.sh("yes & true")).await;
        assert_eq!(told.expect("in time").end, End::Exited { code: 0 });
    }
}

/// Reads until a word was said.
async fn until_said(session: &mut Session, word: &str) -> String {
    let mut said = String::new();
    while !said.contains(word) {
        match timeout(PATIENCE, session.output.next()).await.expect("in time") {
            Some(Piece::Stdout(bytes)) => said += &String::from_utf8_lossy(&bytes),
            other => panic!("{other:?} and no {word:?} in {said:?}"),
        }
    }
    said
}

async fn type_in(session: &Session, text: &str) {
    session.input.send(Typed::Bytes(text.into())).await.expect("taken");
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes_and_keys_that_interrupt() {
    for site in Site::all().await {
        let streams = Streams::Terminal { rows: 33, columns: 77 };
        let text = "trap 'echo int' INT; trap 'stty size' WINCH; stty size; tty; \
            while [ \"$line\" != quit ]; do read line; echo got $line; done; exit 5";
        let mut session = site.begin(Exec { streams, ..shell(text) }).await;
        let said = until_said(&mut session, "/dev/pts/").await;
        assert!(said.starts_with("33 77\r\n"), "{said:?}");
        type_in(&session, "one\n").await;
        until_said(&mut session, "got one").await;
        session.input.send(Typed::Resize { rows: 10, columns: 20 }).await.expect("taken");
        type_in(&session, "two\n").await;
        let said = until_said(&mut session, "got two").await;
        assert!(said.contains("10 20"), "{said:?}");
        type_in(&session, "\u{3}").await;
        until_said(&mut session, "int").await;
        type_in(&session, "quit\n").await;
        assert_eq!(collect(session).await.end, End::Exited { code: 5 });
    }
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_its_children() {
    for site in Site::all().await {
        let text = "trap 'exit 9' TERM; sleep 1000 & echo up; wait; exit 1";
        let mut session = site.begin(shell(text)).await;
        until_said(&mut session, "up").await;
        session.input.send(Typed::Signal(15)).await.expect("taken");
        assert_eq!(collect(session).await.end, End::Exited { code: 9 });
    }
}
