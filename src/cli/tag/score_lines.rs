//! What `tag` prints: a line for each picture or sampled frame, a line for each event of a rehearsal, for people or as JSON.
//!
//! In: scores of all sets, in their order, or events. Out: lines on stdout. On the thread that has them; a reader that does not read
//! holds it up, one that has gone ends the program.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::super::{complain, say};
use super::rehearsal::ToldEvent;
use crate::event::{EndReason, EventKind};
use crate::frame::view::Views;
use crate::label::LabelSet;
use crate::score::{LabelScore, NamedRival, Scoring};

/// One picture or sampled frame, as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    /// As text: a name that is not UTF-8 has `\u{fffd}` in place of what is not.
    file: Cow<'a, str>,
    /// Seconds from the video's start; null for a picture.
    pts: Option<f64>,
    /// Best first.
    tags: Vec<Tag<'a>>,
    /// Of each set that has one.
    background: Vec<BackgroundShare<'a>>,
}

#[derive(Serialize)]
struct Tag<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    set: &'a str,
    label: &'a str,
    score: f32,
    /// The logit of the score; null where it competes with nothing.
    margin: Option<f32>,
    /// The strongest of what it competes with.
    rival: Option<&'a str>,
}

/// What is left to a set's background.
#[derive(Serialize)]
struct BackgroundShare<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    set: &'a str,
    score: f32,
}

/// Prints scores, readable or as JSON.
#[derive(Clone)]
pub(super) struct Printer {
    sets: Arc<[LabelSet]>,
    /// The names of the regions that are looked at; one without a name is the whole view.
    regions: Arc<[Option<Arc<str>>]>,
    /// Of each set.
    rivals: Arc<[Vec<NamedRival>]>,
    json: bool,
    top: usize,
}

impl Printer {
    pub fn new(sets: &[LabelSet], views: &Views, json: bool, top: usize) -> Self {
        let regions = views.iter().map(|view| view.name.clone()).collect();
        Self { sets: sets.into(), regions, rivals: sets.iter().map(LabelSet::rivals).collect(), json, top }
    }

    /// `scores`: one vector a set, for one region after the other.
    pub fn print(&self, file: &str, pts: Option<f64>, scores: &[Vec<LabelScore>]) {
        let mut tags: Vec<Tag<'_>> = Vec::new();
        let mut background = Vec::new();
        let sets = || self.sets.iter().zip(&*self.rivals);
        let boards =
            self.regions.iter().flat_map(|region| sets().map(move |(set, rivals)| (region.as_deref(), set, rivals)));
        for ((region, set, rivals), scores) in boards.zip(scores) {
            tags.extend(set.labels.iter().zip(scores).map(|(label, score)| Tag {
                region,
                set: &set.name,
                label: &label.name,
                score: score.probability(),
                margin: Some(score.margin).filter(|margin| margin.is_finite()),
                rival: score.rival.and_then(|rival| Some(&*rivals.get(rival.0 as usize)?.name)),
            }));
            background.extend(left_to_background(set, scores).map(|score| BackgroundShare {
                region,
                set: &set.name,
                score,
            }));
        }
        tags.sort_by(|a, b| b.score.total_cmp(&a.score));
        if self.json {
            print_json(file, &Line { file: file.into(), pts, tags, background });
            return;
        }
        let mut row: Vec<String> =
            tags.iter().take(self.top).map(|tag| share(tag.score, &below(tag.region, tag.label))).collect();
        row.extend(background.iter().map(|left| match &*self.sets {
            [_] => share(left.score, &below(left.region, "(background)")),
            _ => share(left.score, &below(left.region, &format!("(background of {})", left.set))),
        }));
        print_text(&format!("{file}{}  {}", pts.map_or_else(String::new, place), row.join("   ")));
    }

    /// One event; without JSON starts and ends alone.
    pub fn print_event(&self, file: &str, told: &ToldEvent) {
        if self.json {
            match serde_json::to_value(&told.event) {
                Ok(mut event) => {
                    event["file"] = file.into();
                    event["peakmargin"] = told.peak_margin.into();
                    say(&event.to_string());
                }
                Err(error) => complain(&format!("{file}: {error}")),
            }
            return;
        }
        let data = &told.event.data;
        let margin = |margin: Option<f32>| margin.map_or_else(String::new, |margin| format!(", margin {margin:+.2}"));
        let label = match &*self.sets {
            [_] => below(data.region.as_deref(), &data.label),
            _ => below(data.region.as_deref(), &format!("{} (set {})", data.label, data.set)),
        };
        let line = match told.event.kind {
            EventKind::Update => return,
            EventKind::Start => {
                let rival = data.rival.as_ref().map_or_else(String::new, |rival| format!(" against \"{rival}\""));
                format!(
                    "{}  start  {label}: told at {:.2} s with {}{}{rival}",
                    place(data.media_start),
                    told.media,
                    percent(data.score),
                    margin(data.margin)
                )
            }
            EventKind::End => {
                let end = data.media_end.unwrap_or(told.media);
                let why = match data.reason {
                    Some(EndReason::StreamEnded) => "; the video ended",
                    Some(EndReason::Shutdown) => "; watched no longer",
                    _ => "",
                };
                format!(
                    "{}  end    {label}: {:.2} s long, from {:.2} s; at best {}{}{why}",
                    place(end),
                    end - data.media_start,
                    data.media_start,
                    percent(data.peak),
                    margin(told.peak_margin)
                )
            }
        };
        print_text(&format!("{file}{line}"));
    }
}

/// What the labels of a set with a background leave to it: of an exclusive set what is missing to 1 (its negatives' share too), of an
/// independent one what the best label is missing to 1.
fn left_to_background(set: &LabelSet, scores: &[LabelScore]) -> Option<f32> {
    if !set.has_background() {
        return None;
    }
    let probabilities = scores.iter().map(|score| score.probability());
    let taken = match set.scoring {
        Scoring::Exclusive => probabilities.sum(),
        Scoring::Independent => probabilities.fold(0.0, f32::max),
    };
    Some((1.0 - taken).max(0.0))
}

/// What is seen in a region names it.
fn below(region: Option<&str>, what: &str) -> String {
    region.map_or_else(|| what.to_owned(), |region| format!("{region}: {what}"))
}

fn share(score: f32, of: &str) -> String {
    format!("{:>3.0} % {of}", score * 100.0)
}

/// A probability, with more digits where it is nearly 0 or 1.
pub(super) fn percent(probability: f32) -> String {
    let percent = f64::from(probability) * 100.0;
    match percent {
        percent if (1.0..=99.0).contains(&percent) => format!("{percent:.0} %"),
        // Rounded, it would be none or all, which a score never is.
        percent if percent < 0.005 => "<0.01 %".to_owned(),
        percent if percent >= 99.995 => ">99.99 %".to_owned(),
        percent => format!("{percent:.2} %"),
    }
}

fn place(seconds: f64) -> String {
    format!(" {seconds:>8.2} s")
}

/// Names and labels are a stranger's text: on a terminal they must not move the cursor.
fn print_text(line: &str) {
    say(&line.replace(char::is_control, "\u{fffd}"));
}

pub(super) fn print_json(file: &str, value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => say(&line),
        Err(error) => complain(&format!("{file}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;
    use crate::score::margin;

    fn set(scoring: Scoring, background: &[&str]) -> LabelSet {
        LabelSet {
            name: "yard".to_owned(),
            scoring,
            templates: vec!["{}".to_owned()],
            ensemble: Default::default(),
            background: background.iter().map(|text| (*text).to_owned()).collect(),
            has_nouns: false,
            counter_examples: Vec::new(),
            labels: vec![Label::plain("car"), Label::plain("bus")],
            hours: None,
            file: Default::default(),
            sha256: String::new(),
        }
    }

    #[test]
    fn what_no_label_has_is_the_backgrounds() {
        let scores = [0.5, 0.2].map(|p| LabelScore { margin: margin::margin(p), rival: None });
        let left = |scoring, background: &[&str]| left_to_background(&set(scoring, background), &scores);
        assert_eq!(left(Scoring::Exclusive, &[]), None);
        assert!((left(Scoring::Exclusive, &["a yard"]).unwrap() - 0.3).abs() < 1e-6);
        assert!((left(Scoring::Independent, &["a yard"]).unwrap() - 0.5).abs() < 1e-6);
        // Labels that are best in different tiles may have more than 1 together.
        let scores = [0.9, 0.8].map(|p| LabelScore { margin: margin::margin(p), rival: None });
        assert_eq!(left_to_background(&set(Scoring::Exclusive, &["a yard"]), &scores), Some(0.0));
    }

    #[test]
    fn what_is_nearly_certain_has_more_digits() {
        let told = ["50 %", "99.40 %", "99.96 %", "0.10 %", ">99.99 %", "<0.01 %"];
        assert_eq!([0.5, 0.994, 0.9996, 0.001, 1.0, 1e-9].map(percent), told);
    }
}
