//! Durations (`500ms`, `30s`, `5m`, `2h`, `7d`) and sizes (`1GiB`, `512MiB`, `10MB`) as written in YAML. Pure.

use std::time::Duration;

/// How durations may be written, for messages.
pub const DURATION_HELP: &str = "write a number and a unit, such as 500ms, 30s, 5m, 2h or 7d";
/// How sizes may be written, for messages.
pub const SIZE_HELP: &str = "write a number and a unit, such as 512MiB, 1GiB or 10MB";

/// Durations as a regular expression, for editors.
pub const DURATION_PATTERN: &str = r"^\s*(0|[0-9][0-9.]*\s*(ms|s|m|h|d))\s*$";
/// Sizes as a regular expression, for editors.
pub const SIZE_PATTERN: &str = r"^\s*[0-9][0-9.]*\s*(B|[kK]B|[MGT]B|[KMGT]iB)\s*$";

/// Ten years: longer is a slip of the pen, and time arithmetic stays far from overflow.
const MAX_SECONDS: f64 = 10.0 * 366.0 * 86_400.0;

/// Parses a duration. `0` alone needs no unit. `None` for anything else that is not a non-negative number with a unit, and for
/// more than ten years.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return None,
    };
    if seconds > MAX_SECONDS {
        return None;
    }
    // Through milliseconds, so that 0.1s is exactly 100 ms.
    Some(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Parses a size in bytes: decimal units `kB MB GB TB`, binary units `KiB MiB GiB TiB`, or `B`. `None` for anything else.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text.trim())?;
    let factor: f64 = match unit {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * factor;
    (bytes <= 9e15).then_some(bytes.round() as u64)
}

/// Splits `1.5 GiB` into number and unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    number.is_finite().then_some((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("0.1s"), Some(Duration::from_millis(100)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for wrong in ["", "5", "-1s", "s", ".5s", "1.2.3s", "5 parsecs", "1e3s", "99999999999d", "∞s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("512 MiB"), Some(512 << 20));
        assert_eq!(size("10MB"), Some(10_000_000));
        assert_eq!(size("1.5KiB"), Some(1536));
        for wrong in ["", "5", "1gib", "-1MB", "1e3MB", "99999999TiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,24}") {
            let _ = (duration(&text), size(&text));
        }

        #[test]
        fn whole_milliseconds_survive(ms in 0_u64..1_000_000_000) {
            proptest::prop_assert_eq!(duration(&format!("{ms}ms")), Some(Duration::from_millis(ms)));
        }
    }
}
