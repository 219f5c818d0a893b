//! Whether and when something is tried again. Pure: time and chance are arguments.

use std::time::Duration;

use super::{Patience, RegistryError};

/// So many bytes nearer forgive the tries before them: a layer over a link that is cut again
/// and again gets here in the end, and a server that gives a byte for each request does not.
pub(super) const PROGRESS_BYTES: u64 = 256 << 10;

/// The tries of one thing.
#[derive(Clone, Debug)]
pub(super) struct Tries {
    failed: u32,
}

/// How far we had come with a server when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It has never answered: a wrong name is not worth waiting for.
    Never,
    /// It has answered before, so it is there and may be again.
    Before,
}

impl Tries {
    pub(super) const fn new() -> Self {
        Self { failed: 0 }
    }

    /// It got nearer; what failed before does not count any more.
    pub(super) const fn forget(&mut self) {
        self.failed = 0;
    }

    /// How long to wait before the next try, or none if that is of no use. `chance` is any
    /// number; many machines that failed together come back apart.
    pub(super) fn next(
        &mut self,
        error: &RegistryError,
        met: Met,
        patience: &Patience,
        chance: u64,
    ) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= patience.tries || !may_pass(error, met) {
            return None;
        }
        let doubled = patience.pause.saturating_mul(1 << (self.failed - 1).min(16));
        let pause = doubled.min(patience.pause_max);
        let spread = pause / 4 * u32::try_from(chance % 256).unwrap_or(0) / 256;
        match error {
            RegistryError::Busy { after: Some(asked), .. } if *asked > patience.pause_max => None,
            RegistryError::Busy { after: Some(asked), .. } => Some((*asked).max(pause) + spread),
            _ => Some(pause + spread),
        }
    }
}

/// Whether it may be otherwise in a while.
fn may_pass(error: &RegistryError, met: Met) -> bool {
    match error {
        RegistryError::Busy { .. } | RegistryError::Broke { .. } => true,
        RegistryError::Status { status, .. } => matches!(status, 408 | 425 | 500 | 502 | 504),
        RegistryError::NoHost { .. }
        | RegistryError::Unreachable { .. }
        | RegistryError::TimedOut { .. } => met == Met::Before,
        _ => false,
    }
}

/// What a `Retry-After` in seconds says. Dates, which no registry sends, are passed over.
pub(super) fn after(header: Option<&str>) -> Option<Duration> {
    header?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(after: Option<u64>) -> RegistryError {
        let after = after.map(Duration::from_secs);
        RegistryError::Busy { host: "h".to_owned(), after, said: String::new() }
    }

    #[test]
    fn pauses_double_and_end() {
        let patience = Patience {
            tries: 4,
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(3),
            ..Patience::default()
        };
        let mut tries = Tries::new();
        let mut next = |error: &RegistryError| {
            tries.next(error, Met::Before, &patience, 0).map(|it| it.as_secs())
        };
        let pauses = [next(&busy(None)), next(&busy(None)), next(&busy(None)), next(&busy(None))];
        assert_eq!(pauses, [Some(1), Some(2), Some(3), None]);
        let mut tries = Tries::new();
        let mut next = |error: &RegistryError| tries.next(error, Met::Before, &patience, 255);
        // What it asks for is done, but not less than we would wait, and not for ever.
        assert_eq!(
            next(&busy(Some(2))),
            Some(Duration::from_secs(2) + Duration::from_secs(1) / 4 * 255 / 256)
        );
        assert_eq!(next(&busy(Some(4))), None);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let host = || "h".to_owned();
        let status = |status| RegistryError::Status { host: host(), status, said: String::new() };
        let refused = RegistryError::Unreachable {
            host: host(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        let wrong = RegistryError::WrongCredentials { host: host(), repository: host() };
        for (error, met, again) in [
            (status(500), Met::Never, true),
            (status(418), Met::Before, false),
            (refused, Met::Never, false),
            (wrong, Met::Before, false),
        ] {
            let pause = Tries::new().next(&error, met, &Patience::default(), 0);
            assert_eq!(pause.is_some(), again, "{error}");
        }
    }

    #[test]
    fn a_retry_after_is_seconds() {
        assert_eq!(after(Some(" 7 ")), Some(Duration::from_secs(7)));
        for odd in [None, Some("-1"), Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some("")] {
            assert_eq!(after(odd), None);
        }
    }
}
