//! Payloads that take what they can get: each must be bounded, and end when told.

use std::io;
use std::time::{Duration, Instant};

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, Running, Told};

/// What a stop may take: the grace that is given, and two seconds.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);

/// How long a payload may take to say that it has begun.
const BEGUN_WITHIN: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn ask(ground: &mut Ground, kind: &str) -> io::Result<Ask> {
    Ok(Ask::probe(ground.root()?, &["bomb", kind]))
}

/// Starts it, waits until it has said something, and stops it.
fn stopped(ground: &mut Ground, ask: &Ask) -> io::Result<(Told, Vec<String>)> {
    let running: Running = match ground.start(ask)? {
        Ok(running) => running,
        Err(reason) => {
            return Ok((Told::default(), vec![format!("the payload did not run: {reason}")]));
        }
    };
    let until = Instant::now() + BEGUN_WITHIN;
    while ground.isolator().so_far(&running)?.is_empty() && Instant::now() < until {
        std::thread::sleep(LOOK_AGAIN);
    }
    let (told, took) = ground.isolator().stop(&running)?;
    let mut broken = ran(&told);
    if took > STOPPED_WITHIN && took > ground.patience(STOPPED_WITHIN)? {
        broken.push(format!("a stop took {:.1} s", took.as_secs_f64()));
    }
    Ok((told, broken))
}

fn bounded(told: &Told) -> Option<String> {
    told.value("bounded")
        .is_none()
        .then(|| format!("nothing bounds it: {:?} {}", told.lines, told.end))
}

/// Whether the kernel ended it for want of memory, as each isolator says it.
fn ran_out(told: &Told) -> bool {
    told.end.contains("OutOfMemory") || told.end.ends_with("137")
}

pub(super) fn forks(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "fork")?;
    let (told, mut broken) = stopped(ground, &ask)?;
    broken.extend(bounded(&told));
    let count = told.value("bounded").and_then(|it| it.split(' ').next()?.parse::<u32>().ok());
    if count.is_some_and(|count| count > ask.pids) {
        broken.push(format!("{count:?} processes, and {} were allowed", ask.pids));
    }
    Ok(broken)
}

pub(super) fn memory(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "memory")?;
    let told = ground.run(&ask)?;
    let mut broken = ran(&told);
    if told.lines.iter().any(|line| line == "unbounded") {
        broken.push("it got a gigabyte".to_owned());
    } else if !ran_out(&told) {
        broken.push(format!("it ended otherwise: {:?} {}", told.lines, told.end));
    }
    Ok(broken)
}

pub(super) fn descriptors(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "fds")?;
    let told = ground.run(&ask)?;
    Ok(ran(&told).into_iter().chain(bounded(&told)).collect())
}

pub(super) fn shm(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "shm")?;
    let told = ground.run(&ask)?;
    Ok(ran(&told).into_iter().chain(bounded(&told)).collect())
}

pub(super) fn inodes(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = Ask { tmpfs: vec!["/tmp".to_owned()], ..ask(ground, "inodes")? };
    let told = ground.run(&ask)?;
    // A bound by the limit on memory ends it, and says nothing.
    let is_killed = told.lines.is_empty() && told.refused.is_none() && ran_out(&told);
    if is_killed {
        Ok(Vec::new())
    } else {
        Ok(ran(&told).into_iter().chain(bounded(&told)).collect())
    }
}

pub(super) fn log(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "log")?;
    let told = ground.run(&ask)?;
    let kept: usize = told.lines.iter().map(String::len).sum();
    // Two files of eight MiB are kept.
    const KEPT_MAX: usize = 17 << 20;
    let mut broken = ran(&told);
    if kept > KEPT_MAX {
        broken.push(format!("{kept} bytes of output are kept"));
    }
    Ok(broken)
}

pub(super) fn deaf(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "deaf")?;
    Ok(stopped(ground, &ask)?.1)
}

pub(super) fn zombies(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "zombies")?;
    Ok(stopped(ground, &ask)?.1)
}

pub(super) fn daemon(ground: &mut Ground) -> io::Result<Vec<String>> {
    let ask = ask(ground, "daemon")?;
    // That nothing is left is what the canaries look at.
    Ok(ran(&ground.run(&ask)?))
}
