//! The quantities a fault is made of: chances, spans of time, bit rates.
//!
//! Each is an integer inside (parts per million, microseconds, kilobits per
//! second), so that a setting survives being written, read and compared, and
//! each prints in the form it parses from. Must never hold a float: a loss of
//! 0.1 % has to be the same loss in the switch, in JSON and on the screen.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A certain event, in parts per million.
pub const CERTAIN_PPM: u32 = 1_000_000;

/// The longest delay or jitter: beyond a minute every protocol has given up,
/// and the switch would only be holding frames nobody waits for.
pub const SPAN_MAX_US: u64 = 60_000_000;

/// A text that is not the quantity it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not {wanted}")]
pub struct BadAmount {
    given: String,
    wanted: &'static str,
}

impl BadAmount {
    fn new(given: &str, wanted: &'static str) -> Self {
        let given = given.to_owned();
        Self { given, wanted }
    }
}

/// How likely something is to befall one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chance(u32);

impl Chance {
    /// Never happens.
    pub const NEVER: Self = Self(0);

    /// Parts per million; `None` above [`CERTAIN_PPM`].
    pub const fn of_ppm(ppm: u32) -> Option<Self> {
        if ppm > CERTAIN_PPM {
            return None;
        }
        Some(Self(ppm))
    }

    /// Parts per million.
    pub fn ppm(self) -> u32 {
        self.0
    }
}

impl FromStr for Chance {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        fixed(text.strip_suffix('%').unwrap_or(text), 4)
            .and_then(|ppm| u32::try_from(ppm).ok())
            .and_then(Self::of_ppm)
            .ok_or_else(|| BadAmount::new(text, "a percentage from 0 to 100"))
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_fixed(out, u64::from(self.0), 4)?;
        out.write_str("%")
    }
}

/// A delay, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// No delay.
    pub const ZERO: Self = Self(0);

    /// Microseconds; `None` above [`SPAN_MAX_US`].
    pub fn of_micros(micros: u64) -> Option<Self> {
        (micros <= SPAN_MAX_US).then_some(Self(micros))
    }

    /// Nanoseconds, the switch's own unit. A span that came in as bare JSON is
    /// held to the limit here too.
    pub fn nanos(self) -> u64 {
        self.0.min(SPAN_MAX_US) * 1_000
    }
}

impl FromStr for Span {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        fixed(text.strip_suffix("ms").unwrap_or(text), 3)
            .and_then(Self::of_micros)
            .ok_or_else(|| BadAmount::new(text, "a number of milliseconds from 0 to 60000"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_fixed(out, self.0, 3)?;
        out.write_str("ms")
    }
}

/// What a link carries per second at most; unlimited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(Option<NonZeroU64>);

impl Rate {
    /// As fast as the machine goes.
    pub const UNLIMITED: Self = Self(None);

    /// Kilobits per second; 0 is unlimited.
    pub fn of_kbit(kbit: u64) -> Self {
        Self(NonZeroU64::new(kbit))
    }

    /// How long `bytes` occupy the link, in nanoseconds.
    pub fn nanos_for(self, bytes: usize) -> u64 {
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        self.0.map_or(0, |kbit| bits.saturating_mul(1_000_000) / kbit)
    }
}

impl FromStr for Rate {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        fixed(text.strip_suffix("kbit").unwrap_or(text), 0)
            .map(Self::of_kbit)
            .ok_or_else(|| BadAmount::new(text, "a number of kilobits per second (0: unlimited)"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(kbit) => write!(out, "{kbit}kbit"),
            None => out.write_str("unlimited"),
        }
    }
}

/// Reads a plain decimal as a whole number of `10^-places`.
fn fixed(text: &str, places: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let well_formed = !whole.is_empty() && digits(whole) && digits(part) && part.len() <= places;
    if !well_formed || (text.contains('.') && part.is_empty()) {
        return None;
    }
    format!("{whole}{part:0<places$}").parse().ok()
}

fn write_fixed(out: &mut fmt::Formatter<'_>, value: u64, places: u32) -> fmt::Result {
    let scale = 10_u64.pow(places);
    write!(out, "{}", value / scale)?;
    let part = value % scale;
    if part == 0 {
        return Ok(());
    }
    let digits = format!("{part:0width$}", width = places as usize);
    write!(out, ".{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_read_and_print_alike() {
        for (text, ppm, printed) in [
            ("0", Some(0), "0%"),
            ("100", Some(1_000_000), "100%"),
            ("2.5%", Some(25_000), "2.5%"),
            ("0.0001", Some(1), "0.0001%"),
            ("0.00001", None, ""),
            ("100.1", None, ""),
            ("-1", None, ""),
            ("1.", None, ""),
            (".5", None, ""),
            ("", None, ""),
            ("1e2", None, ""),
        ] {
            let read: Option<Chance> = text.parse().ok();
            assert_eq!(read.map(Chance::ppm), ppm, "{text}");
            if let Some(chance) = read {
                assert_eq!(chance.to_string(), printed);
                assert_eq!(printed.parse(), Ok(chance));
            }
        }
    }

    #[test]
    fn spans_are_milliseconds_with_a_limit() {
        for (text, nanos) in [
            ("0", Some(0)),
            ("1.5", Some(1_500_000)),
            ("20ms", Some(20_000_000)),
            ("60000", Some(60_000_000_000)),
            ("60001", None),
            ("99999999999999999999", None),
            ("x", None),
        ] {
            assert_eq!(text.parse().ok().map(|span: Span| span.nanos()), nanos, "{text}");
        }
        assert_eq!(Span::of_micros(1_250).map(|span| span.to_string()), Some("1.25ms".into()));
    }

    #[test]
    fn a_rate_is_time_per_byte() {
        assert_eq!(
            Rate::of_kbit(8).nanos_for(1_000),
            1_000_000_000,
            "8 kbit/s is 1000 bytes a second"
        );
        assert_eq!(Rate::UNLIMITED.nanos_for(usize::MAX), 0);
        assert_eq!("0".parse(), Ok(Rate::UNLIMITED));
        assert_eq!("unlimited".parse(), Ok(Rate::UNLIMITED));
        assert_eq!(Rate::of_kbit(64).to_string().parse(), Ok(Rate::of_kbit(64)));
    }
}
