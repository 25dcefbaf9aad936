//! Event: scores in, tag events out. [`tracker`] decides, [`cloud_event`] is what is told, [`Emitter`] joins the two. How each label
//! stands can be [read](live_scores) at any time.
//!
//! Runs on the scoring thread; nothing here waits or reads a clock. Scores must come in order of media time per stream.

pub mod cloud_event;
pub mod live_scores;
mod peaks;
pub mod swallowed;
pub mod tracker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::frame::FrameTime;
use crate::score::{LabelScore, NamedRival, Threshold, margin};
use crate::stream::StreamId;
use crate::stream::swallowed_starts::SwallowedStarts;
pub use cloud_event::{Event, EventKind, ModelRef};
use peaks::HourOfPeaks;
pub use tracker::{Change, EndReason, Tracker};

/// When a tag starts and ends. `exit ≤ enter`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    pub enter: Threshold,
    pub exit: Threshold,
    /// The score must hold this long before a tag starts; 0 means one sample.
    pub after: Duration,
    /// The score must stay away this long before a tag ends.
    pub after_exit: Duration,
    /// From one emitted start to the next, at least.
    pub cooldown: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            enter: Threshold::Probability(0.6),
            exit: Threshold::Probability(0.4),
            after: Duration::from_secs(2),
            after_exit: Duration::from_secs(2),
            cooldown: Duration::from_secs(30),
        }
    }
}

impl Thresholds {
    /// Of `enter` and `exit`.
    pub fn margins(&self) -> (f32, f32) {
        (self.enter.margin(), self.exit.margin())
    }

    /// Whether `exit` is not above `enter`.
    pub fn is_ordered(&self) -> bool {
        self.exit.margin() <= self.enter.margin()
    }
}

/// What an [`Emitter`] needs to know of a label set.
#[derive(Clone, Debug)]
pub struct SetRules {
    pub name: Arc<str>,
    pub labels: Vec<LabelRules>,
    /// In the order of [`Rival`](crate::score::Rival).
    pub rivals: Arc<[NamedRival]>,
}

/// What an [`Emitter`] needs to know of a label.
#[derive(Clone, Debug)]
pub struct LabelRules {
    pub name: Arc<str>,
    pub thresholds: Thresholds,
    pub origin: ThresholdOrigin,
    pub attributes: Arc<BTreeMap<String, serde_json::Value>>,
}

/// Where a label's thresholds come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThresholdOrigin {
    #[default]
    Configuration,
    Calibration,
    /// It was calibrated, and that does not fit any more, for this reason: no tag starts until somebody has looked at it.
    Waiting(Arc<str>),
}

impl ThresholdOrigin {
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

/// One label set on one stream.
struct Board {
    set: Arc<str>,
    labels: Vec<Watched>,
    rivals: Arc<[NamedRival]>,
}

/// One label of it.
#[derive(Clone)]
struct Watched {
    rules: LabelRules,
    tracker: Tracker,
    /// What the last sample said.
    latest: Option<LabelScore>,
    peaks: HourOfPeaks,
    /// Of the open tag.
    tag: Option<Uuid>,
}

impl Watched {
    fn new(rules: LabelRules, gap: Duration) -> Self {
        let tracker = Tracker::new(rules.thresholds, gap);
        Self { rules, tracker, latest: None, peaks: HourOfPeaks::default(), tag: None }
    }
}

/// Turns one stream's scores into events. Keeps the `tag_id` of open tags.
pub struct Emitter {
    source: String,
    stream: StreamId,
    model: ModelRef,
    boards: Vec<Board>,
    /// The first and the last sample.
    first: Option<FrameTime>,
    last: Option<FrameTime>,
    swallowed: Arc<SwallowedStarts>,
}

impl Emitter {
    /// `sets` are the stream's label sets, in the order in which their scores will come; `gap` is as in [`Tracker::new`].
    pub fn new(instance: &str, stream: StreamId, model: ModelRef, sets: Vec<SetRules>, gap: Duration) -> Self {
        let board = |SetRules { name, labels, rivals }| Board {
            set: name,
            labels: labels.into_iter().map(|rules| Watched::new(rules, gap)).collect(),
            rivals,
        };
        let boards = sets.into_iter().map(board).collect();
        let swallowed = Arc::new(SwallowedStarts::new(&stream));
        let source = cloud_event::source_uri(instance, &stream);
        Self { source, stream, model, boards, first: None, last: None, swallowed }
    }

    /// Counts starts that are swallowed where others can see them.
    pub fn counting(self, swallowed: Arc<SwallowedStarts>) -> Self {
        Self { swallowed, ..self }
    }

    /// Goes on with other label sets: labels that are still there keep their state and open tags, the tags of those that are not
    /// end.
    pub fn relabel(&mut self, sets: Vec<SetRules>, gap: Duration, emit: &mut dyn FnMut(Event) -> bool) {
        // Whatever ends here is told under its old name: first the ends, then the new boards.
        for set in 0..self.boards.len() {
            for index in 0..self.boards[set].labels.len() {
                let (name, label) = (&self.boards[set].set, &self.boards[set].labels[index].rules.name);
                // One that waits from now on tells the end of what it has told.
                let goes_on = |rules: &LabelRules| rules.name == *label && !rules.origin.is_waiting();
                let stays = sets.iter().any(|set| set.name == *name && set.labels.iter().any(goes_on));
                if !stays {
                    self.end(set, index, EndReason::Reconfigured, emit);
                }
            }
        }
        let mut old = std::mem::take(&mut self.boards);
        let mut kept = |set: &Arc<str>, rules: LabelRules, rivals: &[NamedRival]| {
            let board = old.iter_mut().find(|board| board.set == *set);
            let at = board.as_ref().and_then(|b| b.labels.iter().position(|old| old.rules.name == rules.name));
            match board.zip(at) {
                Some((board, at)) => {
                    let mut label = board.labels.swap_remove(at);
                    label.tracker.change(rules.thresholds, gap);
                    if *board.rivals != *rivals {
                        // What was against other rivals says nothing of these.
                        (label.latest, label.peaks) = (None, HourOfPeaks::default());
                        label.tracker.forget_swallowed();
                    }
                    Watched { rules, ..label }
                }
                None => Watched::new(rules, gap),
            }
        };
        let board = |SetRules { name, labels, rivals }| {
            let labels = labels.into_iter().map(|rules| kept(&name, rules, &rivals)).collect();
            Board { set: name, labels, rivals }
        };
        self.boards = sets.into_iter().map(board).collect();
    }

    /// Takes the scores of one frame for set number `set`, one a label, and hands every event to `emit`, which says whether it is on
    /// its way to anybody: the cooldown of a start that is not does not begin.
    pub fn scores(&mut self, time: FrameTime, set: usize, scores: &[LabelScore], emit: &mut dyn FnMut(Event) -> bool) {
        self.last = Some(time);
        let second = live_scores::second(self.first.get_or_insert(time), time.captured);
        let Some(board) = self.boards.get_mut(set) else { return };
        let mut changes = Vec::new();
        for (index, (label, score)) in board.labels.iter_mut().zip(scores).enumerate() {
            label.latest = Some(*score);
            label.peaks.note(second, *score);
            if label.rules.origin.is_waiting() {
                continue;
            }
            changes.extend(label.tracker.sample(time, *score).map(|change| (index, change)));
            if let Some(cause) = label.tracker.take_swallowed() {
                self.swallowed.count(&board.set, &label.rules.name, cause);
            }
        }
        for (index, change) in changes {
            let told = emit(self.event(time, set, index, change));
            if !told && matches!(change, Change::Start { .. }) {
                self.boards[set].labels[index].tracker.untold();
            }
        }
    }

    /// Ends every open tag: the stream has ended or the daemon stops.
    pub fn close(&mut self, reason: EndReason, emit: &mut dyn FnMut(Event) -> bool) {
        for set in 0..self.boards.len() {
            for index in 0..self.boards[set].labels.len() {
                self.end(set, index, reason, emit);
            }
        }
    }

    fn end(&mut self, set: usize, index: usize, reason: EndReason, emit: &mut dyn FnMut(Event) -> bool) {
        // Without a frame there is no open tag.
        let Some(time) = self.last else { return };
        let Board { set: name, labels, .. } = &mut self.boards[set];
        let label = &mut labels[index];
        let change = label.tracker.close(time, reason);
        if let Some(cause) = label.tracker.take_swallowed() {
            self.swallowed.count(name, &label.rules.name, cause);
        }
        if let Some(change) = change {
            emit(self.event(time, set, index, change));
        }
    }

    fn event(&mut self, time: FrameTime, set: usize, index: usize, change: Change) -> Event {
        let board = &mut self.boards[set];
        let Watched { rules, tag: tag_id, .. } = &mut board.labels[index];
        let id = *tag_id.get_or_insert_with(Uuid::now_v7);
        let (kind, tag, ended) = match change {
            Change::Start { tag } => (EventKind::Start, tag, None),
            Change::Update { tag } => (EventKind::Update, tag, None),
            Change::End { tag, ended, reason } => {
                *tag_id = None;
                (EventKind::End, tag, Some((ended, reason)))
            }
        };
        metrics::counter!("vtagd_events_total", "stream" => self.stream.to_string(), "set" => board.set.to_string(), "label" => rules.name.to_string(), "type" => kind.as_str())
            .increment(1);
        Event {
            id: Uuid::now_v7(),
            source: self.source.clone(),
            kind,
            data: cloud_event::Data {
                stream: self.stream.to_string(),
                set: board.set.to_string(),
                label: rules.name.to_string(),
                tag_id: id,
                score: tag.score.probability(),
                margin: Some(tag.score.margin).filter(|margin| margin.is_finite()),
                rival: tag.score.rival.and_then(|rival| Some(board.rivals.get(rival.0 as usize)?.name.clone())),
                peak: margin::probability(tag.peak),
                started_at: tag.started.wall,
                ended_at: ended.map(|(t, _)| t.wall),
                sampled_at: time.wall,
                media_start: cloud_event::seconds(tag.started.media),
                media_end: ended.map(|(t, _)| cloud_event::seconds(t.media)),
                reason: ended.map(|(_, reason)| reason),
                model: self.model.clone(),
                attributes: Arc::clone(&rules.attributes),
                snapshot: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn at(base: Instant, seconds: u64) -> FrameTime {
        let media = Duration::from_secs(seconds);
        FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media }
    }

    /// Scores of these probabilities.
    fn scored(probabilities: &[f64]) -> Vec<LabelScore> {
        probabilities.iter().map(|p| LabelScore { margin: margin::margin(*p), rival: None }).collect()
    }

    fn set(labels: Vec<LabelRules>) -> Vec<SetRules> {
        vec![SetRules { name: "set".into(), labels, rivals: Arc::default() }]
    }

    fn emitter() -> Emitter {
        let thresholds = Thresholds {
            after: Duration::ZERO,
            after_exit: Duration::ZERO,
            cooldown: Duration::ZERO,
            ..Thresholds::default()
        };
        let label = |name: &str| LabelRules {
            name: name.into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
        };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into() };
        Emitter::new("site a", "door".into(), model, set(vec![label("cat"), label("dog")]), Duration::from_secs(30))
    }

    #[test]
    fn all_events_of_one_tag_share_its_id_and_have_their_own() {
        let base = Instant::now();
        let (mut emitter, mut events) = (emitter(), Vec::new());
        emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.1]), &mut |e| {
            events.push(e);
            true
        });
        emitter.scores(at(base, 2), 0, &scored(&[0.1, 0.9]), &mut |e| {
            events.push(e);
            true
        });
        emitter.close(EndReason::Shutdown, &mut |e| {
            events.push(e);
            true
        });
        let told: Vec<_> = events.iter().map(|e| (e.kind, e.data.label.as_str())).collect();
        assert_eq!(
            told,
            [(EventKind::Start, "cat"), (EventKind::End, "cat"), (EventKind::Start, "dog"), (EventKind::End, "dog")]
        );
        assert_eq!(events[0].data.tag_id, events[1].data.tag_id);
        assert_ne!(events[0].data.tag_id, events[2].data.tag_id);
        assert_ne!(events[0].id, events[1].id);
        assert_eq!(events[3].data.reason, Some(EndReason::Shutdown));
        assert_eq!(events[1].data.media_end, Some(2.0));
    }

    #[test]
    fn changed_labels_end_the_tags_of_those_that_went_and_leave_the_others_open() {
        let base = Instant::now();
        let (mut emitter, mut events) = (emitter(), Vec::new());
        emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.9]), &mut |e| {
            events.push(e);
            true
        });
        let thresholds =
            Thresholds { after_exit: Duration::ZERO, exit: Threshold::Probability(0.3), ..Thresholds::default() };
        let label = |name: &str| LabelRules {
            name: name.into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
        };
        let sets = set(vec![label("bird"), label("dog")]);
        emitter.relabel(sets, Duration::from_secs(30), &mut |e| {
            events.push(e);
            true
        });
        // Above the new exit: stays open; the new label is at its own place.
        emitter.scores(at(base, 2), 0, &scored(&[0.1, 0.35]), &mut |e| {
            events.push(e);
            true
        });
        emitter.scores(at(base, 3), 0, &scored(&[0.1, 0.1]), &mut |e| {
            events.push(e);
            true
        });
        let told: Vec<_> = events.iter().map(|e| (e.kind, e.data.label.as_str(), e.data.reason)).collect();
        assert_eq!(
            told,
            [
                (EventKind::Start, "cat", None),
                (EventKind::Start, "dog", None),
                (EventKind::End, "cat", Some(EndReason::Reconfigured)),
                (EventKind::End, "dog", Some(EndReason::BelowExit)),
            ]
        );
        assert_eq!(events[1].data.tag_id, events[3].data.tag_id);
    }

    #[test]
    fn a_label_that_waits_is_scored_and_tells_nothing_but_the_end_of_what_it_has_told() {
        let base = Instant::now();
        let (mut emitter, mut events) = (emitter(), Vec::new());
        let mut told = |event: Event| {
            events.push((event.kind, event.data.label, event.data.reason));
            true
        };
        emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.1]), &mut told);
        let thresholds = Thresholds { after: Duration::ZERO, cooldown: Duration::ZERO, ..Thresholds::default() };
        let label =
            |name: &str, origin| LabelRules { name: name.into(), thresholds, origin, attributes: Arc::default() };
        let sets = |origin| set(vec![label("cat", origin), label("dog", ThresholdOrigin::Calibration)]);
        let gap = Duration::from_secs(30);
        emitter.relabel(sets(ThresholdOrigin::Waiting("its view is another".into())), gap, &mut told);
        emitter.scores(at(base, 2), 0, &scored(&[0.9, 0.9]), &mut told);
        assert!(emitter.boards[0].labels[0].latest.is_some_and(|score| score.probability() > 0.8));
        emitter.relabel(sets(ThresholdOrigin::Calibration), gap, &mut told);
        emitter.scores(at(base, 3), 0, &scored(&[0.9, 0.9]), &mut told);
        let (start, end) = (EventKind::Start, EventKind::End);
        let cat = |kind, reason| (kind, "cat".to_owned(), reason);
        let expected = [
            cat(start, None),
            cat(end, Some(EndReason::Reconfigured)),
            (start, "dog".to_owned(), None),
            cat(start, None),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_start_that_reached_nobody_does_not_begin_its_cooldown() {
        let base = Instant::now();
        let thresholds = Thresholds {
            after: Duration::ZERO,
            after_exit: Duration::ZERO,
            cooldown: Duration::from_secs(60),
            ..Thresholds::default()
        };
        let label = LabelRules {
            name: "cat".into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
        };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into() };
        let mut emitter = Emitter::new("a", "door".into(), model, set(vec![label]), Duration::from_secs(30));
        let mut told = Vec::new();
        // The sinks are over their limit for the first three seconds.
        for (second, score) in [(1, 0.9), (2, 0.1), (3, 0.9), (4, 0.1), (5, 0.9), (6, 0.1), (7, 0.9)] {
            emitter.scores(at(base, second), 0, &scored(&[score]), &mut |event| {
                let reaches = second > 3;
                if reaches {
                    told.push((second, event.kind));
                }
                reaches
            });
        }
        assert_eq!(
            told,
            [(4, EventKind::End), (5, EventKind::Start), (6, EventKind::End)],
            "7 is within the cooldown of 5"
        );
    }

    #[test]
    fn a_swallowed_start_is_counted_by_set_label_and_reason_until_its_label_goes() {
        let base = Instant::now();
        let thresholds = Thresholds { after: Duration::from_secs(2), ..Thresholds::default() };
        let label = |name: &str| LabelRules {
            name: name.into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
        };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into() };
        let labels = vec![label("cat"), label("dog"), label("cow")];
        let sets = vec![SetRules { name: "pets".into(), labels, rivals: Arc::default() }];
        let swallowed = Arc::new(SwallowedStarts::new(&"door".into()));
        let emitter = Emitter::new("a", "door".into(), model, sets, Duration::from_secs(30));
        let mut emitter = emitter.counting(Arc::clone(&swallowed));
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let samples = [(1, [0.9, 0.1, 0.1]), (2, [0.1, 0.9, 0.5]), (3, [0.9, 0.9, 0.1]), (4, [0.1, 0.1, 0.1])];
            for (second, scores) in samples {
                emitter.scores(at(base, second), 0, &scored(&scores), &mut |event| panic!("{event:?}"));
            }
        });
        let told: Vec<_> = swallowed
            .report()
            .into_iter()
            .map(|r| (r.set, r.label, r.counts.after, r.counts.cooldown, r.counts.gap, r.counts.rival))
            .collect();
        let pets = |label: &str, after, rival| ("pets".to_owned(), label.to_owned(), after, 0, 0, rival);
        assert_eq!(told, [pets("cat", 2, 0), pets("cow", 0, 1), pets("dog", 1, 0)]);
        let text = recorder.handle().render();
        let line = "vtagd_starts_swallowed_total{stream=\"door\",set=\"pets\",label=\"cat\",why=\"after\"} 2";
        assert!(text.lines().any(|told| told == line), "{text}");
        swallowed.keep(&[("pets".to_owned(), "dog".to_owned())]);
        assert_eq!(swallowed.report().len(), 1);
    }

    #[test]
    fn closing_a_stream_that_never_had_a_frame_tells_nothing() {
        emitter().close(EndReason::Shutdown, &mut |e| panic!("unexpected {e:?}"));
    }

    #[test]
    fn labels_of_one_name_in_two_sets_are_two_series() {
        let thresholds = Thresholds { after: Duration::ZERO, ..Thresholds::default() };
        let label = || LabelRules {
            name: "cat".into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
        };
        let set = |name: &str| SetRules { name: name.into(), labels: vec![label()], rivals: Arc::default() };
        let sets = vec![set("indoors"), set("outdoors")];
        let model = ModelRef { name: "m".into(), fingerprint: "f".into() };
        let mut emitter = Emitter::new("a", "door".into(), model, sets, Duration::from_secs(30));
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let base = Instant::now();
        metrics::with_local_recorder(&recorder, || {
            for set in [0, 1] {
                emitter.scores(at(base, 1 + set as u64), set, &scored(&[0.9]), &mut |_| true);
            }
        });
        let text = recorder.handle().render();
        for set in ["indoors", "outdoors"] {
            let line = format!("vtagd_events_total{{stream=\"door\",set=\"{set}\",label=\"cat\",type=\"start\"}} 1");
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }
}
