//! How long a task takes that does nothing. Not a test: it has no opinion.
//!
//! `cargo test --release -p runtime -- --ignored --nocapture speed`

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runtime::{Launch, LogRecord, LogRequest};

use crate::stage::{Stage, id};

const TASKS: u32 = 300;
const AT_ONCE: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_true() {
    let mut stage = Stage::set().await;
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for n in 0..TASKS {
        let name = format!("one-{n}");
        let before = Instant::now();
        stage.launch(Launch::new(id(&name), ["/bin/true"])).await.expect("started");
        started.push(before.elapsed());
        stage.end(&name).await;
        ended.push(before.elapsed());
    }
    println!(
        "one at a time: launch returns {:?}, end is told {:?}",
        median(started),
        median(ended)
    );

    let before = Instant::now();
    let mut work = tokio::task::JoinSet::new();
    for lane in 0..AT_ONCE {
        let runtime = stage.runtime.clone();
        work.spawn(async move {
            for n in 0..TASKS {
                let launch = Launch::new(id(&format!("many-{lane}-{n}")), ["/bin/true"]);
                runtime.launch(launch).await.expect("started");
            }
        });
    }
    for lane in 0..AT_ONCE {
        for n in 0..TASKS {
            stage.end(&format!("many-{lane}-{n}")).await;
        }
    }
    let rate = f64::from(TASKS * AT_ONCE) / before.elapsed().as_secs_f64();
    println!("{AT_ONCE} at once: {rate:.0} tasks a second");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_a_line() {
    let mut stage = Stage::set().await;
    stage.start("a", "for n in $(seq 200); do echo $n; sleep 0.01; done").await;
    let request = LogRequest { follow: true, tail: None };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    let mut late = Vec::new();
    while let Some(record) = reader.next().await.expect("read") {
        let LogRecord::Output { unix_ns, .. } = record else { panic!("{record:?}") };
        let read = UNIX_EPOCH + Duration::from_nanos(unix_ns);
        late.push(SystemTime::now().duration_since(read).unwrap_or_default());
    }
    stage.end("a").await;
    println!("a line is followed {:?} after the supervisor read it", median(late));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
