//! What becomes of a stored weight: turned for MatMul, rounded to 16 bits, or quantised to 8 or 4 bits.
//!
//! Comes in: row-major f32, linear weights as `[out, in]` (PyTorch's order). Goes out: the values a graph stores. Pure.

use half::f16;

/// Inputs that share a scale in block-wise weights. ONNX Runtime's kernels take 16 to 256; 32 costs one bit a weight.
pub const BLOCK: usize = 32;

/// `[rows, columns]` to `[columns, rows]`, in tiles so that both sides stay in the cache.
pub fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    let mut out = vec![T::default(); values.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

/// `[out, in]` times `[in]`, summed in 64 bits.
pub fn product(weight: &[f32], vector: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(vector).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum::<f64>() as f32;
    weight.chunks_exact(vector.len().max(1)).map(dot).collect()
}

/// Rounded to the nearest 16-bit float; what is too large becomes the largest there is.
pub fn halves(values: &[f32]) -> Vec<f16> {
    let limit = f16::MAX.to_f32();
    values.iter().map(|v| f16::from_f32(v.clamp(-limit, limit))).collect()
}

/// Quantises `[out, in]` to 8 bits with a scale for each output, and turns it to `[in, out]`.
///
/// Processors without 8-bit dot products (AVX2, and AVX-512 without VNNI) multiply unsigned by signed bytes and add each pair of
/// neighbouring inputs in 16 bits, which saturate: two inputs of 255 times two weights of 127 come out as half of what they
/// are. So the scale is such that two neighbours of one sign are 128 at most together, and 255 · 128 fits. That costs a third of a step of
/// normally distributed weights, where halving all weights would cost a whole one, and nothing in speed.
pub fn int8(values: &[f32], inputs: usize) -> (Vec<i8>, Vec<f32>) {
    let outputs = values.len() / inputs.max(1);
    let mut scales = Vec::with_capacity(outputs);
    let mut quantised = Vec::with_capacity(values.len());
    for row in values.chunks_exact(inputs) {
        // Each of a pair may be rounded up by half a step: from 127 to 128 together.
        let largest = row.chunks(2).fold(0_f32, |most, pair| most.max(reach(pair)));
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        scales.push(scale);
        quantised.extend(row.iter().map(|v| nearest(v / scale).clamp(-127.0, 127.0) as i8));
    }
    (transpose(&quantised, outputs, inputs), scales)
}

/// The larger of what the positive and what the negative values sum to.
fn reach(pair: &[f32]) -> f32 {
    let (up, down) = pair.iter().fold((0_f32, 0_f32), |(up, down), v| (up + v.max(0.0), down - v.min(0.0)));
    up.max(down)
}

/// Blocks of `MatMulNBits` for `inputs`.
pub const fn blocks(inputs: usize) -> usize {
    inputs.div_ceil(BLOCK)
}

/// Quantises `[out, in]` to 8 bits as `com.microsoft.MatMulNBits` stores them: `[out, blocks, block]`, values plus 128, and a
/// scale for each block `[out, blocks]`. A block that is not full is filled up with zeros.
pub fn block8(values: &[f32], inputs: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut packed, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for block in values.chunks_exact(inputs).flat_map(|row| row.chunks(BLOCK)) {
        let largest = block.iter().fold(0_f32, |most, v| most.max(v.abs()));
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        scales.push(scale);
        let level = |v: Option<&f32>| v.map_or(128.0, |v| nearest(v / scale).clamp(-127.0, 127.0) + 128.0);
        packed.extend((0..BLOCK).map(|i| level(block.get(i)) as u8));
    }
    (packed, scales)
}

/// As [`block8`] in 4 bits: `[out, blocks, block / 2]`, the even input in the low half of a byte, values plus 8.
///
/// The value with the largest magnitude in a block may be given either end of −8…7; of these and of a few steps near
/// them the one with the least squared error is taken.
pub fn block4(values: &[f32], inputs: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut packed, mut scales) = (Vec::with_capacity(values.len().div_ceil(2)), Vec::new());
    for block in values.chunks_exact(inputs).flat_map(|row| row.chunks(BLOCK)) {
        let scale = int4_scale(block);
        scales.push(scale);
        let level = |v: Option<&f32>| v.map_or(8, |v| int4_level(*v, scale) as i8 + 8) as u8;
        packed.extend((0..BLOCK / 2).map(|i| level(block.get(2 * i)) | level(block.get(2 * i + 1)) << 4));
    }
    (packed, scales)
}

/// To the nearest whole number, ties to even, for values far below 2²². Without SSE 4.1, which a portable build cannot
/// assume, rounding is a call for each value; this is an addition that pushes the fraction out of the mantissa.
fn nearest(value: f32) -> f32 {
    const PUSH: f32 = 12_582_912.0; // 1.5 × 2²³
    (value + PUSH) - PUSH
}

fn int4_level(value: f32, scale: f32) -> f32 {
    nearest(value / scale).clamp(-8.0, 7.0)
}

fn int4_scale(block: &[f32]) -> f32 {
    let largest = block.iter().fold(0_f32, |most, v| if v.abs() > most.abs() { *v } else { most });
    if largest == 0.0 {
        return 1.0;
    }
    let loss = |scale: f32| block.iter().map(|v| (v - scale * int4_level(*v, scale)).powi(2)).sum::<f32>();
    let mut best = (f32::INFINITY, 1.0);
    for steps in [8.0, 7.5, 7.0, 8.5, 9.0, 9.5] {
        for scale in [-largest / steps, largest / steps] {
            let loss = loss(scale);
            if loss < best.0 {
                best = (loss, scale);
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn turning_twice_gives_the_same_and_once_swaps_the_indices(rows in 1..70_usize, columns in 1..70_usize) {
            let values: Vec<u32> = (0..(rows * columns) as u32).collect();
            let turned = transpose(&values, rows, columns);
            prop_assert_eq!(turned[(columns - 1) * rows], (columns - 1) as u32);
            prop_assert_eq!(transpose(&turned, columns, rows), values);
        }

        #[test]
        fn an_8_bit_weight_is_off_by_half_a_step_at_most(values in prop::collection::vec(-3.0_f32..3.0, 12)) {
            let (quantised, scales) = int8(&values, 4);
            for (index, value) in values.iter().enumerate() {
                let (row, column) = (index / 4, index % 4);
                let back = f32::from(quantised[column * 3 + row]) * scales[row];
                prop_assert!((back - value).abs() <= scales[row] * 0.5001, "{back} {value}");
            }
        }

        #[test]
        fn two_neighbouring_8_bit_weights_times_any_inputs_fit_16_bits(values in prop::collection::vec(-3.0_f32..3.0, 2 * 33)) {
            let (quantised, _) = int8(&values, 33);
            for column in 0..2 {
                let weights: Vec<i32> = quantised.iter().skip(column).step_by(2).map(|w| i32::from(*w)).collect();
                for pair in weights.chunks(2) {
                    let up: i32 = pair.iter().map(|w| 255 * w.max(&0)).sum();
                    let down: i32 = pair.iter().map(|w| 255 * w.min(&0)).sum();
                    prop_assert!(up <= i32::from(i16::MAX) && down >= i32::from(i16::MIN), "{pair:?}");
                }
            }
        }

        #[test]
        fn a_4_bit_weight_keeps_its_place_and_most_of_its_size(values in prop::collection::vec(-3.0_f32..3.0, 2 * 48)) {
            let (packed, scales) = block4(&values, 48);
            prop_assert_eq!((packed.len(), scales.len()), (2 * 2 * 16, 4));
            let mut error = 0.0;
            for (index, value) in values.iter().enumerate() {
                let (row, column) = (index / 48, index % 48);
                let (block, place) = (row * 2 + column / 32, column % 32);
                let byte = packed[block * 16 + place / 2];
                let level = i16::from(if place % 2 == 0 { byte & 15 } else { byte >> 4 }) - 8;
                error += (f32::from(level) * scales[block] - value).powi(2);
            }
            let size: f32 = values.iter().map(|v| v * v).sum();
            prop_assert!(error <= 0.02 * size + 1e-6, "{error} of {size}");
        }
    }

    #[test]
    fn a_block_in_8_bits_is_centred_on_128_and_filled_up() {
        let (packed, scales) = block8(&[1.27, -1.27, 0.01], 3);
        assert_eq!(packed[..4], [255, 1, 129, 128]);
        assert_eq!((packed.len(), scales), (32, vec![1.27 / 127.0]));
    }

    #[test]
    fn rounding_by_addition_is_rounding() {
        for value in [-127.0, -3.5, -2.5, -0.49, 0.0, 0.5, 1.5, 8.499, 126.51_f32] {
            assert_eq!(nearest(value), value.round_ties_even(), "{value}");
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let (quantised, scales) = int8(&[0.0; 8], 4);
        assert_eq!((quantised, scales), (vec![0; 8], vec![1.0; 2]));
        let (packed, scales) = block4(&[0.0; 32], 32);
        assert_eq!((packed, scales), (vec![0x88; 16], vec![1.0]));
    }

    #[test]
    fn a_weight_beyond_16_bits_is_kept_finite() {
        assert_eq!(halves(&[1e9, -1e9, 0.5]), [f16::MAX, f16::MIN, f16::from_f32(0.5)]);
    }
}
