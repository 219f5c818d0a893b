//! Who runs a job's tenders, and when.
//!
//! Any node can drive any job. Whoever took the submission does so at once;
//! the others rank themselves by rendezvous hash, and rank r steps in after
//! r + 1 delays of the driver's *silence*. A driver that hears a better-ranked
//! one stands down. Nothing is elected and nothing is agreed: two drivers at
//! once cost a doubled claim at worst, which the order of claims resolves.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;
use gossip_core::slot::{Generation, GroupName, SlotId};

use crate::effect::Dice;
use crate::tender::Tender;

/// How often a driver says that it drives.
pub const ANNOUNCE_EVERY: Duration = Duration::from_millis(300);

/// The delay between one heir's turn and the next: two announcements may be lost.
pub const HEIR_DELAY: Duration = Duration::from_millis(700);

/// Random extra of each heir, so that equals do not step in together.
const HEIR_JITTER_MS: u64 = 150;

/// The first pause after a tender that left slots open; it doubles.
pub const RETRY_FIRST: Duration = Duration::from_millis(250);

/// The longest pause; freed room cuts it short.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// The pause after room was freed somewhere: gathers several such news.
pub const RETRY_POKED: Duration = Duration::from_millis(5);

/// One job's tenders, as this node sees them.
#[derive(Clone, Debug, Default)]
pub struct Drive {
    /// This node took the submission, in this start.
    pub own: bool,
    /// Since when slots are open.
    pub need_since: Option<Moment>,
    /// The other driver heard last.
    pub other: Option<(NodeId, Moment)>,
    /// When this node last said that it drives.
    pub announced: Option<Moment>,
    /// Not before then.
    pub next_try: Moment,
    /// The group that was called last.
    pub called: Option<GroupName>,
    /// The tender that runs.
    pub tender: Option<Tender>,
    /// Slots awarded without an answer, and claims that are not in the log yet: not to be called before then.
    pub pending: BTreeMap<SlotId, Moment>,
    /// Of which generation the pending slots are.
    pub generation: Option<Generation>,
    /// Calls went up to this epoch counter, own ones too: the next must go beyond it.
    pub floor: u64,
    backoff: Option<Duration>,
    jitter: Option<u64>,
}

impl Drive {
    /// When this node may drive, being of `rank` among the living; `None` while a better one does.
    ///
    /// `other_is_better` says whether the other driver that was heard ranks before this node.
    pub fn turn(&mut self, rank: usize, other_is_better: bool, dice: &mut dyn Dice) -> Moment {
        let need_since = self.need_since.unwrap_or_default();
        let heard = self.other.map(|(_, at)| at);
        let turns = u32::try_from(rank).unwrap_or(u32::MAX).saturating_add(1);
        if self.own {
            return match heard {
                Some(at) if other_is_better => at + HEIR_DELAY,
                _ => need_since,
            };
        }
        let jitter = *self.jitter.get_or_insert_with(|| dice.below(HEIR_JITTER_MS));
        let silent_since = heard.map_or(need_since, |at| at.max(need_since));
        silent_since + HEIR_DELAY.saturating_mul(turns) + Duration::from_millis(jitter)
    }

    /// A tender ended; `left` says whether it left slots open.
    pub fn closed(&mut self, now: Moment, left: Left) {
        self.tender = None;
        match left {
            Left::Nothing => {
                self.backoff = None;
                self.next_try = now;
            }
            Left::Slots => {
                let pause = self.backoff.map_or(RETRY_FIRST, |last| (last * 2).min(RETRY_MAX));
                self.backoff = Some(pause);
                self.next_try = now + pause;
            }
        }
    }

    /// Bidders answered a call up to `answered`: that was no refusal, so try beyond it at once.
    pub fn go_beyond(&mut self, now: Moment, answered: u64) {
        if answered > self.floor {
            self.floor = answered;
            self.next_try = self.next_try.min(now + RETRY_POKED);
        }
    }

    /// Room was freed somewhere: try soon.
    pub fn poke(&mut self, now: Moment) {
        self.next_try = self.next_try.min(now + RETRY_POKED);
        self.backoff = None;
    }

    /// All wanted slots are claimed.
    pub fn rest(&mut self) {
        self.need_since = None;
        self.announced = None;
        self.backoff = None;
        self.jitter = None;
    }
}

/// What a tender left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Every slot was awarded or is held.
    Nothing,
    /// Some slots were not taken.
    Slots,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);
    impl Dice for Fixed {
        fn roll(&mut self) -> u64 {
            self.0
        }
    }

    #[test]
    fn the_taker_drives_at_once_and_heirs_after_silence_by_rank() {
        let need = Some(Moment(1000));
        let mut own = Drive { own: true, need_since: need, ..Drive::default() };
        assert_eq!(own.turn(3, false, &mut Fixed(0)), Moment(1000));
        let mut heir = Drive { need_since: need, ..Drive::default() };
        assert_eq!(heir.turn(0, false, &mut Fixed(0)), Moment(1700));
        assert_eq!(heir.turn(2, false, &mut Fixed(0)), Moment(3100));
        heir.other = Some((NodeId::new([1; 32]), Moment(5000)));
        assert_eq!(heir.turn(0, false, &mut Fixed(0)), Moment(5700), "silence counts, not need");
    }

    #[test]
    fn retries_back_off_until_room_is_freed() {
        let mut drive = Drive::default();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            drive.closed(Moment(0), Left::Slots);
            pauses.push(drive.next_try.0);
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000]);
        drive.poke(Moment(100));
        assert_eq!(drive.next_try, Moment(105));
        drive.closed(Moment(200), Left::Slots);
        assert_eq!(drive.next_try, Moment(450));
        drive.go_beyond(Moment(200), 7);
        assert_eq!((drive.floor, drive.next_try), (7, Moment(205)));
        drive.closed(Moment(205), Left::Slots);
        drive.go_beyond(Moment(205), 7);
        assert_eq!(drive.next_try, Moment(705), "known already: the pause goes on growing");
    }
}
