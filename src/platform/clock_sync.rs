//! Whether the system's clock is kept right by somebody, as the kernel knows it (`adjtimex`, ntp_adjtime(3)). One call, on the caller's thread.

/// What the kernel says of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSync {
    /// Somebody (chrony, ntpd, systemd-timesyncd) keeps it.
    Kept,
    /// Nobody does, or not yet.
    Free,
    /// It cannot be asked: some sandboxes forbid the call.
    Unknown,
}

impl ClockSync {
    pub fn read() -> Self {
        // SAFETY: all bits zero are a `timex`, and one whose `modes` is zero asks and changes nothing; the kernel writes into it alone.
        let state = unsafe {
            let mut asked: libc::timex = std::mem::zeroed();
            libc::adjtimex(&raw mut asked)
        };
        match state {
            -1 => Self::Unknown,
            libc::TIME_ERROR => Self::Free,
            _ => Self::Kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_changes_nothing() {
        assert_eq!(ClockSync::read(), ClockSync::read());
    }
}
