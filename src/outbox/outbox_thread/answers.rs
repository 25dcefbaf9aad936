//! Answers sinks that ask what they have left at the other side, and writes down what they will leave there.

use super::{Worker, tables};
use crate::outbox::delivery::published_record::Ask;

impl Worker {
    /// Everything that was asked since the last time; at most one question a sink.
    pub(super) fn answer(&mut self) {
        for index in 0..self.lines.len() {
            for ask in self.lines[index].sender.asked() {
                // Who asked may have gone.
                match ask {
                    Ask::Read { place, answer } => {
                        let known = self.store.known(&place);
                        let _ = answer.send(known.map_err(|error| self.told(&error)));
                    }
                    Ask::Write { place, update, answer } => {
                        let written = self.store.record(&place, &update);
                        let _ = answer.send(written.map_err(|error| self.told(&error)));
                    }
                }
            }
        }
    }

    /// A damaged file is mended at once. What else is wrong the sink tells; whether events can be stored, the next one finds out.
    fn told(&mut self, error: &rusqlite::Error) -> String {
        if tables::is_damage(error) {
            self.trouble(error);
        } else {
            metrics::counter!("vtagd_outbox_errors_total").increment(1);
        }
        error.to_string()
    }
}
