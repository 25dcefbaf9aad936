//! What a search comes to, as `vtagd search --json` prints it and the API answers. In: rows that are stored and a question whose embedding is
//! known; out: the moments that fit best, and whether anything stands out. On the caller's thread and those of the search. Pure besides.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::moment_search::{self, Found, MAX_KEPT, Moment, ViewsInForce, Wanted};
use super::noun_bank::{self, NounBank};
use super::picture_files::PictureName;
use super::row_store::StoredRows;

/// Moments whose margins are looked at: those with the best cosines.
const CANDIDATES: usize = 1024;
const _: () = assert!(CANDIDATES <= MAX_KEPT);
/// Rows that a histogram counts, at most: each is compared with the whole bank.
const SAMPLED: u64 = 20_000;
/// Of a bar of it, in units of the margin.
const BAR: f32 = 0.5;
/// Threads of a search: more wait for memory.
const MAX_THREADS: usize = 4;
/// Longest text, in characters: a text tower reads some fifty words, and leaves out the rest.
pub const MAX_PROMPT: usize = 1000;

/// What is asked, its embedding found.
#[derive(Clone, Copy, Debug)]
pub struct SearchQuestion<'a> {
    pub text: Option<&'a str>,
    /// Of length 1.
    pub embedding: &'a [f32],
    /// The bank's embeddings. None: nothing tells whether it stands out, as for pictures, which have no rivals among words.
    pub nouns: &'a [Vec<f32>],
    /// Name, fingerprint and logit scale of the model that made both.
    pub model: (&'a str, &'a str, f32),
    pub range: SearchRange<'a>,
    /// The views that streams have now. None: nobody knows, and all count.
    pub views: Option<&'a ViewsInForce>,
    /// Whether to tell how the margins of all rows are spread.
    pub histogram: bool,
}

/// Which rows count.
#[derive(Clone, Copy, Debug)]
pub struct SearchRange<'a> {
    pub stream: Option<&'a str>,
    pub region: Option<&'a str>,
    pub since: Option<jiff::Timestamp>,
    pub until: Option<jiff::Timestamp>,
    /// Leaves out what was seen through another view than the stream has now.
    pub current_view: bool,
    /// Moments, at most.
    pub limit: usize,
}

/// The answer. Stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchAnswer {
    pub text: Option<String>,
    pub model: SearchModel,
    /// Null where there is no text alone: pictures have nothing to compare it with.
    pub stands_out: Option<bool>,
    pub moments: Vec<FoundMoment>,
    pub searched: Searched,
    /// How the margins of some rows, evenly spread over all, are distributed; where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Vec<HistogramBar>>,
}

/// Rows with a margin of `margin` to half a unit more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistogramBar {
    pub margin: f32,
    pub rows: u64,
}

/// Whose rows were compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchModel {
    pub name: String,
    pub fingerprint: String,
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundMoment {
    pub stream: String,
    /// Null: the whole view.
    pub region: Option<String>,
    pub from: jiff::Timestamp,
    pub until: jiff::Timestamp,
    /// Cosine of the best row.
    pub score: f32,
    pub margin: Option<f32>,
    /// Where its picture is: a file, or an address of the API. Null: there is none, or not any more.
    pub picture: Option<String>,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    pub rows: u64,
    /// Of them, where views of today are asked for, those of which nobody knows through which view they were seen.
    #[serde(default)]
    pub unknown_views: u64,
    pub other_models: u64,
    #[serde(default)]
    pub other_views: u64,
    pub damaged: u64,
    pub unreadable: Vec<String>,
}

/// Looks at every row. `address` says where a picture and its file are to be had.
pub fn answer(
    stored: &StoredRows,
    question: &SearchQuestion<'_>,
    address: fn(PictureName, &Path) -> String,
) -> SearchAnswer {
    let (name, fingerprint, scale) = question.model;
    let range = question.range;
    let wanted = Wanted {
        embedding: question.embedding,
        model: fingerprint,
        stream: range.stream,
        region: range.region,
        since: range.since.map(jiff::Timestamp::as_millisecond),
        until: range.until.map(jiff::Timestamp::as_millisecond),
        views: question.views.filter(|_| range.current_view),
        keep: CANDIDATES,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS),
    };
    let Found { moments, rows, unknown_views, other_models, other_views, damaged, unreadable } =
        moment_search::search(stored, &wanted);
    let nouns = Some(question.nouns).filter(|nouns| !nouns.is_empty());
    let bank = nouns.map(|nouns| NounBank::new(question.embedding, nouns.iter().map(Vec::as_slice), scale));
    let ranked = noun_bank::ranked(&moments, bank.as_ref());
    let stands_out = bank.as_ref().map(|bank| ranked.first().is_some_and(|(_, margin)| bank.stands_out(*margin)));
    let histogram = bank.as_ref().filter(|_| question.histogram).map(|bank| {
        histogram(moment_search::sample(stored, &wanted, SAMPLED).iter().map(|moment| bank.margin(moment)))
    });
    let told = |(moment, margin): &(&Moment, f32)| FoundMoment {
        stream: moment.name.stream.clone(),
        region: Some(moment.name.region.clone()).filter(|region| !region.is_empty()),
        from: time(moment.from),
        until: time(moment.until),
        score: moment.score,
        margin: stands_out.map(|_| *margin),
        picture: moment.picture.and_then(|name| Some(address(name, &stored.picture(name)?))),
    };
    SearchAnswer {
        text: question.text.map(str::to_owned),
        model: SearchModel { name: name.to_owned(), fingerprint: fingerprint.to_owned() },
        stands_out,
        moments: ranked.iter().take(range.limit).map(told).collect(),
        searched: Searched { rows, unknown_views, other_models, other_views, damaged, unreadable },
        histogram,
    }
}

/// Counts of margins that lie close together.
#[derive(Clone, Debug, Default)]
pub(super) struct Bars(std::collections::BTreeMap<i32, u64>);

impl Bars {
    pub fn note(&mut self, margin: f32) {
        if margin.is_finite() {
            // What a model's scale can come to is within these.
            *self.0.entry((margin / BAR).floor().clamp(-400.0, 400.0) as i32).or_default() += 1;
        }
    }

    /// From the least margin to the most, without a gap between them.
    pub fn told(&self) -> Vec<HistogramBar> {
        let ends = self.0.first_key_value().zip(self.0.last_key_value());
        let all = ends.map(|((first, _), (last, _))| *first..=*last);
        let bar = |bar: i32| HistogramBar { margin: bar as f32 * BAR, rows: self.0.get(&bar).copied().unwrap_or(0) };
        all.into_iter().flatten().map(bar).collect()
    }
}

fn histogram(margins: impl Iterator<Item = f32>) -> Vec<HistogramBar> {
    let mut bars = Bars::default();
    margins.for_each(|margin| bars.note(margin));
    bars.told()
}

fn time(milliseconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MIN)
}

/// The mean of the directions that `parts` point into, of length 1: a text and a picture that are searched for together.
pub fn joined(parts: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; parts.first().map_or(0, Vec::len)];
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|value| *value /= length);
    sum
}

/// A text as it is searched for.
///
/// # Errors
/// Why it is none, for people.
pub fn prompt(text: &str) -> Result<&str, String> {
    match text.trim() {
        "" => Err("is empty".to_owned()),
        long if long.chars().count() > MAX_PROMPT => {
            Err(format!("is longer than {MAX_PROMPT} characters: a model reads some fifty words, say it in fewer"))
        }
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_every_bar_between_the_least_and_the_most() {
        let bars = histogram([-0.1, 0.0, 0.4, 1.6, f32::NAN, f32::INFINITY].into_iter());
        let told: Vec<(f32, u64)> = bars.iter().map(|bar| (bar.margin, bar.rows)).collect();
        assert_eq!(told, [(-0.5, 1), (0.0, 2), (0.5, 0), (1.0, 0), (1.5, 1)]);
        assert!(histogram(std::iter::empty()).is_empty());
        assert_eq!(histogram([1e30, -1e30].into_iter()).len(), 801);
    }

    #[test]
    fn a_prompt_is_trimmed_and_neither_empty_nor_a_book() {
        assert_eq!(prompt("  a red lorry "), Ok("a red lorry"));
        for (text, why) in [("", "empty"), (" \n", "empty"), (&"a car ".repeat(10_000), "1000 characters")] {
            assert!(prompt(text).is_err_and(|error| error.contains(why)), "{why}");
        }
        assert!(prompt(&"é".repeat(MAX_PROMPT)).is_ok());
    }
}
