//! The peaks of a label's last hour: for each minute of the samples' own clock the best of its scores. Pure; what is older goes.

use std::collections::VecDeque;

use crate::score::LabelScore;

/// Minutes that are kept.
const MINUTES: u32 = 60;

/// The best sample of a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Seconds since the stream's first sample.
    pub second: u32,
    pub score: LabelScore,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct HourOfPeaks(VecDeque<Peak>);

impl HourOfPeaks {
    /// A sample; `second` does not go back.
    pub fn note(&mut self, second: u32, score: LabelScore) {
        let minute = second / 60;
        match self.0.back_mut() {
            Some(last) if last.second / 60 == minute => {
                if last.score.best(score) != last.score {
                    *last = Peak { second, score };
                }
            }
            _ => {
                while self.0.front().is_some_and(|first| first.second / 60 + MINUTES <= minute) {
                    self.0.pop_front();
                }
                self.0.push_back(Peak { second, score });
            }
        }
    }

    /// Those of the hour before `second`, oldest first.
    pub fn until(&self, second: u32) -> impl Iterator<Item = &Peak> {
        self.0.iter().filter(move |peak| peak.second + MINUTES * 60 > second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_has_its_best_and_an_hour_of_them_is_kept() {
        let mut peaks = HourOfPeaks::default();
        let of = |margin| LabelScore { margin, rival: None };
        for (second, margin) in [(0, f32::NAN), (1, -3.0), (20, 2.0), (59, 1.0), (61, -1.0), (400, 0.5)] {
            peaks.note(second, of(margin));
        }
        let told = |peaks: &HourOfPeaks, now| peaks.until(now).map(|p| (p.second, p.score.margin)).collect::<Vec<_>>();
        assert_eq!(told(&peaks, 400), [(20, 2.0), (61, -1.0), (400, 0.5)]);
        assert_eq!(told(&peaks, 3700), [(400, 0.5)]);
        for second in 0..20_000 {
            peaks.note(second + 1000, of(second as f32));
        }
        assert_eq!(peaks.0.len(), 60);
        assert!(told(&peaks, 20_999).len() == 60 && told(&peaks, 60_000).is_empty());
    }
}
