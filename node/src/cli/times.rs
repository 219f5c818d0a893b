//! Times and durations as people write and read them.
//!
//! Ages compare clocks of different nodes, so they are only ever shown: a
//! clock that runs ahead makes an age of zero, never a negative one.

use std::time::Duration;

use gossip_core::moment::WallTime;

/// Reads `90`, `90s`, `15m`, `1h`, `2d`, `500ms` or `1m30s`; a bare number is in seconds, as
/// Docker's.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write it like 30s, 15m, 1h or 2d");
    let mut sum: u64 = 0;
    let mut rest = text;
    loop {
        let (number, behind) = split(rest, |byte| byte.is_ascii_digit());
        let (unit, after) = split(behind, |byte| !byte.is_ascii_digit());
        let millis: u64 = match unit {
            "ms" => 1,
            // What follows other parts must say what it is.
            "" if rest.len() == text.len() => 1000,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_not_a_number| bad())?;
        let part = number.checked_mul(millis).ok_or_else(bad)?;
        sum = sum.checked_add(part).ok_or_else(bad)?;
        if after.is_empty() {
            return Ok(Duration::from_millis(sum));
        }
        rest = after;
    }
}

fn split(text: &str, of_first: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().take_while(|byte| of_first(*byte)).count())
}

/// Seconds, rounded up: a wait of half a second is not a wait of none.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// A number of seconds in its largest unit: `42s`, `5m`, `3h`, `12d`.
pub(crate) fn show(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A duration as it would be written, in the largest unit that says all of it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let whole = units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    whole.map_or_else(|| "0s".to_owned(), |(unit, name)| format!("{}{name}", millis / unit))
}

/// How long before `now` something was.
pub(crate) fn age(now: WallTime, then: WallTime) -> String {
    show(now.0.saturating_sub(then.0) / 1000)
}

/// A point in time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn timestamp(at: WallTime) -> String {
    let (days, in_day) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The Gregorian date of a day counted from 1970: years are taken to begin in
/// March, so that a leap day is the last of its year (Hinnant's algorithm).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_units() {
        let cases = [
            ("90", 90_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0", 0),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5h", "1x", "1 h", "99999999999999999d", "1m30", "1m s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(seconds_up(Duration::from_millis(1)), 1);
        assert_eq!(seconds_up(Duration::from_secs(2)), 2);
    }

    #[test]
    fn ages_are_short_and_never_negative() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")]
        {
            assert_eq!(show(seconds), text);
        }
        assert_eq!(age(WallTime(1000), WallTime(9000)), "0s");
    }

    #[test]
    fn a_duration_reads_back() {
        for text in ["500ms", "90s", "15m", "1h", "2d", "0s"] {
            assert_eq!(parse(text).map(show_duration).as_deref(), Ok(text));
        }
    }

    #[test]
    fn timestamps_know_leap_days() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_795_348_861_120, "2026-11-22T12:01:01.120Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(timestamp(WallTime(millis)), text);
        }
    }
}
