//! What `labels calibrate` has found, for people and as JSON. In: outcomes. Out: text. On the main thread.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::calibrate::written;
use super::plural;
use crate::calibrate::advice::Why;
use crate::calibrate::held_out::Tally;
use crate::calibrate::marks::MarkTime;
use crate::calibrate::{EstimatedRate, LabelOutcome};
use crate::config::calibrations::Waiting;
use crate::event::Thresholds;
use crate::score::margin;

/// Events that are told one by one; the others are counted.
const MOST_EVENTS: usize = 20;

/// Of a set on a stream.
pub(super) struct Report {
    pub set: String,
    pub stream: String,
    pub region: Option<String>,
    pub recordings: Vec<ReportedRecording>,
    pub labels: Vec<LabelReport>,
    /// Labels that have learned from what is marked.
    pub learned: Vec<String>,
    pub written: Option<PathBuf>,
    /// Which labels wait elsewhere, once that counts.
    pub waiting: Vec<Waiting>,
}

/// What was looked at.
pub(super) struct ReportedRecording {
    pub name: String,
    /// Its moments are seconds from the first picture; else they are those of the clock.
    pub is_clip: bool,
}

impl ReportedRecording {
    /// A moment of it, as it would be marked.
    fn moment(&self, at: f64) -> MarkTime {
        if self.is_clip {
            return MarkTime::Media(at);
        }
        let wall = jiff::Timestamp::from_millisecond((at * 1000.0).round() as i64);
        wall.map_or(MarkTime::Media(at), MarkTime::Wall)
    }

    /// For a person.
    fn shown(&self, at: f64) -> String {
        match self.moment(at) {
            MarkTime::Media(seconds) => format!("{seconds:.1}"),
            MarkTime::Wall(wall) => wall.strftime("%FT%T%.1fZ").to_string(),
        }
    }
}

/// Of a label.
pub(super) struct LabelReport {
    pub label: String,
    pub outcome: LabelOutcome,
    /// What is in force.
    pub current: Option<Thresholds>,
    /// Rows of the past that stand for what is marked as seen and for what is not.
    pub of_both: usize,
    /// Where it is calibrated already: samples below `enter`, of the last day, and which share of them lies beyond what it was calibrated on.
    pub drift: Option<(u64, f64)>,
}

impl LabelReport {
    fn json(&self, recordings: &[ReportedRecording]) -> Value {
        let found = self.outcome.found.as_ref();
        let thresholds = |thresholds: &Thresholds| {
            let level = |threshold: crate::score::Threshold| {
                let margin = Some(threshold.margin()).filter(|margin| margin.is_finite());
                json!({ "margin": margin, "score": threshold.probability() })
            };
            json!({
                "enter": level(thresholds.enter),
                "exit": level(thresholds.exit),
                "after": thresholds.after.as_secs_f64(),
                "after_exit": thresholds.after_exit.as_secs_f64(),
                "cooldown": thresholds.cooldown.as_secs_f64(),
            })
        };
        let of_tally = |tally: &Tally| {
            json!({
                "f1": tally.f1(), "hits": tally.hits, "false_tags": tally.false_tags, "missed": tally.missed,
                "absent_tagged": tally.absent_tagged(), "present_covered": tally.present_covered(),
            })
        };
        let checked = self.outcome.check.as_ref().ok().map(|check| {
            json!({ "folds": check.folds, "before": check.before.as_ref().map(of_tally), "after": of_tally(&check.after) })
        });
        let events = recordings.iter().zip(&self.outcome.events).map(|(recording, events)| {
            let spans = events.iter().map(|(from, to)| [recording.moment(*from), recording.moment(*to)]);
            json!({ "recording": recording.name, "events": spans.collect::<Vec<_>>() })
        });
        let advice = self.outcome.advice.iter().filter_map(|moment| {
            let recording = recordings.get(moment.recording)?;
            let at = recording.moment(moment.at);
            Some(json!({ "recording": recording.name, "at": at, "margin": moment.margin, "why": moment.why }))
        });
        json!({
            "label": self.label,
            "found": found.ok().map(|(_, found)| thresholds(found)),
            "refused": found.err().map(ToString::to_string),
            "cautious": found.is_ok_and(|(fit, _)| fit.cautious),
            "samples": found.ok().map(|(fit, _)| json!({ "seen": fit.seen, "not_seen": fit.not_seen })),
            "balanced_accuracy": found.ok().filter(|(fit, _)| !fit.cautious).map(|(fit, _)| fit.balanced_accuracy),
            "not_seen_range": found.ok().map(|(fit, _)| [fit.not_seen_range.0, fit.not_seen_range.1]),
            "current": self.current.as_ref().map(thresholds),
            "checked": checked,
            "not_checked": self.outcome.check.as_ref().err(),
            "histogram": self.outcome.histogram,
            "rows_of_both": self.of_both,
            "drift": self.drift.map(|(samples, share)| json!({ "samples": samples, "share": share })),
            "events": events.collect::<Vec<_>>(),
            "advice": advice.collect::<Vec<_>>(),
        })
    }

    fn text(&self, recordings: &[ReportedRecording]) -> String {
        let mut out = format!("{}\n", self.label);
        // A string takes everything.
        let mut line = |text: String| {
            let _ = writeln!(out, "  {text}");
        };
        for (at, from, to) in &self.outcome.without_samples {
            let Some(recording) = recordings.get(*at) else { continue };
            let (from, to, name) = (recording.shown(*from), recording.shown(*to), &recording.name);
            line(format!(
                "the mark from {from} to {to} of {name} has no sample that counts: it is too short, or not in it"
            ));
        }
        if let Some((samples, share)) = self.drift {
            line(format!(
                "{:.0} % of the last day's {} below `enter` lie beyond what it was calibrated on",
                share * 100.0,
                plural(samples as usize, "sample")
            ));
        }
        if self.of_both > 0 {
            line(format!(
                "the history took what is marked as with it and what is marked as without it for the same ({}): a smaller `history.min_change` \
                 (0 keeps every sample) tells them apart from then on, a --clip does now",
                plural(self.of_both, "row")
            ));
        }
        match &self.outcome.found {
            Err(why) => line(format!("not calibrated: {why}")),
            Ok((fit, found)) => {
                let cautious = if fit.cautious { ", cautious: nothing is marked as seen" } else { "" };
                line(format!("enter {}{cautious}", level(fit.enter)));
                line(format!("exit  {}", level(fit.exit)));
                let times = |of: &Thresholds| {
                    format!(
                        "after {}, after_exit {}, cooldown {}",
                        written(of.after),
                        written(of.after_exit),
                        written(of.cooldown)
                    )
                };
                line(times(found));
                match &self.current {
                    Some(now) => line(format!("in force now: enter {}, {}", level(now.enter.margin()), times(now))),
                    None => line("in force now: nothing, it waits".to_owned()),
                }
                let accuracy = if fit.cautious {
                    String::new()
                } else {
                    format!(", told apart with balanced accuracy {:.3}", fit.balanced_accuracy)
                };
                line(format!("of {} samples with it and {} without it{accuracy}", fit.seen, fit.not_seen));
            }
        }
        if let Some(histogram) = &self.outcome.histogram {
            line(format!(
                "without it {} margins {:+.2} to {:+.2}",
                bars(&histogram.not_seen),
                histogram.from,
                histogram.to
            ));
            line(format!("with it    {}", bars(&histogram.seen)));
        }
        if self.outcome.found.is_ok() {
            match &self.outcome.check {
                Err(why) => line((*why).to_owned()),
                Ok(check) => {
                    let folds = check.folds;
                    line(format!(
                        "on whole marks that it was not made of ({folds} rounds; ranges: Wilson, 95 %, of whole marks):"
                    ));
                    if let Some(before) = &check.before {
                        line(format!("  before: {}", tally(before)));
                    }
                    line(format!("  after:  {}", tally(&check.after)));
                }
            }
            for (recording, events) in recordings.iter().zip(&self.outcome.events) {
                let shown = |(from, to): &(f64, f64)| format!("{}–{}", recording.shown(*from), recording.shown(*to));
                let told: Vec<String> = events.iter().take(MOST_EVENTS).map(shown).collect();
                let more = if events.len() > MOST_EVENTS {
                    format!(" and {} more", events.len() - MOST_EVENTS)
                } else {
                    String::new()
                };
                let told = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
                let seconds = if recording.is_clip { "seconds of " } else { "" };
                line(format!("tags that would have been, in {seconds}{}: {told}{more}", recording.name));
            }
        }
        let asked: Vec<String> = self
            .outcome
            .advice
            .iter()
            .filter_map(|moment| {
                let why = match moment.why {
                    Why::Nearest => "near the threshold",
                    Why::Highest => "the highest",
                    Why::Random => "at random",
                };
                let recording = recordings.get(moment.recording)?;
                let name = if recordings.len() > 1 { format!(" of {}", recording.name) } else { String::new() };
                let unit = if recording.is_clip { " s" } else { "" };
                Some(format!("{}{unit}{name} ({why}, {:+.2})", recording.shown(moment.at), moment.margin))
            })
            .collect();
        if !asked.is_empty() {
            line(format!("marking these moments would help most: {}", asked.join(", ")));
        }
        out
    }
}

impl Report {
    /// Stable; fields may be added.
    pub fn json(&self) -> Value {
        json!({
            "set": self.set,
            "stream": self.stream,
            "region": self.region,
            "recordings": self.recordings.iter().map(|recording| &recording.name).collect::<Vec<_>>(),
            "labels": self.labels.iter().map(|label| label.json(&self.recordings)).collect::<Vec<_>>(),
            "learned": self.learned,
            "written": self.written,
            "waiting": self.waiting.iter().map(|one| {
                json!({ "stream": one.stream, "region": one.region, "labels": one.labels })
            }).collect::<Vec<_>>(),
        })
    }

    pub fn text(&self) -> String {
        let region = self.region.as_ref().map_or_else(String::new, |region| format!("/{region}"));
        let mut out = format!("set {}, stream {}{region}\n", self.set, self.stream);
        for label in &self.labels {
            out.push('\n');
            out.push_str(&label.text(&self.recordings));
        }
        if !self.learned.is_empty() {
            let learned = self.learned.join(", ");
            let _ = write!(
                out,
                "\nlearned from what is marked: {learned}; from all of it, also where the rounds hold marks back from the thresholds: on others F1 is \
                 lower\n"
            );
        }
        let end = match &self.written {
            Some(path) => {
                format!("\nwritten: {}; a daemon takes it at its next reload: systemctl reload vtagd", path.display())
            }
            None => "\nnothing was written; --write keeps it".to_owned(),
        };
        out.push_str(&end);
        for one in &self.waiting {
            let region = one.region.as_ref().map_or_else(String::new, |region| format!("/{region}"));
            let labels = one.labels.join(", ");
            let _ = write!(
                out,
                "\nwhat was learned counts wherever the set is looked for: on stream {}{region} these wait and tell nothing until they are calibrated \
                 there, or confirmed (`vtagd labels confirm`): {labels}",
                one.stream
            );
        }
        // Names and labels are a stranger's text: on a terminal they must not move the cursor.
        out.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
    }
}

/// A margin, and the score that it is.
fn level(value: f32) -> String {
    format!("{{ margin: {value:.3} }} (score {:.4})", margin::probability(value))
}

fn tally(tally: &Tally) -> String {
    let rate = |rate: Option<EstimatedRate>| {
        let share = |share: f64| format!("{:.0}", share * 100.0);
        rate.map_or_else(|| "-".to_owned(), |r| format!("{} % ({}–{})", share(r.value), share(r.low), share(r.high)))
    };
    let f1 = tally.f1().map_or_else(|| "-".to_owned(), |f1| format!("{:.2} ({:.2}–{:.2})", f1.value, f1.low, f1.high));
    format!(
        "strict F1 {f1}: {} right, {} false, {} missed; {} of the time without it tagged, {} of the time with it covered",
        tally.hits,
        tally.false_tags,
        tally.missed,
        rate(tally.absent_tagged()),
        rate(tally.present_covered())
    )
}

/// A row of bars, the highest full.
fn bars(bins: &[u64]) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = bins.iter().copied().max().unwrap_or_default().max(1) as f64;
    // What is there at all is seen.
    let bar = |bin: &u64| BARS[if *bin == 0 { 0 } else { ((*bin as f64 / most * 8.0).ceil() as usize).clamp(1, 8) }];
    format!("▕{}▏", bins.iter().map(bar).collect::<String>())
}
