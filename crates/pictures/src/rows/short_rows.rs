//! Rows of what was learned, in 16 bits, and their products with one embedding: half of the memory that f32 takes, and half of the steps.
//!
//! A hundred learned labels have 700 to 800 rows. As f32 they are more than a core keeps near, and reading them was most of what they cost.
//!
//! In: a matrix and an embedding of its row length; out: a number a row, on the caller's thread. Pure. Each row, and the embedding, is brought to the
//! length [`LENGTH`] and rounded. By Cauchy and Schwarz neither a product nor any part of its sum leaves an i32 then, so sums are whole numbers: every
//! processor tells the same. What rounding costs is some 1e-5 of the product of both lengths: some thousandths of a margin at CLIP's scale. The loop is plain Rust,
//! compiled again for AVX2 and AVX-512; SSE2 and NEON, which multiply 16 bits as well, are part of what we are built for.

use ndarray::{Array2, ArrayView1};

/// The largest i16: a row that has one value alone has this one.
const LENGTH: f64 = 32_767.0;

/// See the module.
#[derive(Clone, Debug)]
pub struct ShortRows {
    dim: usize,
    /// `[rows, dim]`.
    values: Vec<i16>,
    /// What 1 of each row is worth.
    units: Vec<f32>,
}

impl ShortRows {
    pub fn new(rows: &Array2<f32>) -> Self {
        let mut values = Vec::with_capacity(rows.len());
        let units = rows.rows().into_iter().map(|row| append_short(row, &mut values)).collect();
        Self { dim: rows.ncols(), values, units }
    }

    /// Each row times `embedding`, `[dim]`.
    pub fn products(&self, embedding: ArrayView1<'_, f32>) -> Vec<f32> {
        let mut short = Vec::with_capacity(embedding.len());
        let unit = append_short(embedding, &mut short);
        let mut products = vec![0.0; self.units.len()];
        self.add_up(&short, &mut products);
        products.iter_mut().zip(&self.units).for_each(|(product, of_row)| *product *= of_row * unit);
        products
    }

    fn add_up(&self, embedding: &[i16], out: &mut [f32]) {
        let rows = self.values.as_slice();
        debug_assert_eq!(self.dim, embedding.len());
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512bw") {
                // SAFETY: the processor has it.
                return unsafe { avx512(rows, embedding, out) };
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                return unsafe { avx2(rows, embedding, out) };
            }
        }
        plain(rows, embedding, out);
    }
}

/// Puts the row behind `out`, at the length [`LENGTH`]; what 1 of it is worth. A row without a direction is zeros; one with a value that is no
/// number is worth none.
fn append_short(row: ArrayView1<'_, f32>, out: &mut Vec<i16>) -> f32 {
    let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() {
        out.extend(row.iter().map(|_| 0));
        return f32::NAN;
    }
    let scale = if length > 0.0 { LENGTH / length } else { 0.0 };
    // A cast never leaves an i16's range.
    out.extend(row.iter().map(|value| (f64::from(*value) * scale).round_ties_even() as i16));
    (length / LENGTH) as f32
}

#[inline(always)]
fn plain(rows: &[i16], embedding: &[i16], out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(rows.chunks_exact(embedding.len().max(1))) {
        *out = row.iter().zip(embedding).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>() as f32;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rows: &[i16], embedding: &[i16], out: &mut [f32]) {
    plain(rows, embedding, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw")]
fn avx512(rows: &[i16], embedding: &[i16], out: &mut [f32]) {
    plain(rows, embedding, out);
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    use super::*;

    /// One loop, by its name.
    type Loop = (&'static str, fn(&[i16], &[i16], &mut [f32]));

    /// All that this processor can run.
    fn loops() -> Vec<Loop> {
        let mut loops: Vec<Loop> = vec![("plain", plain)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has it.
                loops.push(("avx2", |rows, embedding, out| unsafe { avx2(rows, embedding, out) }));
            }
            if std::arch::is_x86_feature_detected!("avx512bw") {
                // SAFETY: as above.
                loops.push(("avx512", |rows, embedding, out| unsafe { avx512(rows, embedding, out) }));
            }
        }
        loops
    }

    fn length(values: impl IntoIterator<Item = f32>) -> f64 {
        values.into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_loop_tells_the_same_and_is_right_at_every_length(
            dim in 1usize..200, count in 0usize..9, seed in any::<u32>(), size in -6i32..7,
        ) {
            // Mixed well: what values have in common, what is rounded off them has too, and then it adds up.
            let mixed = |at: u32| {
                let once = at.wrapping_mul(2_654_435_761).wrapping_add(seed);
                let twice = (once ^ (once >> 16)).wrapping_mul(0x21f0_aaad);
                let thrice = (twice ^ (twice >> 15)).wrapping_mul(0x735a_2d97);
                thrice ^ (thrice >> 15)
            };
            let value = |at: usize| (mixed(at as u32) >> 8) as f32 / 8_388_608.0 - 1.0;
            let rows = Array2::from_shape_fn((count, dim), |(row, column)| value(row * dim + column) * 10f32.powi(size));
            let embedding = Array1::from_shape_fn(dim, |at| value(at + 100_000));
            let short = ShortRows::new(&rows);
            for (found, row) in short.products(embedding.view()).iter().zip(rows.rows()) {
                let wanted: f64 = row.iter().zip(&embedding).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let lengths = length(row.iter().copied()) * length(embedding.iter().copied());
                prop_assert!((f64::from(*found) - wanted).abs() <= 8e-5 * lengths, "{} {}", found, wanted);
            }
            let mut brief = Vec::new();
            append_short(embedding.view(), &mut brief);
            let told = loops().into_iter().map(|(name, run)| {
                let mut out = vec![0.0; count];
                run(&short.values, &brief, &mut out);
                (name, out)
            });
            let told: Vec<_> = told.collect();
            prop_assert!(told.iter().all(|(_, out)| *out == told[0].1), "{:?}", told);
        }
    }

    #[test]
    fn what_is_longest_stays_within_a_sum_whatever_its_sign() {
        for dim in [1, 2, 31, 512, 768, 1024, 4096] {
            let least = f32::from_bits(1);
            let found = ShortRows::new(&Array2::from_elem((1, dim), least)).products(Array1::ones(dim).view())[0];
            // Below the least normal number a product may become nothing, and never more than it is.
            assert!((0.0..=least * dim as f32).contains(&found), "{found} {dim}");
            let row = Array2::from_elem((1, dim), -3e30_f32);
            for sign in [1.0_f32, -1.0] {
                let embedding = Array1::from_elem(dim, sign * 1e-3);
                let wanted = -3e27 * f64::from(sign) * dim as f64;
                let found = f64::from(ShortRows::new(&row).products(embedding.view())[0]);
                assert!((found / wanted - 1.0).abs() < 1e-3, "{found} {wanted}");
            }
        }
    }

    #[test]
    fn no_direction_is_nothing_and_what_is_no_number_stays_none() {
        let rows = array![[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [f32::NAN, 1.0, 0.0], [f32::INFINITY, 1.0, 0.0]];
        let products = ShortRows::new(&rows).products(array![0.0, -0.5, 0.0].view());
        assert_eq!(products[..2], [0.0, -1.0]);
        assert!(products[2..].iter().all(|product| product.is_nan()), "{products:?}");
        assert!(ShortRows::new(&rows).products(array![f32::NAN, 0.0, 0.0].view()).iter().all(|one| one.is_nan()));
        assert!(ShortRows::new(&Array2::zeros((0, 3))).products(array![1.0, 0.0, 0.0].view()).is_empty());
    }
}
