//! Thumbprint: the brightness of a picture in coarse cells, to tell cheaply whether a view has changed.
//!
//! In: a picture as the decoder left it, and the region that is looked at. Out: one mean a cell, and how much the cell that changed
//! most has changed between two of them. Pure, on the caller's thread; nothing is queued, nothing to close.
//!
//! The cell that changed most decides, not the mean: something small that comes in moves few cells, but those clearly. What moves
//! all cells alike (flickering lamps, a camera's exposure) is evened out first, up to [`FLICKER`]; noise of single pixels vanishes in
//! the mean of a cell. Colour is not looked at.

use std::time::Duration;

use serde::Serialize;

use crate::view::Region;
use crate::{Matrix, Picture, PixelFormat, Range};

/// Cells along the longer and the shorter side. At 16:9 a cell is square, and 7 pixels of a model that looks at 224, half a patch of
/// 14: what is much smaller, such a model does not recognise. Finer cells would mostly see noise and the edges of waving things.
const GRID: (usize, usize) = (32, 18);

/// Levels (of 255) by which the whole may become brighter or darker without counting as a change.
pub const FLICKER: f32 = 6.0;

/// Rows whose bytes fit into 16 bits when they are added up: 257 × 255 = 65535.
const ROWS: usize = 257;

/// `sampling.unchanged` of the configuration: when a frame may stand on the embedding of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Unchanged {
    /// Levels (of 255) by which the mean of any cell may differ.
    pub tolerance: f32,
    /// Media time after which a frame is inferred anew, changed or not. Above zero.
    pub max_age: Duration,
}

impl Default for Unchanged {
    fn default() -> Self {
        Self { tolerance: 4.0, max_age: Duration::from_secs(10) }
    }
}

/// What must be the same for two thumbprints to be comparable.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    format: PixelFormat,
    size: (u32, u32),
    colour: (Matrix, Range),
    region: Region,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Thumbprint {
    shape: Shape,
    /// Means, 0 to 255, row by row.
    cells: Vec<f32>,
}

impl Thumbprint {
    /// The thumbprint of `region` of `picture`.
    pub fn of(picture: &Picture, region: Region) -> Self {
        let (width, height) = (picture.width(), picture.height());
        let shape = Shape {
            format: picture.format(),
            size: (width, height),
            colour: (picture.matrix(), picture.range()),
            region,
        };
        let (left, right) = span(region.x, region.w, width);
        let (top, bottom) = span(region.y, region.h, height);
        let (long, short) = GRID;
        let (columns, rows) = if right - left >= bottom - top { (long, short) } else { (short, long) };
        let (columns, rows) = (columns.min(right - left), rows.min(bottom - top));
        let bytes = if picture.format() == PixelFormat::Rgb { 3 } else { 1 };
        let (plane, stride) = picture.plane(0);

        let mut cells = Vec::with_capacity(columns * rows);
        let mut sums = vec![0_u64; columns];
        let mut line = vec![0_u16; (right - left) * bytes];
        for row in 0..rows {
            let (from, to) = (edge(top, bottom, row, rows), edge(top, bottom, row + 1, rows));
            sums.fill(0);
            // Whole rows are added up column by column, which vectorises; cells are cut out of the sum.
            for start in (from..to).step_by(ROWS) {
                line.fill(0);
                for y in start..to.min(start + ROWS) {
                    let pixels = &plane[y * stride + left * bytes..y * stride + right * bytes];
                    for (sum, byte) in line.iter_mut().zip(pixels) {
                        *sum += u16::from(*byte);
                    }
                }
                for (column, sum) in sums.iter_mut().enumerate() {
                    let (a, b) = (edge(0, right - left, column, columns), edge(0, right - left, column + 1, columns));
                    *sum += luma(&line[a * bytes..b * bytes], bytes);
                }
            }
            let area = |column| {
                (edge(0, right - left, column + 1, columns) - edge(0, right - left, column, columns)) * (to - from)
            };
            cells.extend(sums.iter().enumerate().map(|(column, sum)| *sum as f32 / (area(column) * 256) as f32));
        }
        Self { shape, cells }
    }

    /// Levels by which the cell that changed most differs from `earlier`, brightness of the whole evened out; `None` if the two
    /// cannot be compared, because the picture's size, format or region differ.
    pub fn change(&self, earlier: &Self) -> Option<f32> {
        if self.shape != earlier.shape {
            return None;
        }
        let mut differences: Vec<f32> = self.cells.iter().zip(&earlier.cells).map(|(now, then)| now - then).collect();
        let whole = median(&mut differences).clamp(-FLICKER, FLICKER);
        Some(differences.iter().map(|difference| (difference - whole).abs()).fold(0.0, f32::max))
    }
}

/// The middle of `values`, or the mean of the two in the middle; moves them about. 0 for none.
fn median(values: &mut [f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let (middle, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (below, upper, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    let lower = below.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if even { f32::midpoint(lower, *upper) } else { *upper }
}

/// 256 times the brightness of some pixels, added up. RGB by BT.601's weights; which ones matters little here.
fn luma(sums: &[u16], bytes: usize) -> u64 {
    if bytes == 1 {
        return sums.iter().map(|sum| u64::from(*sum)).sum::<u64>() * 256;
    }
    sums.chunks_exact(3).map(|rgb| u64::from(rgb[0]) * 77 + u64::from(rgb[1]) * 150 + u64::from(rgb[2]) * 29).sum()
}

/// Where part `index` of `parts` begins between `from` and `to`.
fn edge(from: usize, to: usize, index: usize, parts: usize) -> usize {
    from + (to - from) * index / parts
}

/// The pixels of an axis that a region touches, at least one, inside the picture whatever the numbers are.
fn span(from: f64, length: f64, side: u32) -> (usize, usize) {
    // A cast of NaN gives 0, of anything out of range the nearest end.
    let start = ((from * f64::from(side)).floor() as u32).min(side - 1);
    let end = (((from + length) * f64::from(side)).ceil() as u32).clamp(start + 1, side);
    (start as usize, end as usize)
}

#[cfg(test)]
mod tests;
