//! Which host ids a container gets: a range of its own, that no other task on this
//! machine has.
//!
//! Ranges lie where systemd says that containers' ids belong (`UIDS-GIDS.md`: 524288
//! to 1879048191), in steps of [`IDS`]. What `/etc/subuid` and `/etc/subgid` grant to
//! users is left to them. Where the search begins differs between runtimes, so that
//! two on one machine, which know nothing of each other, rarely meet.

use std::collections::BTreeSet;

use crate::container::IDS;

/// The first id for containers.
const FIRST: u32 = 524_288;
/// The last.
const LAST: u32 = 1_879_048_191;
/// How many ranges there are.
const RANGES: u32 = (LAST - FIRST + 1) / IDS;

/// Ranges that are not ours to give, whatever tasks run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted(Vec<(u32, u32)>);

impl Granted {
    /// Reads `/etc/subuid` and `/etc/subgid`; a file that is not there grants nothing.
    pub(crate) fn read() -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/etc/subuid")).and(Self::parse(&text("/etc/subgid")))
    }

    fn parse(text: &str) -> Self {
        let range = |line: &str| {
            let mut fields = line.trim().rsplit(':');
            let count: u32 = fields.next()?.parse().ok()?;
            let first: u32 = fields.next()?.parse().ok()?;
            (count > 0).then(|| (first, first.saturating_add(count - 1)))
        };
        Self(text.lines().filter_map(range).collect())
    }

    fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn touches(&self, base: u32) -> bool {
        let last = base + (IDS - 1);
        self.0.iter().any(|(first, end)| *first <= last && base <= *end)
    }
}

/// The first id of a free range; none if all are taken.
///
/// `tag` is the runtime's own number and says where the search begins; `taken` holds
/// the first ids of the ranges of its living tasks.
pub(crate) fn pick(tag: u64, taken: &BTreeSet<u32>, granted: &Granted) -> Option<u32> {
    let start = u32::try_from(tag % u64::from(RANGES)).unwrap_or(0);
    let bases = (0..RANGES).map(|n| FIRST + (start + n) % RANGES * IDS);
    bases.into_iter().find(|base| !taken.contains(base) && !granted.touches(*base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_distinct_and_within_the_bounds() {
        let granted = Granted::default();
        let mut taken = BTreeSet::new();
        for _ in 0..1000 {
            let base = pick(u64::MAX, &taken, &granted).expect("a range");
            assert!(
                (FIRST..=LAST - (IDS - 1)).contains(&base) && (base - FIRST).is_multiple_of(IDS)
            );
            assert!(taken.insert(base), "{base} was given twice");
        }
        assert_eq!(pick(0, &BTreeSet::new(), &granted), Some(FIRST));
        assert_eq!(
            pick(u64::from(RANGES) - 1, &BTreeSet::from([LAST - IDS + 1]), &granted),
            Some(FIRST)
        );
    }

    #[test]
    fn what_users_were_granted_is_left_to_them() {
        // The second touches two ranges by one id each.
        let granted = Granted::parse("ann:524288:65536\nbob:655359:2\n# no\nx:y:z\nno:1:0\n");
        assert_eq!(pick(0, &BTreeSet::new(), &granted), Some(FIRST + 3 * IDS));
        let all = Granted::parse("root:0:4294967295");
        assert_eq!(pick(7, &BTreeSet::new(), &all), None);
    }

    #[test]
    fn all_taken_is_none() {
        let taken = (0..RANGES).map(|n| FIRST + n * IDS).collect();
        assert_eq!(pick(3, &taken, &Granted::default()), None);
    }
}
