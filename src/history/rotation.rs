//! Turns an embedding so that no number of it stands out, and back again: lengths and angles stay. In: numbers; out: as many,
//! on the caller's thread. Pure.
//!
//! CLIP's embeddings have a few numbers that are ten times the others. Eight bits a number, with one scale a row, would round all others
//! coarsely. Signs that look random, then a Hadamard transform in blocks (the largest power of two that divides the length), spread each
//! number over its block (as QuaRot does with weights, arXiv:2404.00456). Both are fixed for ever: rows on disk depend on them.

/// Turns `values` in place.
pub fn rotate(values: &mut [f32]) {
    signs(values);
    blocks(values);
}

/// Undoes [`rotate`].
pub fn turn_back(values: &mut [f32]) {
    blocks(values);
    signs(values);
}

/// Its own inverse, as the transform of a block is.
fn signs(values: &mut [f32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for value in values.iter_mut() {
        // xorshift64: the same signs everywhere.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state >> 63 == 1 {
            *value = -*value;
        }
    }
}

fn blocks(values: &mut [f32]) {
    let block = 1 << values.len().trailing_zeros().min(12);
    if block > 1 {
        values.chunks_exact_mut(block).for_each(hadamard);
    }
}

/// The orthonormal Walsh-Hadamard transform of a power of two of numbers.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_stay_and_nothing_stands_out() {
        for dim in [1, 7, 512, 640, 768, 1152, 4096] {
            let (mut a, mut b) = (vec![0.02_f32; dim], vec![-0.01_f32; dim]);
            (a[dim / 2], b[0]) = (0.9, 0.7);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let before = dot(&a, &b);
            rotate(&mut a);
            rotate(&mut b);
            assert!((dot(&a, &b) - before).abs() < 1e-5, "{dim}");
            assert!(dim < 512 || a.iter().all(|value| value.abs() < 0.3), "{dim}");
            turn_back(&mut a);
            let is_back = |(at, value): (usize, &f32)| (value - if at == dim / 2 { 0.9 } else { 0.02 }).abs() < 1e-5;
            assert!(a.iter().enumerate().all(is_back), "{dim}");
        }
    }

    #[test]
    fn rows_of_earlier_versions_stay_searchable() {
        let mut values = [1.0, 2.0, 3.0, 4.0];
        rotate(&mut values);
        assert_eq!(values, [4.0, -2.0, -3.0, -1.0]);
    }
}
