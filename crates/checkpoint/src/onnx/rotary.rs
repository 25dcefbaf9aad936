//! Rotary positions (Su et al. 2021, arXiv:2104.09864) along both sides of a grid of patches, as timm's `RotaryEmbeddingCat` has
//! them: a head's pairs of values are turned by angles that grow with a patch's place. Tokens in front of the patches stay.
//!
//! A pair is the values `i` and `i + half` of a head here, neighbours there ([`Linear::pairs`](super::linear::Linear::pairs)
//! moves the weights' rows): halves are cut out and joined in whole runs, neighbours value by value. A product of queries and keys does
//! not change where both are moved alike.

use super::Precision;
use super::builder::{Graph, Values};
use super::proto::Attr;
use super::weight_formats;
use crate::import::{Rotary, VisionTower};

/// Base of the angles' geometric series (`temperature` in timm).
const BASE: f64 = 10_000.0;

/// Cosines and sines of a tower's tokens, constants `[1, 1, tokens, head]` of a graph.
#[derive(Clone, Debug)]
pub struct Angles {
    cosines: String,
    sines: String,
    half: usize,
}

impl Angles {
    /// Adds the constants for `tower`, whose heads are turned as `rotary` says.
    pub fn new(g: &mut Graph, tower: &VisionTower, rotary: Rotary, precision: Precision) -> Self {
        let head = tower.body.width / tower.body.heads.max(1);
        let (half, tokens) = (head / 2, tower.tokens());
        let mut angles = vec![0.0; usize::from(tower.class_token) * half];
        angles.extend(patch_angles(tower.image_size / tower.patch.max(1), half, rotary));
        let mut table = |name: &str, of: fn(f64) -> f64| {
            // Both values of a pair are turned by one angle.
            let rows = angles.chunks(half.max(1)).flat_map(|row| row.iter().chain(row));
            let values: Vec<f32> = rows.map(|angle| of(*angle) as f32).collect();
            let values = match precision {
                Precision::Fp16 => Values::F16(weight_formats::halves(&values)),
                _ => Values::F32(values),
            };
            g.constant(&format!("rotary.{name}"), &[1, 1, tokens, 2 * half], values)
        };
        Self { cosines: table("cosines", f64::cos), sines: table("sines", f64::sin), half }
    }

    /// Turns `x`, `[batch, heads, tokens, head]`.
    pub fn turned(&self, g: &mut Graph, x: &str, name: &str) -> String {
        let half = self.half as i64;
        let mut part = |which: &str, from: i64, to: i64| {
            let (from, to) =
                (g.ints(&format!("rotary.{which}.from"), &[from]), g.ints(&format!("rotary.{which}.to"), &[to]));
            let axis = g.ints("rotary.axis", &[3]);
            g.op("Slice", &[x, &from, &to, &axis], &format!("{name}.{which}"), &[])
        };
        let (first, second) = (part("first", 0, half), part("second", half, 2 * half));
        let second = g.op("Neg", &[&second], &format!("{name}.minus"), &[]);
        let crossed = g.op("Concat", &[&second, &first], &format!("{name}.crossed"), &[Attr::Int("axis", 3)]);
        let straight = g.op("Mul", &[x, &self.cosines], &format!("{name}.cosines"), &[]);
        let crossed = g.op("Mul", &[&crossed, &self.sines], &format!("{name}.sines"), &[]);
        g.op("Add", &[&straight, &crossed], &format!("{name}.placed"), &[])
    }
}

/// Angles of the patches, row by row of the grid: `half` for each.
fn patch_angles(side: usize, half: usize, rotary: Rotary) -> Vec<f64> {
    let bands = half / 2;
    let frequency = |band: usize| BASE.powf(-(band as f64) / bands.max(1) as f64);
    let place = |n: usize| (n as f64 + f64::from(rotary.offset)) / side.max(1) as f64 * rotary.reference as f64;
    let mut out = Vec::with_capacity(side * side * half);
    for row in 0..side {
        for column in 0..side {
            let (one, other) = if rotary.column_first { (column, row) } else { (row, column) };
            for along in [one, other] {
                out.extend((0..bands).map(|band| place(along) * frequency(band)));
            }
        }
    }
    out
}
