//! Products of 8-bit rows with one query of 16-bit numbers, exact in 32 bits. In: a query once, then rows; out: a number each, on the
//! caller's thread. Pure. The loop is plain Rust, compiled again for AVX2 and AVX-512 and chosen by what the processor has; NEON is part of
//! every 64-bit ARM.

/// A query, ready for [`QuantizedQuery::score`].
#[derive(Clone, Debug)]
pub struct QuantizedQuery {
    values: Vec<i16>,
    scale: f32,
    kernel: Kernel,
}

/// Which compiled loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    /// All that this processor has, the best one last.
    fn available() -> impl DoubleEndedIterator<Item = Self> {
        let mut kernels = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                kernels.push(Self::Avx2);
            }
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw") {
                kernels.push(Self::Avx512);
            }
        }
        kernels.into_iter()
    }
}

impl QuantizedQuery {
    /// Of `values`, which are turned as rows are.
    pub fn new(values: &[f32]) -> Self {
        let kernel = Kernel::available().next_back().unwrap_or(Kernel::Plain);
        let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        // No sum of products may leave 32 bits: by Cauchy and Schwarz it is at most length × 127 × √dim.
        let room = 2.0_f32.powi(31) * 0.98 / (127.0 * (values.len().max(1) as f32).sqrt());
        let by = (32_767.0 / largest).min(room / length);
        let by = if by.is_finite() { by } else { 0.0 };
        let scale = if by > 0.0 { 1.0 / by } else { 0.0 };
        // Saturates, and makes 0 of what is no number.
        Self { values: values.iter().map(|value| (value * by).round() as i16).collect(), scale, kernel }
    }

    /// The product with a row whose numbers are `scale` times the signed bytes of `row`.
    pub fn score(&self, row: &[u8], scale: f32) -> f32 {
        let sum = match self.kernel {
            Kernel::Plain => dot(row, &self.values),
            // SAFETY: the kernel was chosen because the processor has these features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { avx2(row, &self.values) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { avx512(row, &self.values) },
        };
        sum as f32 * scale * self.scale
    }
}

#[inline(always)]
fn dot(row: &[u8], query: &[i16]) -> i32 {
    // Becomes multiply-and-add of 16-bit pairs; sums in lanes by hand were slower.
    row.iter().zip(query).map(product).fold(0, i32::wrapping_add)
}

#[inline(always)]
fn product((row, query): (&u8, &i16)) -> i32 {
    i32::from(i8::from_le_bytes([*row])) * i32::from(*query)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(row: &[u8], query: &[i16]) -> i32 {
    dot(row, query)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(row: &[u8], query: &[i16]) -> i32 {
    dot(row, query)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_kernel_is_right_at_every_length(
            pairs in prop::collection::vec((any::<i8>(), -1.0_f32..1.0), 0..1200), scale in 1e-6_f32..1.0
        ) {
            let (row, values): (Vec<i8>, Vec<f32>) = pairs.into_iter().unzip();
            let want: f64 = row.iter().zip(&values).map(|(r, v)| f64::from(*r) * f64::from(*v)).sum::<f64>() * f64::from(scale);
            let bound = row.iter().map(|r| f64::from(*r).abs()).sum::<f64>() * f64::from(scale) / 30_000.0 + want.abs() * 1e-5;
            let bytes: Vec<u8> = row.iter().map(|value| value.to_le_bytes()[0]).collect();
            for kernel in Kernel::available() {
                let query = QuantizedQuery { kernel, ..QuantizedQuery::new(&values) };
                prop_assert!((f64::from(query.score(&bytes, scale)) - want).abs() <= bound + 1e-9, "{kernel:?}");
            }
        }
    }

    #[test]
    fn the_longest_rows_of_the_largest_numbers_do_not_overflow() {
        for dim in [1, 16, 512, 4096] {
            let query = QuantizedQuery::new(&vec![1.0; dim]);
            for kernel in Kernel::available() {
                let score = QuantizedQuery { kernel, ..query.clone() }.score(&vec![127; dim], 1.0);
                let want = 127.0 * dim as f32;
                assert!((score - want).abs() < want * 1e-3, "{kernel:?} {dim}: {score}");
            }
        }
        for odd in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [0.0, 0.0]] {
            assert!(QuantizedQuery::new(&odd).score(&[1, 1], 1.0).is_finite(), "{odd:?}");
        }
    }
}
