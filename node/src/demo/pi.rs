//! Pi by throwing points: one slice of it, and the sum of all.
//!
//! A slice prints one line, `pi-slice INDEX INSIDE POINTS`. The sum takes each
//! index once, however often it ran: a batch task may run again after a loss.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio_util::task::AbortOnDropHandle;

use crate::api::types::LogItem;
use crate::cli::client::Client;
use crate::cli::door::Door;

/// How much CPU time a slice spends.
const SLICE_CPU: Duration = Duration::from_millis(1000);

/// Points between two looks at the clock.
const POINTS_AT_ONCE: u64 = 1 << 20;

/// The largest log of a slice that is looked at.
const OUTPUT_MAX: usize = 64 * 1024;

/// Computes one slice and prints it; the hidden command behind the demo's tasks.
pub(crate) fn slice() {
    let index: u64 = std::env::var("STARLING_INDEX").ok().and_then(|i| i.parse().ok()).unwrap_or(0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index + 1);
    let (mut inside, mut points) = (0_u64, 0_u64);
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let began = spent();
    while spent().saturating_sub(began) < SLICE_CPU {
        for _ in 0..POINTS_AT_ONCE {
            let (x, y) = (coordinate(&mut state), coordinate(&mut state));
            inside += u64::from(x * x + y * y < 1 << 62);
        }
        points += POINTS_AT_ONCE;
    }
    println!("pi-slice {index} {inside} {points}");
}

/// A number below 2^31, from a splitmix generator.
fn coordinate(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 33
}

/// What the slices add up to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) pi: f64,
    pub(super) sigma: f64,
    pub(super) points: u64,
}

type Slices = Arc<Mutex<BTreeMap<u32, (u64, u64)>>>;

/// Collects slices from the array's output while it runs.
#[derive(Debug)]
pub(super) struct Sum {
    slices: Slices,
    _reader: AbortOnDropHandle<()>,
}

impl Sum {
    /// Follows a job's output through one host's door.
    pub(super) fn follow(door: Door, job: &str) -> Self {
        let slices = Slices::default();
        let (sink, path) = (slices.clone(), format!("/v1/jobs/{job}/follow"));
        let reader = tokio::spawn(async move {
            let Ok(mut lines) = Client::new(door).stream(&path).await else { return };
            while let Ok(Some(line)) = lines.next().await {
                if let Ok(LogItem::Output { data, .. }) = serde_json::from_slice(&line)
                    && let Ok(bytes) = data_encoding::BASE64.decode(data.as_bytes())
                {
                    take(&sink, &String::from_utf8_lossy(&bytes));
                }
            }
        });
        Self { slices, _reader: AbortOnDropHandle::new(reader) }
    }

    /// How many slices are known.
    pub(super) fn poll(&mut self) -> u32 {
        let known = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(known.len()).unwrap_or(u32::MAX)
    }

    /// Which of `1..=count` are not known.
    pub(super) fn missing(&self, count: u32) -> Vec<u32> {
        let known = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        (1..=count).filter(|index| !known.contains_key(index)).collect()
    }

    /// Takes a slice from text that was read otherwise.
    pub(super) fn read(&mut self, text: &str) {
        take(&self.slices, text);
    }

    /// All slices together.
    pub(super) fn result(&self) -> Option<Estimate> {
        let known = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let (inside, points) = known
            .values()
            .fold((0, 0), |sum: (u64, u64), slice| (sum.0 + slice.0, sum.1 + slice.1));
        if points == 0 {
            return None;
        }
        let share = inside as f64 / points as f64;
        let sigma = 4.0 * (share * (1.0 - share) / points as f64).sqrt();
        Some(Estimate { pi: 4.0 * share, sigma, points })
    }
}

fn take(slices: &Slices, text: &str) {
    for line in text.get(..text.len().min(OUTPUT_MAX)).unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("pi-slice") {
            continue;
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        if let (Some(index), Some(inside), Some(points)) = (number(), number(), number())
            && let Ok(index) = u32::try_from(index)
        {
            slices.lock().unwrap_or_else(PoisonError::into_inner).insert(index, (inside, points));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slices_count_once_and_add_up_to_pi() {
        let mut sum = Sum::follow(Door::Unix("/nonexistent".into()), "pi");
        let mut state = 1;
        for index in 1..=2 {
            let inside = (0..200_000)
                .filter(|_| {
                    let (x, y) = (coordinate(&mut state), coordinate(&mut state));
                    x * x + y * y < 1 << 62
                })
                .count();
            let text = format!("noise\npi-slice {index} {inside} 200000\n");
            sum.read(&text);
            sum.read(&text);
        }
        assert_eq!(sum.missing(3), [3]);
        let estimate = sum.result().expect("two slices");
        assert_eq!(estimate.points, 400_000);
        assert!((estimate.pi - std::f64::consts::PI).abs() < 5.0 * estimate.sigma);
    }
}
