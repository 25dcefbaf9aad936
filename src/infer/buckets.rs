//! Batch sizes that are really run. Pure.
//!
//! A GPU provider prepares something for every new shape: TensorRT picks tactics, CUDA and cuDNN choose kernels and grow their
//! arenas, OpenVINO compiles. So batches are filled up to one of a few sizes, and what the filling gives is thrown away. The CPU
//! pays for every picture and for no shape, so there a batch is run as it is.

use super::{Provider, chunk};

/// The sizes for batches of up to some number: powers of two, and that number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<usize>);

impl Buckets {
    /// For batches of up to `most`; none for a provider that does not want them.
    pub fn of(provider: Provider, most: usize) -> Self {
        match provider {
            // A server fills its batches itself.
            Provider::Cpu | Provider::Remote => Self(Vec::new()),
            Provider::Tensorrt | Provider::Cuda | Provider::Openvino => Self(chunk::sizes(most.max(1))),
        }
    }

    /// The smallest that holds `count`; `count` itself where none does.
    pub fn fit(&self, count: usize) -> usize {
        self.0.iter().copied().find(|size| *size >= count).unwrap_or(count)
    }

    /// All of them, the largest first.
    pub fn largest_first(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().rev().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gpu_sees_powers_of_two_and_the_largest_batch() {
        let buckets = Buckets::of(Provider::Cuda, 12);
        let runs: Vec<usize> = (1..=13).map(|count| buckets.fit(count)).collect();
        assert_eq!(runs, [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 13]);
        assert_eq!(buckets.largest_first().collect::<Vec<_>>(), [12, 8, 4, 2, 1]);
    }

    #[test]
    fn a_cpu_runs_batches_as_they_are() {
        let buckets = Buckets::of(Provider::Cpu, 8);
        assert!((1..20).all(|count| buckets.fit(count) == count));
    }

    proptest! {
        #[test]
        fn no_picture_is_left_out_and_less_than_half_of_a_run_is_filling(most in 1usize..1024, count in 1usize..1024) {
            let run = Buckets::of(Provider::Tensorrt, most).fit(count);
            prop_assert!(run >= count && run < count * 2);
            prop_assert!(count > most || run <= most);
        }
    }
}
