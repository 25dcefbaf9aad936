//! What a daemon would tell of a video, with the label sets and thresholds that `tag` was given: the daemon's own emitter, fed with the
//! same scores.
//!
//! In: each frame's scores, in order, on the scoring thread. Out: its events at once, and in the end a summary and what a plot is drawn from.
//! Bounded: a curve of a fixed number of points a label, and the first [`MAX_TAGS`] tags of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::score_curve::ScoreCurve;
use super::score_lines::percent;
use crate::cli::screen::table;
use crate::event::cloud_event::seconds;
use crate::event::continuity::Continuity;
use crate::event::live_scores::{Detail, Level, LiveScores};
use crate::event::{Emitter, EndReason, Event, EventKind, ModelRef, SetRules};
use crate::frame::FrameTime;
use crate::score::{LabelScore, NamedRival, margin};
use crate::stream::StreamId;
use crate::stream::swallowed_starts::SwallowedCounts;

/// Tags of a label whose times are kept, to be drawn.
pub(super) const MAX_TAGS: usize = 2000;

/// An event, and what it does not say itself.
pub(super) struct ToldEvent {
    pub event: Event,
    /// Media time of the sample that caused it.
    pub media: f64,
    /// The highest margin of the tag so far.
    pub peak_margin: Option<f32>,
}

/// One label, as it has fared.
pub(super) struct LabelCourse {
    pub region: Option<Arc<str>>,
    pub set: Arc<str>,
    pub label: Arc<str>,
    rivals: Arc<[NamedRival]>,
    /// Margins.
    pub enter: f32,
    pub exit: f32,
    pub curve: Option<ScoreCurve>,
    /// The first of its tags, from when to when.
    pub drawn: Vec<(f64, f64)>,
    pub tags: u64,
    pub over_enter: u64,
    /// The best sample, and when it was.
    pub best: Option<(f64, LabelScore)>,
    /// Of the tag that is open, or of what may become one.
    run_peak: f32,
    is_open: bool,
}

/// See the module.
pub(super) struct Rehearsal {
    id: StreamId,
    emitter: Arc<Mutex<Emitter>>,
    live: LiveScores,
    continuity: Continuity,
    pub courses: Vec<Vec<LabelCourse>>,
    pub samples: u64,
    /// The first and the last.
    pub from: f64,
    pub to: f64,
}

impl Rehearsal {
    /// `sets` in the order in which their scores will come, for one region after the other; with `curves` they are kept for a plot.
    pub fn new(
        instance: &str,
        id: &StreamId,
        model: ModelRef,
        sets: Vec<SetRules>,
        gap: Duration,
        curves: bool,
    ) -> Self {
        let of_set = |set: &SetRules| {
            let course = |label: &crate::event::LabelRules| {
                let (enter, exit) = label.thresholds.margins();
                LabelCourse {
                    region: set.region.clone(),
                    set: Arc::clone(&set.name),
                    label: Arc::clone(&label.name),
                    rivals: Arc::clone(&set.rivals),
                    enter,
                    exit,
                    curve: curves.then(ScoreCurve::new),
                    drawn: Vec::new(),
                    tags: 0,
                    over_enter: 0,
                    best: None,
                    run_peak: f32::NEG_INFINITY,
                    is_open: false,
                }
            };
            set.labels.iter().map(course).collect()
        };
        let courses = sets.iter().map(of_set).collect();
        let emitter = Arc::new(Mutex::new(Emitter::new(instance, Arc::clone(id), model, sets, gap)));
        let live = LiveScores::default();
        live.enter(id, &emitter);
        Self {
            id: Arc::clone(id),
            emitter,
            live,
            continuity: Continuity::new(gap),
            courses,
            samples: 0,
            from: 0.0,
            to: 0.0,
        }
    }

    /// Takes a frame's scores, one vector a region and set, and gives what is told at once.
    pub fn sample(&mut self, time: FrameTime, scores: &[Vec<LabelScore>]) -> Vec<ToldEvent> {
        let media = seconds(time.media);
        if self.samples == 0 {
            self.from = media;
        }
        (self.samples, self.to) = (self.samples + 1, media);
        let away = !self.continuity.note(time);
        for (course, score) in
            self.courses.iter_mut().zip(scores).flat_map(|(courses, scores)| courses.iter_mut().zip(scores))
        {
            course.sample(media, *score, away);
        }
        let mut events = Vec::new();
        let mut emitter = self.emitter.lock();
        for (set, scores) in scores.iter().enumerate() {
            emitter.scores(time, set, scores, &mut |event| {
                events.push(event);
                true
            });
        }
        drop(emitter);
        events.into_iter().map(|event| self.told(event, media)).collect()
    }

    /// The video is over: open tags end.
    pub fn close(&mut self, reason: EndReason) -> Vec<ToldEvent> {
        let mut events = Vec::new();
        self.emitter.lock().close(reason, &mut |event| {
            events.push(event);
            true
        });
        events.into_iter().map(|event| self.told(event, self.to)).collect()
    }

    fn told(&mut self, event: Event, media: f64) -> ToldEvent {
        let data = &event.data;
        let mut courses = self.courses.iter_mut().flatten();
        let course = courses.find(|course| {
            course.region.as_deref() == data.region.as_deref()
                && *course.set == *data.set
                && *course.label == *data.label
        });
        let peak_margin = course.and_then(|course| course.note(event.kind, data.media_start, data.media_end));
        ToldEvent { event, media, peak_margin }
    }

    /// What it comes to.
    pub fn summary(&self) -> Summary<'_> {
        let reading = self.live.reading(&self.id, Instant::now(), Detail::Peak, |_, _, _| true);
        let readings = reading.into_iter().flat_map(|reading| reading.scores);
        let labels = self.courses.iter().flatten().zip(readings).map(|(course, reading)| LabelSummary {
            region: course.region.as_deref(),
            set: &course.set,
            label: &course.label,
            enter: reading.enter,
            exit: reading.exit,
            over_enter: course.share_over_enter(self.samples),
            best: course.best.map(|(pts, score)| BestSample {
                pts,
                score: score.probability(),
                margin: Some(score.margin).filter(|margin| margin.is_finite()),
                rival: score.rival.and_then(|rival| Some(&*course.rivals.get(rival.0 as usize)?.name)),
            }),
            tags: course.tags,
            swallowed: reading.swallowed,
        });
        Summary { samples: self.samples, from: self.from, to: self.to, labels: labels.collect() }
    }
}

impl LabelCourse {
    fn sample(&mut self, media: f64, score: LabelScore, away: bool) {
        let is_over = score.margin >= self.enter;
        self.over_enter += u64::from(is_over);
        if self.best.is_none_or(|(_, best)| score.margin > best.margin || best.margin.is_nan()) {
            self.best = Some((media, score));
        }
        if let Some(curve) = &mut self.curve {
            curve.note(media, score.margin);
        }
        if !self.is_open && (away || !is_over) {
            self.run_peak = f32::NEG_INFINITY;
        }
        if self.is_open || is_over {
            self.run_peak = self.run_peak.max(score.margin);
        }
    }

    /// Notes one of its events; gives the highest margin of its tag.
    fn note(&mut self, kind: EventKind, start: f64, end: Option<f64>) -> Option<f32> {
        let peak = self.run_peak;
        match kind {
            EventKind::Start => (self.tags, self.is_open) = (self.tags + 1, true),
            EventKind::Update => {}
            EventKind::End => {
                if self.drawn.len() < MAX_TAGS {
                    self.drawn.push((start, end.unwrap_or(start)));
                }
                (self.run_peak, self.is_open) = (f32::NEG_INFINITY, false);
            }
        }
        Some(peak).filter(|peak| peak.is_finite())
    }

    /// 0..=1; samples are evenly spaced, as far as the source allows.
    pub fn share_over_enter(&self, samples: u64) -> f64 {
        if samples == 0 { 0.0 } else { self.over_enter as f64 / samples as f64 }
    }
}

/// What a rehearsal comes to; the last line of `--events --json` of each video. Stable; fields may be added.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    pub samples: u64,
    /// Seconds from the stream's first PTS: the first and the last sample.
    from: f64,
    to: f64,
    pub labels: Vec<LabelSummary<'a>>,
}

#[derive(Serialize)]
pub(super) struct LabelSummary<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    set: &'a str,
    label: &'a str,
    enter: Level,
    exit: Level,
    /// Share of the samples that were at or above `enter`.
    over_enter: f64,
    best: Option<BestSample<'a>>,
    tags: u64,
    /// Starts that were none, by what swallowed them.
    swallowed: SwallowedCounts,
}

#[derive(Serialize)]
struct BestSample<'a> {
    pts: f64,
    score: f32,
    margin: Option<f32>,
    rival: Option<&'a str>,
}

impl Summary<'_> {
    /// For people.
    pub fn text(&self) -> String {
        let heading =
            ["set", "label", "over enter", "enter", "highest", "at", "against", "tags", "after", "cooldown", "rival"];
        let mut rows = vec![heading.map(str::to_owned)];
        let signed = |margin: Option<f32>| margin.map_or_else(|| "-".to_owned(), |margin| format!("{margin:+.2}"));
        for label in &self.labels {
            let best = label.best.as_ref();
            let highest = best
                .map_or_else(|| "-".to_owned(), |best| format!("{} ({})", signed(best.margin), percent(best.score)));
            rows.push([
                label.set.to_owned(),
                label.region.map_or_else(|| label.label.to_owned(), |region| format!("{region}: {}", label.label)),
                format!("{:.0} %", label.over_enter * 100.0),
                signed(label.enter.margin),
                highest,
                best.map_or_else(String::new, |best| format!("{:.2} s", best.pts)),
                best.and_then(|best| best.rival).unwrap_or("-").chars().take(40).collect(),
                label.tags.to_string(),
                label.swallowed.after.to_string(),
                label.swallowed.cooldown.to_string(),
                label.swallowed.rival.to_string(),
            ]);
        }
        let samples = format!("{} samples, {:.2} s to {:.2} s", self.samples, self.from, self.to);
        let legend = "over enter: share of the samples; enter, highest: margins; after, cooldown, rival: starts that were none, and why";
        format!("{samples}\n{}\n{legend}", table(&rows))
    }
}

/// What a margin is as a probability, in words.
pub(super) fn margin_in_words(value: f32) -> String {
    format!("{value:+.1} ({})", percent(margin::probability(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{LabelRules, Thresholds};
    use crate::score::Rival;

    fn rehearse(margins: &[f32]) -> (Rehearsal, Vec<ToldEvent>) {
        let rules = LabelRules {
            name: "car".into(),
            thresholds: Thresholds {
                after: Duration::from_secs(2),
                after_exit: Duration::from_secs(2),
                ..Thresholds::default()
            },
            origin: crate::event::ThresholdOrigin::default(),
            attributes: Arc::default(),
            hours: None,
        };
        let rivals = [NamedRival { kind: crate::score::RivalKind::Background, name: "a yard".into() }];
        let set = SetRules { region: None, name: "lot".into(), labels: vec![rules], rivals: rivals.into() };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
        let id = StreamId::from("file");
        let mut rehearsal = Rehearsal::new("site", &id, model, vec![set], Duration::from_secs(30), true);
        let base = Instant::now();
        let mut told = Vec::new();
        for (second, margin) in margins.iter().enumerate() {
            let media = Duration::from_secs(second as u64);
            let time =
                FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media, connection: 0 };
            let score = LabelScore { margin: *margin, rival: Some(Rival(0)) };
            told.extend(rehearsal.sample(time, &[vec![score]]));
        }
        told.extend(rehearsal.close(EndReason::StreamEnded));
        (rehearsal, told)
    }

    #[test]
    fn each_tag_has_its_own_peak_and_what_was_none_is_summed_up() {
        // Too short; a tag with its peak before it is told; nearly; none of the first tag's peak is left for what comes later.
        let margins = [-3.0, 9.0, -3.0, 2.0, 5.0, 1.0, -1.0, -2.0, -3.0, 0.1, -3.0];
        let (rehearsal, told) = rehearse(&margins);
        let events: Vec<_> = told.iter().map(|told| (told.event.kind, told.media, told.peak_margin)).collect();
        assert_eq!(events, [(EventKind::Start, 5.0, Some(5.0)), (EventKind::End, 8.0, Some(5.0))]);
        assert_eq!(told[1].event.data.media_end, Some(6.0));
        assert_eq!(rehearsal.courses[0][0].drawn, [(3.0, 6.0)]);
        let summary = serde_json::to_value(rehearsal.summary()).unwrap();
        assert_eq!((&summary["samples"], &summary["to"]), (&11.into(), &10.0.into()));
        let label = &summary["labels"][0];
        assert_eq!((&label["tags"], &label["over_enter"]), (&1.into(), &(4.0 / 11.0).into()));
        assert_eq!((&label["best"]["margin"], &label["best"]["pts"]), (&9.0.into(), &1.0.into()));
        assert_eq!((&label["best"]["rival"], &label["swallowed"]["after"]), (&"a yard".into(), &1.into()));
        assert_eq!(label["swallowed"]["rival"], 1);
        assert!(rehearsal.summary().text().contains("+9.00 (99.99 %)"), "{}", rehearsal.summary().text());
    }

    #[test]
    fn a_tag_that_is_open_ends_with_the_video_and_no_sample_is_no_summary_of_nonsense() {
        let (rehearsal, told) = rehearse(&[1.0, 2.0, 3.0]);
        assert_eq!(told.last().unwrap().event.data.reason, Some(EndReason::StreamEnded));
        assert_eq!(told.last().unwrap().peak_margin, Some(3.0));
        assert_eq!(rehearsal.courses[0][0].drawn, [(0.0, 2.0)]);
        let (empty, told) = rehearse(&[]);
        assert!(told.is_empty() && empty.summary().text().contains("0 samples"));
        let json = serde_json::to_value(empty.summary()).unwrap();
        assert_eq!((&json["labels"][0]["over_enter"], &json["labels"][0]["best"]), (&0.0.into(), &().into()));
    }
}
