//! How long to wait for the next attempt after one that has ended, where trying again soon is all there is to do. Pure: what ended, and for how long pictures came, comes
//! in; a time goes out.

use std::time::Duration;

use super::{Location, SourceError};
use crate::platform::backoff::Backoff;

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub location: &'a Location,
    pub error: &'a SourceError,
    /// How long pictures came; `None`: there was none.
    pub flowed: Option<Duration>,
    /// How long an RTSP session lasts without a request.
    pub session: Option<Duration>,
}

impl Attempt<'_> {
    /// Tells `backoff` how it went.
    pub fn went(&self, backoff: &mut Backoff) {
        if let Some(flowed) = self.flowed {
            backoff.went_well_for(flowed);
            // A session that the camera ends in time is over, not broken: the next is no worse.
            if self.session.is_some_and(|timeout| flowed >= timeout) {
                backoff.reset();
            }
        }
        // Nobody is there to be spared, and who sends while nobody listens is not heard.
        let is_silence = matches!(self.error, SourceError::Stalled { .. } | SourceError::Ended { .. });
        if is_silence && self.location.listens() {
            backoff.reset();
        }
    }

    /// The next wait of `backoff`, whose shortest is `first`; but no longer than pictures came, give or take its jitter: else what works for half a minute at a time would be
    /// away for most of it. What hardly came at all climbs as what never did.
    pub fn next_wait(&self, backoff: &mut Backoff, first: Duration) -> Duration {
        let wait = backoff.next_wait();
        match self.flowed.filter(|flowed| *flowed >= first) {
            Some(flowed) => wait.min(backoff.spread(flowed)),
            None => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::At;
    use super::*;
    use crate::platform::backoff::Ladder;

    const FIRST: Duration = Duration::from_secs(1);

    fn at() -> At {
        At { stream: "dock".into(), place: "there".into(), element: String::new() }
    }

    fn silence() -> SourceError {
        SourceError::Stalled { at: at(), silence: Duration::from_secs(30) }
    }

    /// The wait after the last of many attempts that went like this one, up to its jitter.
    fn wait(location: &Location, error: &SourceError, flowed: Option<Duration>) -> Duration {
        let attempt = Attempt { location, error, flowed, session: None };
        let mut backoff = Backoff::new(Ladder::default(), 7);
        let mut wait = Duration::ZERO;
        for _ in 0..12 {
            attempt.went(&mut backoff);
            wait = attempt.next_wait(&mut backoff, FIRST);
        }
        wait
    }

    fn is_about(wait: Duration, seconds: u64) -> bool {
        let nominal = Duration::from_secs(seconds);
        (nominal.mul_f64(0.79)..=nominal.mul_f64(1.21)).contains(&wait)
    }

    fn rtsp() -> Location {
        Location::Rtsp("rtsp://10.0.0.1/a".parse().unwrap())
    }

    #[test]
    fn whoever_is_waited_for_is_waited_for_again_at_once() {
        let srt = |url: &str| Location::Srt(url.parse().unwrap());
        let udp = Location::Udp("udp://239.1.2.3:5000".parse().unwrap());
        for location in
            [udp, srt("srt://0.0.0.0:9000?mode=listener"), srt("srt://0.0.0.0:9000?latency=90&mode=listener")]
        {
            for error in [silence(), SourceError::Ended { at: at() }] {
                let wait = wait(&location, &error, None);
                assert!(is_about(wait, 1), "{location:?}: {wait:?}");
            }
            // Another program has the port.
            let error = SourceError::Connection { at: at(), detail: "the port is taken".into() };
            assert!(is_about(wait(&location, &error, None), 60));
        }
        for location in [rtsp(), srt("srt://10.0.0.1:9000"), srt("srt://10.0.0.1:9000?mode=caller")] {
            let wait = wait(&location, &silence(), None);
            assert!(is_about(wait, 60), "{location:?}: {wait:?}");
        }
    }

    #[test]
    fn what_works_for_a_while_at_a_time_is_not_away_for_longer_than_that() {
        for seconds in [2, 10, 40] {
            let wait = wait(&rtsp(), &silence(), Some(Duration::from_secs(seconds)));
            assert!(is_about(wait, seconds), "{seconds}: {wait:?}");
        }
        assert!(is_about(wait(&rtsp(), &silence(), Some(Duration::from_secs(60))), 1), "a stable minute resets");
    }

    #[test]
    fn what_hardly_comes_is_spared_as_what_does_not_come() {
        for flowed in [None, Some(Duration::ZERO), Some(Duration::from_millis(900))] {
            let wait = wait(&rtsp(), &silence(), flowed);
            assert!(is_about(wait, 60), "{flowed:?}: {wait:?}");
        }
    }

    #[test]
    fn a_session_that_lasted_as_long_as_it_was_to_is_over_and_not_broken() {
        let (location, error) = (rtsp(), silence());
        let flowed = Some(Duration::from_secs(20));
        let attempt = Attempt { location: &location, error: &error, flowed, session: flowed };
        let mut backoff = Backoff::new(Ladder::default(), 7);
        for _ in 0..12 {
            attempt.went(&mut backoff);
            let wait = attempt.next_wait(&mut backoff, FIRST);
            assert!(is_about(wait, 1), "{wait:?}");
        }
    }
}
