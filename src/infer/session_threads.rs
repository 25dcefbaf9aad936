//! `runtime.sessions: auto` on a CPU: how the cores are shared out between sessions. In: the cores, and what was
//! measured; out: sessions and threads each. Pure; [`measurement_cache`](super::measurement_cache) remembers the answer.
//!
//! Threads of one session wait for each other hundreds of times a run; two sessions with half the threads each do so less, and all the
//! more so where something else takes a core from time to time. They share their weights, but each run has memory of its own and takes
//! longer. So sessions have to be worth it: [`WORTH`].

use serde::{Deserialize, Serialize};

/// Where nobody asks for it, a box with fewer cores is not measured: it is a small one, and slow to start already.
pub const UNASKED_CORES: usize = 4;
/// With one core there is nothing to share out.
pub const LEAST_CORES: usize = 2;
/// What more sessions must gain over fewer: a picture that comes alone is looked at by fewer threads.
const WORTH: f64 = 1.1;

/// Sessions, and threads inside one operator of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionThreads {
    pub sessions: usize,
    pub threads: usize,
}

impl SessionThreads {
    /// Whether there are as many of `cores`: what a file says may be nonsense.
    pub fn fits(self, cores: usize) -> bool {
        self.sessions > 0 && self.sessions.saturating_mul(self.threads) <= cores
    }
}

/// What is worth measuring on so many `cores`, fewest sessions first; only the first where there is nothing to choose, or there are
/// fewer cores than `least`.
pub fn candidates(cores: usize, least: usize) -> Vec<SessionThreads> {
    let all = SessionThreads { sessions: 1, threads: cores.max(1) };
    let more = std::iter::successors(Some(2_usize), |sessions| Some(sessions * 2))
        .take_while(|sessions| cores >= least.max(LEAST_CORES) && *sessions <= cores)
        .map(|sessions| SessionThreads { sessions, threads: cores / sessions });
    std::iter::once(all).chain(more).collect()
}

/// The split to use of those with their images a second, fewest sessions first.
pub fn choose(measured: &[(SessionThreads, f64)]) -> Option<SessionThreads> {
    let better =
        |best: (SessionThreads, f64), next: (SessionThreads, f64)| if next.1 >= best.1 * WORTH { next } else { best };
    measured.iter().copied().reduce(better).map(|(split, _)| split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(cores: usize) -> Vec<(usize, usize)> {
        candidates(cores, UNASKED_CORES).iter().map(|split| (split.sessions, split.threads)).collect()
    }

    #[test]
    fn few_cores_are_not_shared_out() {
        assert_eq!(splits(1), [(1, 1)]);
        assert_eq!(splits(3), [(1, 3)]);
        assert_eq!(candidates(2, LEAST_CORES).len(), 2, "unless somebody asks for it");
        assert_eq!(splits(8), [(1, 8), (2, 4), (4, 2), (8, 1)]);
        assert_eq!(splits(6), [(1, 6), (2, 3), (4, 1)]);
    }

    #[test]
    fn more_sessions_have_to_be_worth_it() {
        let split = |sessions| SessionThreads { sessions, threads: 8 / sessions };
        let chosen = |rates: [f64; 4]| {
            let measured: Vec<_> = [1, 2, 4, 8].map(split).into_iter().zip(rates).collect();
            choose(&measured).unwrap().sessions
        };
        assert_eq!(chosen([100.0, 106.0, 108.0, 109.0]), 1);
        assert_eq!(chosen([100.0, 120.0, 125.0, 130.0]), 2);
        assert_eq!(chosen([100.0, 108.0, 115.0, 90.0]), 4, "two alone would not have been");
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn an_answer_that_fits_no_cores_is_none() {
        let fits = |sessions, threads| SessionThreads { sessions, threads }.fits(8);
        assert!(fits(2, 4) && fits(8, 1) && fits(1, 8));
        assert!(!fits(4, 4) && !fits(0, 8) && !fits(usize::MAX, 2));
    }
}
