//! Products of many rows with one embedding, in f32: what scoring costs where a set has hundreds of prompts or examples.
//!
//! In: a matrix and an embedding of its row length; out: a number a row, on the caller's thread. Pure. The loop is plain Rust with sums in lanes, compiled
//! again for AVX2 and AVX-512 and chosen by what the processor has; NEON is part of every 64-bit ARM. Which one ran decides the last digits.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView1};

/// Sums that do not wait for one another: two registers of AVX-512, four of AVX2.
const LANES: usize = 32;

/// Each row of `rows`, `[rows, dim]`, times `embedding`, `[dim]`.
pub fn row_products(rows: &Array2<f32>, embedding: ArrayView1<'_, f32>) -> Vec<f32> {
    let embedding = embedding.as_slice().map_or_else(|| Cow::Owned(embedding.to_vec()), Cow::Borrowed);
    let Some(values) = rows.as_slice().filter(|_| !embedding.is_empty() && rows.ncols() == embedding.len()) else {
        return rows.dot(&ArrayView1::from(embedding.as_ref())).to_vec();
    };
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return unsafe { avx512(values, &embedding) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(values, &embedding) };
        }
    }
    products(values, &embedding)
}

#[inline(always)]
fn products(rows: &[f32], embedding: &[f32]) -> Vec<f32> {
    rows.chunks_exact(embedding.len().max(1)).map(|row| dot(row, embedding)).collect()
}

#[inline(always)]
fn dot(row: &[f32], embedding: &[f32]) -> f32 {
    let ((rows, row_rest), (parts, rest)) = (row.as_chunks::<LANES>(), embedding.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (a, b) in rows.iter().zip(parts) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = row_rest.iter().zip(rest).map(|(a, b)| a * b).sum();
    // Halves onto halves, as registers are added up.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for at in 0..width {
            sums[at] += sums[at + width];
        }
    }
    sums[0] + rest
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rows: &[f32], embedding: &[f32]) -> Vec<f32> {
    products(rows, embedding)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(rows: &[f32], embedding: &[f32]) -> Vec<f32> {
    products(rows, embedding)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, s};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_loop_is_right_at_every_length(dim in 0usize..200, count in 0usize..9, seed in any::<u32>()) {
            let value = |at: usize| ((at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0;
            let rows = Array2::from_shape_fn((count, dim), |(row, column)| value(row * dim + column));
            let embedding = Array1::from_shape_fn(dim, |at| value(at + 100_000));
            let wanted: Vec<f64> = rows.rows().into_iter()
                .map(|row| row.iter().zip(&embedding).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()).collect();
            let mut found = vec![row_products(&rows, embedding.view())];
            if dim > 0 {
                found.push(products(rows.as_slice().unwrap(), embedding.as_slice().unwrap()));
            }
            #[cfg(target_arch = "x86_64")]
            if dim > 0 && std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has it.
                found.push(unsafe { avx2(rows.as_slice().unwrap(), embedding.as_slice().unwrap()) });
            }
            for found in found {
                prop_assert_eq!(found.len(), count);
                for (found, wanted) in found.iter().zip(&wanted) {
                    prop_assert!((f64::from(*found) - wanted).abs() < 1e-4 * (dim as f64).sqrt().max(1.0), "{} {}", found, wanted);
                }
            }
        }
    }

    #[test]
    fn an_embedding_with_gaps_and_another_row_length_go_the_slow_way() {
        let rows = Array2::from_shape_fn((3, 4), |(row, column)| (row * 4 + column) as f32);
        let wide = Array1::from_shape_fn(8, |at| at as f32);
        let gaps = wide.slice(s![..;2]);
        assert_eq!(row_products(&rows, gaps), rows.dot(&gaps).to_vec());
        let columns = rows.t().to_owned();
        assert_eq!(row_products(&columns, wide.slice(s![..3])), columns.dot(&wide.slice(s![..3])).to_vec());
    }
}
