//! Labels whose texts are nearer to the background than to anything else of their set: they hardly ever win against it, whatever is seen.
//! Pure; once a set, when its scorer is made.

use ndarray::{Axis, s};

use super::Scorer;

/// Rows that are compared at a time: the product of a set of thousands of texts with itself would not fit.
const CHUNK: usize = 64;

impl Scorer {
    /// The labels, by number, of which a text is nearer to a background prompt than any of their texts is to another label's, to a negative
    /// or to one of their own. Where there is nothing of that to compare with, nobody can tell.
    pub fn near_background(&self) -> Vec<usize> {
        // All templates say much the same; of several blocks the first one counts.
        let Some(block) = self.blocks.first().filter(|block| !block.background.is_empty()) else { return Vec::new() };
        let all = self.matrix.slice(s![..block.background.end, ..]);
        let texts =
            block.labels.iter().enumerate().flat_map(|(label, rows)| rows.prompts.clone().map(move |row| (label, row)));
        let texts: Vec<(usize, usize)> = texts.collect();
        // Of each label: how near the nearest background prompt is, and the nearest other text.
        let mut nearest = vec![(f32::NEG_INFINITY, f32::NEG_INFINITY); block.labels.len()];
        for chunk in texts.chunks(CHUNK) {
            let rows: Vec<usize> = chunk.iter().map(|(_, row)| *row).collect();
            let cosines = self.matrix.select(Axis(0), &rows).dot(&all.t());
            for ((label, row), cosines) in chunk.iter().zip(cosines.outer_iter()) {
                let (background, other) = &mut nearest[*label];
                let counts = |column: &usize| column != row && !self.left_out.contains(column);
                for (column, cosine) in cosines.iter().enumerate().filter(|(column, _)| counts(column)) {
                    let nearest = if block.background.contains(&column) { &mut *background } else { &mut *other };
                    *nearest = nearest.max(*cosine);
                }
            }
        }
        let is_near = |(_, (background, other)): &(usize, (f32, f32))| *other > f32::NEG_INFINITY && background > other;
        nearest.into_iter().enumerate().filter(is_near).map(|(label, _)| label).collect()
    }
}
