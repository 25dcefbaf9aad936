//! What a query is compared with: everyday nouns, and whether something stands out. In: embeddings; out: margins, on the caller's thread. Pure.
//!
//! A cosine alone says little: models put all texts near one another, some near everything. The *margin* of a query on a row is its logit minus the
//! log-sum-exp of the nouns' there, as a label's is minus its rivals'. Nouns that mean the query are no rivals of it and are left out. The best
//! margin over all streams tells whether anything stands out: it has to be e² times what an average noun has by chance.

use vtagd_pictures::rows::QuantizedQuery;

use super::moment_search::{self, Moment};

/// The shipped bank; see its head.
const NOUNS: &str = include_str!("nouns.txt");
/// A noun whose cosine with the query is at least so much means the same.
const SAME: f32 = 0.6;
/// Measured on the starter model and the footage of docs/benchmarks.md: what is in view has 3.1 and more, nonsense 1.0 and less.
const STANDS_OUT: f32 = 2.0;

/// The nouns, as texts to embed.
pub fn nouns() -> impl Iterator<Item = &'static str> {
    NOUNS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The rivals of one query.
#[derive(Debug)]
pub struct NounBank {
    query: QuantizedQuery,
    rivals: Vec<QuantizedQuery>,
    scale: f32,
}

impl NounBank {
    /// For the embedding of a query: `nouns` are embeddings of [`nouns`], `scale` the model's logit scale. All of length 1.
    pub fn new<'a>(query: &[f32], nouns: impl Iterator<Item = &'a [f32]>, scale: f32) -> Self {
        let dot = |noun: &[f32]| noun.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let rivals = nouns.filter(|noun| dot(noun) < SAME).map(moment_search::query).collect();
        Self { query: moment_search::query(query), rivals, scale }
    }

    /// How much the query leads the nouns at that moment.
    pub fn margin(&self, moment: &Moment) -> f32 {
        let logits = || self.rivals.iter().map(|rival| self.scale * moment.score_of(rival));
        let most = logits().fold(f32::MIN, f32::max);
        let sum: f32 = logits().map(|logit| (logit - most).exp()).sum();
        self.scale * moment.score_of(&self.query) - most - sum.max(f32::MIN_POSITIVE).ln()
    }

    /// Whether a best margin tells that something is there.
    pub fn stands_out(&self, margin: f32) -> bool {
        margin + (self.rivals.len().max(1) as f32).ln() >= STANDS_OUT
    }
}

/// Moments with their margins over `bank`, the best first; without one, by their cosines.
pub fn ranked<'a>(moments: &'a [Moment], bank: Option<&NounBank>) -> Vec<(&'a Moment, f32)> {
    let margin = |moment: &Moment| bank.map_or(moment.score, |bank| bank.margin(moment));
    let mut ranked: Vec<(&Moment, f32)> = moments.iter().map(|moment| (moment, margin(moment))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_bank_has_some_two_hundred_nouns_none_twice() {
        let all: Vec<&str> = nouns().collect();
        let once: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), once.len());
        assert!((180..=260).contains(&all.len()), "{}", all.len());
        assert!(all.iter().all(|noun| *noun == noun.trim().to_lowercase()));
    }
}
