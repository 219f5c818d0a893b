//! What the links to this node carry, as fetching found it lately: what bids reckon with.

use std::time::Duration;

use gossip_core::moment::Moment;

/// Over which time it is taken. Shorter times show bursts of buffers on the way.
const OVER: Duration = Duration::from_secs(1);

/// A time with less than this in it says nothing, in bytes: something else held it up.
const BYTES_MIN: u64 = 64 * 1024;

/// How much of the newest time is taken: a quarter forgets half in three.
const NEWEST: u64 = 4;

/// Bytes a second, of all that came of images.
#[derive(Debug, Default)]
pub struct Link {
    since: Option<Moment>,
    bytes: u64,
    rate: Option<u64>,
}

impl Link {
    /// So many bytes came over the link just now, while something was asked for.
    pub fn came(&mut self, now: Moment, bytes: u64) {
        let since = *self.since.get_or_insert(now);
        self.bytes = self.bytes.saturating_add(bytes);
        let took = now.since(since);
        if took < OVER {
            return;
        }
        if self.bytes >= BYTES_MIN {
            let sample = self.bytes.saturating_mul(1000) / (took.as_millis() as u64).max(1);
            let mixed = |rate: u64| rate - rate / NEWEST + sample / NEWEST;
            self.rate = Some(self.rate.map_or(sample, mixed));
        }
        (self.since, self.bytes) = (Some(now), 0);
    }

    /// Nothing is asked for any more: the time until there is does not count. What a short
    /// fetch brought does, if it was enough to tell.
    pub fn rests(&mut self, now: Moment) {
        if let Some(since) = self.since.take() {
            let took = (now.since(since).as_millis() as u64).max(1);
            if self.rate.is_none() && self.bytes >= BYTES_MIN {
                self.rate = Some(self.bytes.saturating_mul(1000) / took);
            }
        }
        self.bytes = 0;
    }

    /// The rate, where one is known.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(link: &mut Link, from: u64, seconds: u64, rate: u64) {
        for tick in 0..=seconds * 10 {
            link.came(Moment(from + tick * 100), rate / 10);
        }
    }

    #[test]
    fn a_rate_follows_what_came() {
        let mut link = Link::default();
        assert_eq!(link.rate(), None);
        feed(&mut link, 0, 5, 1_000_000);
        let rate = link.rate().expect("it is known");
        assert!((900_000..1_200_000).contains(&rate), "{rate}");
        feed(&mut link, 5_100, 30, 8_000_000);
        let rate = link.rate().expect("it is known");
        assert!((7_000_000..9_000_000).contains(&rate), "{rate}");
    }

    #[test]
    fn rest_is_no_slowness() {
        let mut link = Link::default();
        feed(&mut link, 0, 5, 1_000_000);
        let rate = link.rate();
        link.rests(Moment(5_001));
        link.came(Moment(1_000_000), 10);
        link.came(Moment(1_000_100), 10);
        assert_eq!(link.rate(), rate);
        let mut short = Link::default();
        short.came(Moment(0), 500_000);
        short.came(Moment(100), 500_000);
        short.rests(Moment(200));
        assert_eq!(short.rate(), Some(5_000_000));
    }
}
