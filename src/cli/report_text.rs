//! What `labels report` has found, for people, as JSON and as a page. In: numbers. Out: text. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::intruder_pictures::PASTED;
use crate::calibrate::EstimatedRate;
use crate::calibrate::held_out::Tally;
use crate::score::learning::LearnedLabel;

/// Told so often or more, a label says little of strangers.
const OFTEN: f64 = 0.5;
/// Below this balanced accuracy texts say little of what was learned.
const UNSUPPORTED: f64 = 0.75;

/// What is not said, wherever the report is read.
const LIMITS: &str = "Strangers are photographs pasted into the scene: what really comes by casts a shadow, moves and is sharp or blurred like the rest. Marks are few; ranges \
                      are Wilson's at 95 %, of whole marks, and of kinds of strangers. Weather, night and another place are not in it.";

/// How often a label was told where only strangers were.
pub(super) struct Intruders {
    pub pictures: usize,
    pub told: usize,
    /// Empty moments themselves.
    pub empty: usize,
    pub empty_told: usize,
    pub by_kind: Vec<(&'static str, f64)>,
    /// Those that the label means.
    pub left_out: Vec<&'static str>,
}

impl Intruders {
    fn rate(&self) -> Option<EstimatedRate> {
        EstimatedRate::of(self.told as f64 / self.pictures as f64, self.by_kind.len())
    }
}

pub(super) struct LabelTrust {
    pub label: String,
    /// It tells nothing until it is calibrated again.
    pub is_waiting: bool,
    pub is_calibrated: bool,
    /// A margin.
    pub enter: f32,
    /// `None`: nothing is in force.
    pub tally: Option<Tally>,
    /// Samples below `enter` of the last day, and which share lies beyond the calibrated range.
    pub drift: Option<(u64, f64)>,
    /// `None`: it has no examples.
    pub learned: Option<LearnedLabel>,
    pub intruders: Option<Intruders>,
}

impl LabelTrust {
    /// What has to be said beside the numbers.
    fn verdict(&self) -> Option<&'static str> {
        let rate = self.intruders.as_ref()?.rate()?.value;
        let learned = self.learned.as_ref().is_some_and(|one| one.is_used && one.by_texts < UNSUPPORTED);
        match (rate >= OFTEN, learned) {
            (true, true) => {
                Some("answers to anything unlike the empty scene: texts do not support what it has learned")
            }
            (true, false) => Some("answers to much that it does not mean"),
            (false, _) => None,
        }
    }

    fn thresholds(&self) -> &'static str {
        match (self.is_waiting, self.is_calibrated) {
            (true, _) => "waiting",
            (false, true) => "calibration",
            (false, false) => "configuration",
        }
    }
}

pub(super) struct TrustReport {
    pub set: String,
    pub stream: String,
    pub region: Option<String>,
    /// The model's fingerprint.
    pub model: String,
    pub recordings: Vec<String>,
    /// Why there are no intruder rates.
    pub no_intruders: Option<String>,
    pub labels: Vec<LabelTrust>,
}

impl TrustReport {
    /// Stable; fields may be added.
    pub fn json(&self) -> Value {
        let of_label = |one: &LabelTrust| {
            let tally = one.tally.as_ref();
            let intruders = one.intruders.as_ref().map(|intruders| {
                let kinds: serde_json::Map<String, Value> =
                    intruders.by_kind.iter().map(|(kind, rate)| ((*kind).to_owned(), json!(rate))).collect();
                json!({
                    "rate": intruders.rate(), "pictures": intruders.pictures, "told": intruders.told, "by_kind": kinds,
                    "left_out": intruders.left_out, "empty": intruders.empty, "empty_told": intruders.empty_told,
                })
            });
            json!({
                "label": one.label,
                "thresholds_from": one.thresholds(),
                "enter": Some(one.enter).filter(|enter| enter.is_finite()),
                "f1": tally.and_then(Tally::f1),
                "hits": tally.map(|tally| tally.hits),
                "false_tags": tally.map(|tally| tally.false_tags),
                "missed": tally.map(|tally| tally.missed),
                "absent_tagged": tally.and_then(Tally::absent_tagged),
                "present_covered": tally.and_then(Tally::present_covered),
                "drift": one.drift.map(|(samples, share)| json!({ "samples": samples, "share": share })),
                "learned": one.learned.as_ref().map(|learned| json!({ "used": learned.is_used, "by_texts": learned.by_texts })),
                "intruders": intruders,
                "verdict": one.verdict(),
            })
        };
        json!({
            "set": self.set, "stream": self.stream, "region": self.region, "model": self.model, "recordings": self.recordings,
            "no_intruders": self.no_intruders, "labels": self.labels.iter().map(of_label).collect::<Vec<_>>(), "limits": LIMITS,
        })
    }

    /// A row a label: name, what it was found to be, remarks.
    fn rows(&self) -> Vec<[String; 7]> {
        let share = |rate: Option<EstimatedRate>| {
            let percent = |share: f64| format!("{:.0}", share * 100.0);
            let told = |r: EstimatedRate| format!("{} % ({}–{})", percent(r.value), percent(r.low), percent(r.high));
            rate.map_or_else(|| "-".to_owned(), told)
        };
        let row = |one: &LabelTrust| {
            let tally = one.tally.as_ref();
            let f1 = tally.and_then(Tally::f1);
            let f1 = f1.map_or_else(|| "-".to_owned(), |f1| format!("{:.2} ({:.2}–{:.2})", f1.value, f1.low, f1.high));
            let drift = one.drift.map_or_else(|| "-".to_owned(), |(_, share)| format!("{:.0} %", share * 100.0));
            let learned = match &one.learned {
                None => "texts".to_owned(),
                Some(learned) if learned.is_used => format!("learned (texts {:.2})", learned.by_texts),
                Some(learned) => format!("texts suffice ({:.2})", learned.by_texts),
            };
            [
                one.label.clone(),
                f1,
                share(tally.and_then(Tally::absent_tagged)),
                share(tally.and_then(Tally::present_covered)),
                share(one.intruders.as_ref().and_then(Intruders::rate)),
                drift,
                format!("{}, {learned}", one.thresholds()),
            ]
        };
        self.labels.iter().map(row).collect()
    }

    /// What is said below the rows, each of a label or of all.
    fn remarks(&self) -> Vec<String> {
        let mut out = Vec::new();
        for one in &self.labels {
            if let Some(verdict) = one.verdict() {
                out.push(format!("{}: {verdict}", one.label));
            }
            let Some(intruders) = &one.intruders else { continue };
            let kinds = intruders.by_kind.iter().map(|(kind, rate)| format!("{kind} {:.0} %", rate * 100.0));
            let left = match intruders.left_out[..] {
                [] => String::new(),
                ref left => format!("; left out, as the label means them: {}", left.join(", ")),
            };
            out.push(format!(
                "{}: told by strangers: {}{left}; by {} of {} empty moments themselves",
                one.label,
                kinds.collect::<Vec<_>>().join(", "),
                intruders.empty_told,
                intruders.empty
            ));
        }
        match &self.no_intruders {
            Some(why) => out.push(format!("no intruder rate: {why}")),
            None => out.push(format!("each stranger stands at {PASTED} places and sizes of each empty moment")),
        }
        out.push(LIMITS.to_owned());
        out
    }

    fn title(&self) -> String {
        let region = self.region.as_ref().map_or_else(String::new, |region| format!("/{region}"));
        format!("set {}, stream {}{region}, {}", self.set, self.stream, self.recordings.join(", "))
    }

    pub fn text(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.rows());
        let mut out = self.title();
        out.push_str("\n\n");
        out.push_str(&super::screen::table(&rows));
        out.push('\n');
        for remark in self.remarks() {
            // A string takes everything.
            let _ = write!(out, "\n{remark}");
        }
        // Names and labels are a stranger's text: on a terminal they must not move the cursor.
        out.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
    }

    /// A page without anything from elsewhere.
    pub fn html(&self) -> String {
        let cells = |cells: &[String; 7], tag: &str| {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect::<String>()
        };
        let rows: String = self.rows().iter().map(|row| format!("<tr>{}</tr>\n", cells(row, "td"))).collect();
        let remarks: String = self.remarks().iter().map(|remark| format!("<p>{}</p>\n", escaped(remark))).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Trust report</title><style>body{{font:16px/1.5 sans-serif;max-width:70em;margin:2em \
             auto;padding:0 1em}}td,th{{border:1px solid #ccc;padding:.3em .6em;text-align:left}}table{{border-collapse:collapse}}</style></head><body>\n<h1>Trust \
             report</h1>\n<p>{}</p>\n<table>\n<tr>{}</tr>\n{rows}</table>\n{remarks}</body></html>\n",
            escaped(&self.title()),
            cells(&HEAD.map(str::to_owned), "th"),
        )
    }
}

const HEAD: [&str; 7] = [
    "label",
    "strict F1",
    "absent time tagged",
    "present time covered",
    "strangers told",
    "drift",
    "thresholds, margin",
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(told: usize, by_texts: f64) -> TrustReport {
        let intruders = Intruders {
            pictures: 100,
            told,
            empty: 3,
            empty_told: 0,
            by_kind: vec![("cup", told as f64 / 100.0)],
            left_out: vec!["cat"],
        };
        let label = LabelTrust {
            label: "<b>cat".to_owned(),
            is_waiting: false,
            is_calibrated: true,
            enter: 1.5,
            tally: Some(Tally { hits: 1, ..Tally::default() }),
            drift: None,
            learned: Some(LearnedLabel { label: 0, by_texts, is_used: true, counter_margins: Vec::new() }),
            intruders: Some(intruders),
        };
        TrustReport {
            set: "yard".to_owned(),
            stream: "gate".to_owned(),
            region: None,
            model: "m".to_owned(),
            recordings: vec!["clip.mp4".to_owned()],
            no_intruders: None,
            labels: vec![label],
        }
    }

    #[test]
    fn a_label_that_answers_to_anything_is_called_so_where_texts_do_not_support_it() {
        let verdict = |told, by_texts| report(told, by_texts).json()["labels"][0]["verdict"].clone();
        assert!(verdict(60, 0.6).as_str().unwrap().starts_with("answers to anything unlike the empty scene"));
        assert!(verdict(60, 0.9).as_str().unwrap().starts_with("answers to much"));
        assert_eq!(verdict(10, 0.6), Value::Null);
        let json = report(10, 0.6).json();
        assert_eq!((&json["labels"][0]["intruders"]["told"], &json["labels"][0]["hits"]), (&10.into(), &1.into()));
        let page = report(60, 0.6).html();
        assert!(page.contains("&lt;b&gt;cat") && !page.contains("<b>cat") && page.contains("60 %"), "{page}");
        assert!(report(60, 0.6).text().contains("left out, as the label means them: cat"));
    }
}
