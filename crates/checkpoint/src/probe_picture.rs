//! Made-up pictures, and the random numbers behind them: the same for the same seed, on every machine. Pure.

/// SplitMix64 (Steele, Lea and Flood 2014): short, seeded, good enough for made-up weights.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near enough to a standard normal: the sum of four uniform 16-bit numbers, centred and scaled.
    pub(crate) fn bell(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum();
        // Four uniform numbers on 0..65535 have the mean 131070 and the standard deviation 37837.
        (sum as f32 - 131_070.0) / 37_837.0
    }
}

/// A made-up, normalised picture (`[3, size, size]`): coloured waves of several sizes, an edge and some noise, so that it has
/// the mean, the spread and the smoothness of a photograph. The same for the same seed, on every machine to rounding.
pub fn probe_picture(size: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut number = |from: f32, to: f32| from + (to - from) * (random.next() >> 40) as f32 / (1_u64 << 24) as f32;
    let waves: Vec<[f32; 6]> = (0..6)
        .map(|index| {
            let frequency = 2.0_f32.powi(index) * 2.0;
            let gain = 1.2 / (index + 1) as f32;
            [
                number(-frequency, frequency),
                number(-frequency, frequency),
                number(0.0, 6.3),
                number(-gain, gain),
                number(-gain, gain),
                number(-gain, gain),
            ]
        })
        .collect();
    let (edge, step) = (number(0.2, 0.8), [number(-1.0, 1.0), number(-1.0, 1.0), number(-1.0, 1.0)]);
    let mut out = Vec::with_capacity(3 * size * size);
    for (channel, step) in step.into_iter().enumerate() {
        for row in 0..size {
            for column in 0..size {
                let (x, y) = (column as f32 / size as f32, row as f32 / size as f32);
                let wave = |w: &[f32; 6]| w[3 + channel] * (std::f32::consts::TAU * (w[0] * x + w[1] * y) + w[2]).sin();
                let smooth: f32 = waves.iter().map(wave).sum();
                let beyond = if x + 0.3 * y > edge { step } else { 0.0 };
                out.push((smooth + beyond + number(-0.1, 0.1)).clamp(-1.9, 2.3));
            }
        }
    }
    out
}
