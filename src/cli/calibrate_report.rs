//! What `labels calibrate` has found, for people and as JSON. In: outcomes. Out: text. On the main thread.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::calibrate::written;
use crate::calibrate::advice::Why;
use crate::calibrate::held_out::Tally;
use crate::calibrate::{EstimatedRate, LabelOutcome, Setting};
use crate::event::Thresholds;
use crate::score::margin;

/// Events that are told one by one; the others are counted.
const MOST_EVENTS: usize = 20;

/// Of a set on a stream.
pub(super) struct Report {
    pub set: String,
    pub stream: String,
    pub recordings: Vec<String>,
    pub labels: Vec<LabelReport>,
    pub written: Option<PathBuf>,
}

/// Of a label.
pub(super) struct LabelReport {
    pub label: String,
    pub outcome: LabelOutcome,
    /// What is in force.
    current: Option<Thresholds>,
}

impl LabelReport {
    pub fn new(label: &str, outcome: LabelOutcome, setting: &Setting) -> Self {
        Self { label: label.to_owned(), outcome, current: setting.current }
    }

    fn json(&self, recordings: &[String]) -> Value {
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
        let name = |at: usize| recordings.get(at).cloned().unwrap_or_default();
        let events: Vec<Value> = self
            .outcome
            .events
            .iter()
            .enumerate()
            .map(|(at, events)| json!({ "recording": name(at), "events": events }))
            .collect();
        let advice = self.outcome.advice.iter().map(|moment| {
            json!({ "recording": name(moment.recording), "at": moment.at, "margin": moment.margin, "why": moment.why })
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
            "events": events,
            "advice": advice.collect::<Vec<_>>(),
        })
    }

    fn text(&self, recordings: &[String]) -> String {
        let mut out = format!("{}\n", self.label);
        // A string takes everything.
        let mut line = |text: String| {
            let _ = writeln!(out, "  {text}");
        };
        for (at, from, to) in &self.outcome.without_samples {
            let name = recordings.get(*at).map_or("", String::as_str);
            line(format!(
                "the mark from {from} to {to} of {name} has no sample that counts: it is too short, or not in it"
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
            for (at, events) in self.outcome.events.iter().enumerate() {
                let told: Vec<String> =
                    events.iter().take(MOST_EVENTS).map(|(from, to)| format!("{from:.1}–{to:.1}")).collect();
                let more = if events.len() > MOST_EVENTS {
                    format!(" and {} more", events.len() - MOST_EVENTS)
                } else {
                    String::new()
                };
                let told = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
                let name = recordings.get(at).map_or("", String::as_str);
                line(format!("tags that would have been, in seconds of {name}: {told}{more}"));
            }
        }
        let asked: Vec<String> = self
            .outcome
            .advice
            .iter()
            .map(|moment| {
                let why = match moment.why {
                    Why::Nearest => "near the threshold",
                    Why::Highest => "the highest",
                    Why::Random => "at random",
                };
                let name = if recordings.len() > 1 {
                    format!(" of {}", recordings.get(moment.recording).map_or("", String::as_str))
                } else {
                    String::new()
                };
                format!("{:.1} s{name} ({why}, {:+.2})", moment.at, moment.margin)
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
            "region": null,
            "recordings": self.recordings,
            "labels": self.labels.iter().map(|label| label.json(&self.recordings)).collect::<Vec<_>>(),
            "written": self.written,
        })
    }

    pub fn text(&self) -> String {
        let mut out = format!("set {}, stream {}\n", self.set, self.stream);
        for label in &self.labels {
            out.push('\n');
            out.push_str(&label.text(&self.recordings));
        }
        let end = match &self.written {
            Some(path) => {
                format!("\nwritten: {}; a daemon takes it at its next reload: systemctl reload vtagd", path.display())
            }
            None => "\nnothing was written; --write keeps it".to_owned(),
        };
        out.push_str(&end);
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
