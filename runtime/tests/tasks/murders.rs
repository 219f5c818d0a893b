//! Keeper, supervisors and agent are killed at whatever moment, over many seeds, and
//! judges look at what is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime::{End, Event, FoundState, LaunchError};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{PATIENCE, Stage, lives, script, until};

/// `STARLING_SEEDS=1000..2000` runs others, or more.
const SEEDS: std::ops::Range<u64> = 0..40;
const TASKS: u64 = 6;

/// Numbers that look random: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Kills something of the runtime, or nothing.
fn murder(stage: &Stage, dice: &mut Dice) {
    let (keeper, working, waiting) = (stage.keeper(), stage.supervisors(), stage.waiting());
    let mut pick = |from: &[i32]| {
        let at = usize::try_from(dice.below(from.len().max(1) as u64)).expect("small");
        from.get(at).copied()
    };
    let victim = match pick(&[0, 1, 1, 2]) {
        Some(0) => keeper,
        Some(1) => pick(&working),
        _ => pick(&waiting),
    };
    if let Some(pid) = victim.and_then(Pid::from_raw) {
        // It may have gone by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Every process that carries this mark in its environment.
fn marked(mark: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        lives(*pid) && text.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    pids.filter(has).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_every_end_is_told_once_and_nothing_is_left() {
    let wanted = std::env::var("STARLING_SEEDS").ok();
    let range = wanted.as_deref().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in range.unwrap_or(SEEDS) {
        one_seed(seed).await;
    }
}

async fn one_seed(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut stage = Stage::set().await;
    let mark = format!("{}-{seed}", stage.path().display());
    // What others left whose directory had the number that ours has now.
    let strangers = stage.groups();
    let mut launches = tokio::task::JoinSet::new();
    for n in 0..TASKS {
        let runtime = stage.runtime.clone();
        // Some end at once, some have children and stay, some flee.
        let text =
            ["exit 3", "sleep 600 & wait", "setsid sleep 600 & sleep 600", "sleep 0.005; exit 3"];
        let text = text[usize::try_from(dice.below(4)).expect("small")];
        let mut launch = script(&format!("t{n}"), text);
        launch.env.insert("MARK".to_owned(), mark.clone());
        launches.spawn(async move {
            let id = launch.id.clone();
            (id, runtime.launch(launch).await)
        });
    }
    let mut ends = BTreeMap::new();
    let mut refused = BTreeMap::new();
    let mut murders = 1 + dice.below(3);
    let mut next = Instant::now() + Duration::from_micros(dice.below(6_000));
    let agent_dies = dice.below(3) == 0;
    let mut expected = TASKS;
    let mut running = std::collections::BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while expected > (ends.len() + refused.len() + running.len()) as u64 || murders > 0 {
        assert!(Instant::now() < deadline, "seed {seed}: {ends:?} {refused:?} {running:?}");
        let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
        tokio::select! {
            Some(launched) = launches.join_next() => {
                match launched.expect("joined") {
                    (_, Ok(_)) => {}
                    (id, Err(error @ (LaunchError::NotStarted { .. } | LaunchError::Lost { .. }))) => {
                        assert!(refused.insert(id, error).is_none());
                    }
                    (id, Err(error)) => panic!("seed {seed}: {id}: {error:?}"),
                }
            }
            event = stage.any_event() => match event {
                Event::Started { id, .. } => { running.insert(id); }
                Event::Ended { id, end } => {
                    assert!(running.remove(&id), "seed {seed}: {id} ended, but never started");
                    let before = ends.insert(id, end);
                    assert_eq!(before, None, "seed {seed}: told twice");
                }
            },
            () = tokio::time::sleep(wait) => {}
        }
        if murders > 0 && Instant::now() >= next {
            murder(&stage, &mut dice);
            murders -= 1;
            next = Instant::now() + Duration::from_micros(dice.below(20_000));
        }
    }
    expected = running.len() as u64;
    while launches.join_next().await.is_some() {}
    if agent_dies {
        let dir = stage.close();
        let (again, found) = Stage::reopen(dir).await;
        stage = again;
        for found in found {
            if let FoundState::Ended(end) = found.state {
                if running.remove(&found.id) {
                    ends.insert(found.id, end);
                    expected -= 1;
                } else if let Some(told) = ends.get(&found.id) {
                    assert_eq!(told, &end, "seed {seed}: {} ended otherwise", found.id);
                }
            } else {
                assert!(running.contains(&found.id), "seed {seed}: {} runs", found.id);
            }
        }
    }
    for id in running.clone() {
        // It may be ending already.
        let _ = stage.runtime.stop(&id, Duration::from_millis(20)).await;
    }
    while expected > 0 {
        let (id, end) = stage.any_end().await;
        assert!(running.remove(&id), "seed {seed}: {id} was told twice");
        ends.insert(id, end);
        expected -= 1;
    }
    judge(stage, seed, &mark, &ends, &strangers).await;
}

async fn judge(
    stage: Stage,
    seed: u64,
    mark: &str,
    ends: &BTreeMap<runtime::TaskId, End>,
    strangers: &[PathBuf],
) {
    for (id, end) in ends {
        let sound = match end {
            End::Exited { code } => *code == 3,
            End::Signalled { signal } => [9, 15].contains(signal),
            End::Lost { .. } => true,
            End::NotStarted { .. } | End::OutOfMemory | End::Expired => false,
        };
        assert!(sound, "seed {seed}: {id} ended with {end:?}");
    }
    let mark = format!("MARK={mark}");
    until(&format!("seed {seed}: no process is left"), || marked(&mark).is_empty()).await;
    stage.runtime.stop_keeper();
    let gone =
        || stage.keeper().is_none() && stage.waiting().is_empty() && stage.supervisors().is_empty();
    until(&format!("seed {seed}: keeper and supervisors are gone"), gone).await;
    // What dead ones could not tidy up, the next agent does.
    let (stage, found) = Stage::reopen(stage.close()).await;
    let mut groups = stage.groups();
    groups.retain(|group| !strangers.contains(group));
    assert_eq!(groups, [""; 0].map(PathBuf::from), "seed {seed}");
    let names = fs::read_dir(stage.path().join("tasks")).expect("listed").count();
    assert_eq!(names, found.len(), "seed {seed}: something unfinished is left");
}
