//! How far a long command is: a bar on a terminal that can draw one, a line of the log now and then elsewhere. Comes in: how much is done
//! of how much. Runs on whichever thread calls; the bar is gone when the meter is dropped.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal to draw a bar on.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The bar of a number of files.
pub const FILES: &str = "{bar:30} {pos}/{len} {eta}";

/// See the module. A clone is the same bar.
#[derive(Clone)]
pub struct Meter {
    bar: ProgressBar,
    drawn: bool,
    template: &'static str,
    last: Instant,
}

impl Meter {
    pub fn new() -> Self {
        let drawn = io::stderr().is_terminal() && can_draw(std::env::var_os("TERM").as_deref());
        let bar = if drawn { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Self { bar, drawn, template: "", last: Instant::now() }
    }

    /// `true`: it is time for a line of the log, which the caller writes.
    #[must_use]
    pub fn show(&mut self, template: &'static str, message: &str, done: u64, total: u64) -> bool {
        if self.template != template {
            self.template = template;
            self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        if self.bar.length() != Some(total) || done < self.bar.position() {
            // Another step. What is done already when it begins is no part of the speed.
            self.bar.set_length(total);
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        if self.bar.message() != message {
            self.bar.set_message(message.to_owned());
        }
        self.bar.set_position(done);
        let due = !self.drawn && self.last.elapsed() >= LINE_EVERY;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A dumb terminal, such as an editor's, shows every stage of a bar on a line of its own.
fn can_draw(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_terminal_gets_no_bar() {
        assert!(can_draw(Some(OsStr::new("xterm-256color"))) && can_draw(None));
        assert!(!can_draw(Some(OsStr::new("dumb"))));
    }

    #[test]
    fn without_a_terminal_a_line_is_due_now_and_then_whatever_the_step() {
        let (bar, last) = (ProgressBar::hidden(), Instant::now());
        let mut meter = Meter { bar, drawn: false, template: "", last };
        assert!(!meter.show(FILES, "", 3, 10));
        assert!(!meter.show("{msg} {bar:30}", "speed", 1, 4));
        assert_eq!((meter.bar.position(), meter.bar.length()), (1, Some(4)));
        meter.last = last.checked_sub(LINE_EVERY).unwrap();
        assert!(meter.show(FILES, "", 4, 4) && !meter.show(FILES, "", 4, 4));
        meter.last = last.checked_sub(LINE_EVERY).unwrap();
        meter.drawn = true;
        assert!(!meter.show(FILES, "", 4, 4), "there is a bar");
    }
}
