//! What labels learn from a stream's past: of marked moments, and of tags that somebody has called right or wrong, the rows of the history that say most.
//!
//! In: a label set, marks and verdicts, and rows with their margins by texts alone. Out: for each label that is to learn so, [`KeptExamples`]: of each
//! piece of a mark, and of each verdict that a mark still says, the row on which texts believe most in the label. Where it is there that is what it looks
//! like, where it is not, what misled them. A label learns so once one of its tags was called wrong, or where its set says `examples: [marks]`. Pure; one row a piece in memory.

use std::collections::BTreeMap;

use super::plural;
use crate::calibrate::marked_samples::{EDGE, joined};
use crate::calibrate::marks::SetMarks;
use crate::history::past_rows::PastRow;
use crate::label::kept_examples::{KeptExample, KeptExamples};
use crate::label::verdict_store::TagVerdict;
use crate::label::{Label, LabelSet};
use crate::score::Scoring;

/// Pieces of the marks of one kind, about.
const PIECES: f64 = 8.0;
/// Verdicts of one kind that are looked up, the newest.
const VERDICTS: usize = 16;

/// From when to when one row is wanted, ms, and the best so far.
struct Wanted {
    label: usize,
    is_example: bool,
    from: i64,
    to: i64,
    best: Option<(f32, KeptExample)>,
}

/// Goes through rows and keeps the best ones.
pub(super) struct ExampleSearch {
    model: String,
    /// A row shows one of the set's labels at most.
    is_exclusive: bool,
    names: Vec<Option<String>>,
    wanted: Vec<Wanted>,
}

impl ExampleSearch {
    /// What is looked for; `None`: none of `labels` (of all, if there are none) learns from the past.
    pub fn new(
        set: &LabelSet,
        labels: &[String],
        (marks, region): (&SetMarks, Option<&str>),
        verdicts: &[TagVerdict],
        model: &str,
    ) -> Option<Self> {
        let is_meant = |label: &Label| {
            (labels.is_empty() || labels.contains(&label.name))
                && (label.learns_from_marks || verdicts.iter().any(|one| one.label == label.name && !one.is_right))
        };
        let names: Vec<Option<String>> =
            set.labels.iter().map(|label| is_meant(label).then(|| label.name.clone())).collect();
        let mut wanted = Vec::new();
        for (label, name) in names.iter().enumerate().filter_map(|(at, name)| Some((at, name.as_ref()?))) {
            let mut want = |is_example, spans: Vec<(f64, f64)>| {
                let ms = |seconds: f64| (seconds * 1000.0) as i64;
                wanted.extend(spans.into_iter().map(|(from, to)| Wanted {
                    label,
                    is_example,
                    from: ms(from),
                    to: ms(to),
                    best: None,
                }));
            };
            for is_right in [false, true] {
                let marked = if is_right { marks.seen(name, region, false) } else { marks.absent(name, region, false) };
                let seconds = |at: jiff::Timestamp| at.as_millisecond() as f64 / 1000.0;
                // Who has removed its mark has taken the verdict back; the label learns anew without it.
                let is_marked = |one: &TagVerdict| {
                    marked.iter().any(|(from, to)| *from <= seconds(one.to) && *to >= seconds(one.from))
                };
                let is_own = |one: &&TagVerdict| one.label == *name && one.is_right == is_right && is_marked(one);
                let own = verdicts.iter().rev().filter(is_own);
                want(is_right, own.take(VERDICTS).map(|one| (seconds(one.from), seconds(one.to))).collect());
            }
            want(true, pieces(&marks.seen(name, region, false)));
            want(false, pieces(&marks.absent(name, region, false)));
        }
        let is_exclusive = set.scoring == Scoring::Exclusive;
        (!wanted.is_empty()).then(|| Self { model: model.to_owned(), is_exclusive, names, wanted })
    }

    /// Looks at a row, of which `margin` says what texts believe of a label.
    pub fn note(&mut self, row: &PastRow<'_>, margin: impl Fn(usize) -> f32) {
        for one in self.wanted.iter_mut().filter(|one| row.from <= one.to && row.until >= one.from) {
            let margin = margin(one.label);
            if margin.is_nan() || one.best.as_ref().is_some_and(|(best, _)| *best >= margin) {
                continue;
            }
            let Ok(at) = jiff::Timestamp::from_millisecond(row.from.max(one.from)) else { continue };
            let embedding = row.embedding.to_vec();
            one.best = Some((margin, KeptExample { at, model: self.model.clone(), embedding }));
        }
    }

    /// When the first of them is, ms.
    pub fn since(&self) -> i64 {
        self.wanted.iter().map(|one| one.from).min().unwrap_or(i64::MAX)
    }

    /// What was found of each label. What stands for both kinds shows what the label is not: somebody has said so.
    pub fn found(self) -> BTreeMap<String, KeptExamples> {
        let mut out: BTreeMap<String, KeptExamples> =
            self.names.iter().flatten().map(|name| (name.clone(), KeptExamples::default())).collect();
        for one in self.wanted {
            let (Some(Some(name)), Some((_, example))) = (self.names.get(one.label), one.best) else { continue };
            let Some(kept) = out.get_mut(name) else { continue };
            let list = if one.is_example { &mut kept.examples } else { &mut kept.counter_examples };
            if list.iter().all(|known| known.embedding != example.embedding) {
                list.push(example);
            }
        }
        for kept in out.values_mut() {
            let is_counter =
                |example: &KeptExample| kept.counter_examples.iter().any(|other| other.embedding == example.embedding);
            let examples = kept.examples.iter().filter(|example| !is_counter(example)).cloned().collect();
            kept.examples = examples;
        }
        if self.is_exclusive {
            leave_out_shared(&mut out);
        }
        out
    }
}

/// Takes out rows that are examples of two labels, which exclude one another: which of them such a row shows nobody can tell.
fn leave_out_shared(found: &mut BTreeMap<String, KeptExamples>) {
    let rows: Vec<Vec<f32>> =
        found.values().flat_map(|kept| &kept.examples).map(|example| example.embedding.clone()).collect();
    for (label, kept) in found.iter_mut() {
        let before = kept.examples.len();
        // Of one label each row is there once.
        kept.examples.retain(|example| rows.iter().filter(|row| **row == example.embedding).count() == 1);
        let shared = before - kept.examples.len();
        if shared > 0 {
            let why = "they also show another label of the set, whose labels exclude one another";
            tracing::warn!("`{label}` does not learn from {}: {why}", plural(shared, "row"));
        }
    }
}

/// Marks without their edges, cut into pieces of about the same length.
fn pieces(spans: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let inner: Vec<(f64, f64)> =
        joined(spans).into_iter().map(|(from, to)| (from + EDGE, to - EDGE)).filter(|(from, to)| from <= to).collect();
    let length: f64 = inner.iter().map(|(from, to)| to - from).sum();
    let piece = (length / PIECES).max(1e-3);
    // Of very many short marks not all are needed.
    let step = (inner.len() as f64 / (2.0 * PIECES)).ceil().max(1.0) as usize;
    let cut = |(from, to): &(f64, f64)| {
        let count = ((to - from) / piece).round().max(1.0);
        let (from, width) = (*from, (to - from) / count);
        (0..count as usize).map(move |at| (from + width * at as f64, from + width * (at + 1) as f64))
    };
    inner.iter().step_by(step).flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::marks::{Mark, MarkKind, MarkTime, Span};
    use crate::label::set;
    use crate::yaml::Document;

    fn yard(extra: &str) -> LabelSet {
        let text = format!("set: yard\nbackground: [a wall]\nlabels: [{{ name: car{extra} }}, {{ name: bus }}]\n");
        set::check(Document::parse(std::path::Path::new("yard.yaml"), text.as_bytes()).unwrap()).unwrap().set
    }

    fn marks() -> SetMarks {
        let at = |second: i64| MarkTime::Wall(jiff::Timestamp::from_second(second).unwrap());
        let mut marks = SetMarks::default();
        marks.add(&Mark { region: None, kind: MarkKind::Seen("car".to_owned()), span: Span(at(100), at(109)) });
        marks.add(&Mark { region: None, kind: MarkKind::Empty, span: Span(at(200), at(209)) });
        // Of the wrong tag.
        marks.add(&Mark { region: None, kind: MarkKind::Absent("car".to_owned()), span: Span(at(299), at(306)) });
        marks
    }

    fn wrong(label: &str) -> TagVerdict {
        let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
        let (stream, set) = ("gate".to_owned(), "yard".to_owned());
        TagVerdict { stream, region: None, set, label: label.to_owned(), from: at(300), to: at(305), is_right: false }
    }

    #[test]
    fn a_label_learns_from_the_past_once_a_tag_was_wrong_or_where_its_set_says_so() {
        assert!(ExampleSearch::new(&yard(""), &[], (&marks(), None), &[], "m").is_none());
        assert!(ExampleSearch::new(&yard(", examples: [marks]"), &[], (&marks(), None), &[], "m").is_some());
        let of_bus = ["bus".to_owned()];
        assert!(ExampleSearch::new(&yard(""), &of_bus, (&marks(), None), &[wrong("car")], "m").is_none());
        let right = TagVerdict { is_right: true, ..wrong("car") };
        assert!(ExampleSearch::new(&yard(""), &[], (&marks(), None), &[right], "m").is_none());
        let mut search = ExampleSearch::new(&yard(""), &[], (&marks(), None), &[wrong("car")], "m").unwrap();
        assert_eq!(search.since(), 100_500);
        for second in 90..400_i64 {
            // Texts believe most in the middle of the wrong tag.
            let embedding = [second as f32];
            let margin = if second == 302 { 9.0 } else { (second % 10) as f32 };
            let row =
                PastRow { tile: 0, from: second * 1000, until: second * 1000, picture: None, embedding: &embedding };
            search.note(&row, |_| margin);
        }
        let found = search.found();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["car"], "the other label learns nothing");
        let values = |list: &[KeptExample]| list.iter().map(|one| one.embedding[0]).collect::<Vec<_>>();
        let kept = &found["car"];
        assert_eq!(kept.counter_examples[0].embedding, [302.0], "the row that misled the texts");
        assert!((6..=9).contains(&kept.examples.len()), "{:?}", values(&kept.examples));
        assert!(values(&kept.examples).iter().all(|second| (101.0..=108.0).contains(second)));
        let absent = values(&kept.counter_examples[1..]);
        let (empty, tag): (Vec<f32>, Vec<f32>) = absent.iter().partition(|second| **second < 250.0);
        assert!(empty.len() >= 3 && empty.iter().all(|second| (201.0..=208.0).contains(second)), "{absent:?}");
        assert!(tag.iter().all(|second| (300.0..=305.0).contains(second)), "{absent:?}");
    }

    #[test]
    fn a_verdict_counts_as_long_as_its_mark_is_there() {
        let mut marks = marks();
        for mark in marks.all().iter().filter(|mark| matches!(mark.kind, MarkKind::Absent(_))) {
            marks.remove(mark);
        }
        let search = ExampleSearch::new(&yard(""), &[], (&marks, None), &[wrong("car")], "m").unwrap();
        assert!(search.wanted.iter().all(|one| one.to < 300_000));
    }

    #[test]
    fn a_row_of_two_labels_that_exclude_one_another_teaches_neither() {
        for scoring in [Scoring::Exclusive, Scoring::Independent] {
            let mut set = yard("");
            set.scoring = scoring;
            set.labels.iter_mut().for_each(|label| label.learns_from_marks = true);
            let mut marks = marks();
            let at = |second: i64| MarkTime::Wall(jiff::Timestamp::from_second(second).unwrap());
            marks.add(&Mark { region: None, kind: MarkKind::Seen("bus".to_owned()), span: Span(at(100), at(109)) });
            let mut search = ExampleSearch::new(&set, &[], (&marks, None), &[], "m").unwrap();
            // One of both, and one that is far from it.
            for (second, embedding) in [(104_i64, [1.0]), (204, [2.0])] {
                let ms = second * 1000;
                let row = PastRow { tile: 0, from: ms, until: ms, picture: None, embedding: &embedding };
                search.note(&row, |_| 0.0);
            }
            let found = search.found();
            let expected = usize::from(scoring == Scoring::Independent);
            assert!(found.values().all(|kept| kept.examples.len() == expected), "{found:?}");
            assert!(found.values().all(|kept| kept.counter_examples.len() == 1), "{found:?}");
        }
    }

    #[test]
    fn a_row_that_stands_for_both_shows_what_the_label_is_not() {
        let mut search = ExampleSearch::new(&yard(""), &[], (&marks(), None), &[wrong("car")], "m").unwrap();
        let row = PastRow { tile: 0, from: 0, until: 1_000_000, picture: None, embedding: &[1.0] };
        search.note(&row, |_| 0.0);
        let kept = &search.found()["car"];
        assert_eq!((kept.examples.len(), kept.counter_examples.len()), (0, 1));
    }

    #[test]
    fn however_marks_are_cut_the_pieces_lie_in_them_and_are_not_many() {
        assert!(pieces(&[(0.0, 0.9)]).is_empty());
        let one = pieces(&[(0.0, 9.0)]);
        assert!((one.len(), one[0].0, one[7].1) == (8, 0.5, 8.5), "{one:?}");
        let many: Vec<(f64, f64)> = (0..1000).map(|at| (f64::from(at) * 10.0, f64::from(at) * 10.0 + 2.0)).collect();
        assert!(pieces(&many).len() <= 32, "{}", pieces(&many).len());
    }
}
