//! Durations as people read them: three digits, not nine. Pure. What machines go by (metrics, JSON, bounds) is never rounded.

use std::time::Duration;

/// `duration` to three digits: `1.234567891s` is `1.23s`, `61.7s` stays. What was written by a person is as he wrote it.
pub fn duration(duration: Duration) -> Duration {
    let mut unit = 1;
    while duration.as_nanos() / unit >= 1000 {
        unit *= 10;
    }
    let rounded = (duration.as_nanos() + unit / 2) / unit * unit;
    // What does not fit is longer than anything is waited for.
    u64::try_from(rounded).map_or(duration, Duration::from_nanos)
}

/// The same in seconds, as a number.
pub fn seconds(duration: Duration) -> f64 {
    self::duration(duration).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_left_of_any_length() {
        for (nanoseconds, shown) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_234_567_891, "1.23s"),
            (1_235_692_866, "1.24s"),
            (951_549_236, "952ms"),
            (999_999_999, "1s"),
            (61_234_567_891, "61.2s"),
            (600_000_000_000, "600s"),
            (20_000_000_000, "20s"),
            (1_500_000_000, "1.5s"),
            (86_461_500_000_000, "86500s"),
        ] {
            assert_eq!(format!("{:?}", duration(Duration::from_nanos(nanoseconds))), shown);
        }
        assert_eq!(duration(Duration::MAX), Duration::MAX);
        assert_eq!(seconds(Duration::from_nanos(541_509_687)), 0.542);
    }
}
