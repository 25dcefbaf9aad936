//! What an endpoint's answer means. Pure.

use std::time::Duration;

/// Longest wait that an endpoint can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has the event.
    Taken,
    /// 410: it wants none any more.
    Gone,
    /// It does not want this one.
    Refused { why: String },
    /// It takes nothing at the moment, not before `after`.
    Away { why: String, after: Option<Duration> },
}

impl Answer {
    pub fn away(why: impl std::fmt::Display) -> Self {
        Self::Away { why: why.to_string(), after: None }
    }

    /// The meaning of `status`, with `Retry-After` if there is one. `now` is the wall clock, for a date in it.
    pub fn of(status: u16, retry_after: Option<&str>, now: jiff::Timestamp) -> Self {
        match status {
            200..=299 => Self::Taken,
            410 => Self::Gone,
            300..=399 => {
                Self::away(format!("answers {status}, a redirect, which is not followed: write its target as `url`"))
            }
            // About this request, and not about who sends it, where to or how often.
            400 | 406 | 409 | 411..=418 | 421..=424 | 426 | 428 | 431 | 451 => {
                Self::Refused { why: format!("answered {status}") }
            }
            _ => Self::Away { why: format!("answers {status}"), after: retry_after.and_then(|text| wait(text, now)) },
        }
    }
}

/// `Retry-After`: seconds, or a date of HTTP.
fn wait(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            // A date that has passed: at once.
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(status: u16, retry_after: &str) -> Option<Duration> {
        let now = "2026-05-01T12:00:00Z".parse().unwrap();
        match Answer::of(status, Some(retry_after), now) {
            Answer::Away { after, .. } => after,
            other => panic!("{status}: {other:?}"),
        }
    }

    #[test]
    fn each_status_means_what_standard_webhooks_says() {
        let of = |status| Answer::of(status, None, jiff::Timestamp::UNIX_EPOCH);
        assert!([200, 201, 204].iter().all(|s| of(*s) == Answer::Taken));
        assert_eq!(of(410), Answer::Gone);
        assert!([400, 413, 422].iter().all(|s| matches!(of(*s), Answer::Refused { .. })));
        let away = [100, 301, 302, 307, 308, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504, 999];
        assert!(away.iter().all(|s| matches!(of(*s), Answer::Away { after: None, .. })), "not 2xx is never success");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(away(429, " 7 "), Some(Duration::from_secs(7)));
        assert_eq!(away(503, "Fri, 01 May 2026 12:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(away(503, "Fri, 01 May 2026 11:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(away(504, "99999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(away(502, "soon"), None);
        assert_eq!(away(502, "-1"), None);
    }
}
