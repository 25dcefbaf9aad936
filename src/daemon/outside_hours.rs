//! Labels outside their hours: who is told that nothing is told of them.
//!
//! In: the clock, each running stream's emitter and score route. Out: tags that end (reason `inactive`), sets that are not scored while none of
//! their labels is wanted, the gauge `vtagd_labels_inactive`, a line in the log when it changes. On the main thread, a few times a second; nothing waits.
//! One entry a stream and set of the configuration is remembered.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::event::Emitter;
use crate::pipeline::EventRoute;
use crate::score::score_routes::ScoreRoutes;
use crate::stream::StreamKey;

/// A set's name, how many of its labels are outside their hours, and of how many.
type OutsideOf = (Arc<str>, usize, usize);

/// For each scorer of a stream, whether nobody wants its scores: all labels of its set are outside their hours.
pub(super) fn skipped(outside: &[Option<OutsideOf>]) -> Vec<bool> {
    outside.iter().map(|set| set.as_ref().is_some_and(|(_, outside, all)| outside == all)).collect()
}

/// What has been told.
#[derive(Default)]
pub(super) struct OutsideHours {
    /// Of each stream and set with hours.
    gauges: BTreeMap<(String, String), usize>,
    /// Of each set, as all streams have the same.
    logged: BTreeMap<String, usize>,
}

impl OutsideHours {
    /// Looks at the clock for each of `streams`.
    pub fn keep<'s>(
        &mut self,
        now: Timestamp,
        streams: impl Iterator<Item = (&'s str, StreamKey, &'s Mutex<Emitter>)>,
        routes: &ScoreRoutes,
        events: &EventRoute,
    ) {
        let (mut gauges, mut sets) = (BTreeMap::new(), BTreeMap::new());
        for (stream, key, emitter) in streams {
            // The scoring thread takes the route first and then the emitter.
            let (changed, outside) = {
                let mut emitter = emitter.lock();
                (emitter.keep_hours(now, &mut |event| events.send(event, None)), emitter.outside_hours())
            };
            if changed {
                let skipped = skipped(&outside);
                routes.change(|routes| {
                    if let Some(route) = routes.get_mut(&key) {
                        route.skipped = skipped;
                    }
                    // A batch that was under way has been scored meanwhile.
                    emitter.lock().forget_outside();
                });
            }
            for (set, outside, all) in outside.into_iter().flatten() {
                gauges.insert((stream.to_owned(), set.to_string()), outside);
                sets.insert(set.to_string(), (outside, all));
            }
        }
        self.tell(gauges, &sets);
    }

    fn tell(&mut self, gauges: BTreeMap<(String, String), usize>, sets: &BTreeMap<String, (usize, usize)>) {
        if self.gauges != gauges {
            self.gauges.keys().filter(|gone| !gauges.contains_key(*gone)).for_each(|gone| gauge(gone, 0));
            gauges.iter().for_each(|(of, outside)| gauge(of, *outside));
            self.gauges = gauges;
        }
        for (set, (outside, labels)) in sets {
            let before = self.logged.insert(set.clone(), *outside).unwrap_or_default();
            match outside {
                outside if *outside == before => {}
                0 => tracing::info!(%set, labels, "its labels are within their hours"),
                _ => tracing::info!(%set, labels, outside, "labels are outside their hours, nothing is told of them"),
            }
        }
        self.logged.retain(|set, _| sets.contains_key(set));
    }
}

fn gauge((stream, set): &(String, String), outside: usize) {
    metrics::gauge!("vtagd_labels_inactive", "stream" => stream.clone(), "set" => set.clone()).set(outside as f64);
}
