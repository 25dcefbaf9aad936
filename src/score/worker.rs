//! The scoring thread: embeddings in, scores of whole frames out, in the order in which the frames were taken.
//!
//! Squares of a tiled frame are joined here: each label keeps its best score. Ends when the session thread is gone.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use ndarray::ArrayView1;

use super::Scorer;
use crate::account::Outcome;
use crate::batch::{EmbeddedBatch, FrameMeta};
use crate::frame::FrameTime;

/// Scores of one frame against all label sets of its stream.
#[derive(Debug)]
pub struct ScoredFrame<'a> {
    pub stream: usize,
    pub time: FrameTime,
    /// `(label set, one score a label)`, in the stream's order of sets.
    pub sets: &'a [(usize, Vec<f32>)],
}

/// A frame some of whose squares are still to come.
struct Partial {
    frame: Arc<FrameMeta>,
    missing: usize,
    sets: Vec<(usize, Vec<f32>)>,
}

/// Runs until the session thread is gone. `streams[i]` lists the label sets of stream `i` as indices into `scorers`.
pub fn run(
    embedded: &Receiver<EmbeddedBatch>,
    scorers: &[Arc<Scorer>],
    streams: &[Vec<usize>],
    mut on_frame: impl FnMut(ScoredFrame<'_>),
) {
    let mut partials: HashMap<*const FrameMeta, Partial> = HashMap::new();
    for EmbeddedBatch { items, embeddings, dim } in embedded {
        for (item, row) in items.into_iter().zip(embeddings.chunks_exact(dim)) {
            let embedding = ArrayView1::from(row);
            let sets = streams.get(item.frame.stream).map_or(&[][..], Vec::as_slice);
            let scores = sets.iter().map(|set| (*set, scorers[*set].score(embedding))).collect();
            // The map keeps the frame alive, so its address names it.
            let key = Arc::as_ptr(&item.frame);
            let whole = match partials.remove(&key) {
                None => Partial { missing: item.frame.tiles - 1, frame: item.frame, sets: scores },
                Some(partial) => partial.join(&scores),
            };
            if whole.missing > 0 {
                partials.insert(key, whole);
                continue;
            }
            let latency = whole.frame.time.captured.elapsed();
            metrics::histogram!("vtagd_frame_latency_seconds").record(latency.as_secs_f64());
            on_frame(ScoredFrame { stream: whole.frame.stream, time: whole.frame.time, sets: &whole.sets });
            // Last: a stream whose frames have all been settled may be closed, and no event may come after that.
            whole.frame.ticket.settle(Outcome::Inferred);
        }
        // A frame that lost a square to a failed run has ended elsewhere.
        partials.retain(|_, p| !p.frame.ticket.is_settled());
    }
}

impl Partial {
    fn join(mut self, scores: &[(usize, Vec<f32>)]) -> Self {
        self.missing -= 1;
        for ((_, best), (_, new)) in self.sets.iter_mut().zip(scores) {
            for (best, new) in best.iter_mut().zip(new) {
                *best = best.max(*new);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crossbeam_channel::bounded;
    use ndarray::{Array2, array};

    use super::*;
    use crate::account::{Account, DropReason};
    use crate::batch::Item;
    use crate::label::Scoring;
    use crate::score::{Activation, Block, Head, LabelEmbeddings, SetEmbeddings};

    fn scorer() -> Arc<Scorer> {
        let label = |prompts| LabelEmbeddings { name: "x".into(), prompts, negatives: Array2::zeros((0, 2)) };
        let set = SetEmbeddings {
            name: "s".into(),
            scoring: Scoring::Exclusive,
            blocks: vec![Block { labels: vec![label(array![[1.0, 0.0]])], background: array![[0.0, 1.0]] }],
        };
        Arc::new(Scorer::new(&set, Head { scale: 10.0, bias: 0.0, activation: Activation::Softmax }).unwrap())
    }

    fn frame(account: &Arc<Account>, tiles: usize, second: u64) -> Arc<FrameMeta> {
        let time = FrameTime {
            media: Duration::from_secs(second),
            captured: Instant::now(),
            wall: jiff::Timestamp::UNIX_EPOCH,
        };
        Arc::new(FrameMeta { stream: 0, time, tiles, ticket: account.sample(&"a".into()) })
    }

    /// Feeds the batches, gives (media second, score) of every frame that came out.
    fn scored(batches: Vec<Vec<(Item, [f32; 2])>>) -> Vec<(u64, f32)> {
        let (send, receive) = bounded(16);
        for batch in batches {
            let embeddings = batch.iter().flat_map(|(_, e)| *e).collect();
            let items = batch.into_iter().map(|(i, _)| i).collect();
            send.send(EmbeddedBatch { items, embeddings, dim: 2 }).unwrap();
        }
        drop(send);
        let mut out = Vec::new();
        run(&receive, &[scorer()], &[vec![0]], |f| out.push((f.time.media.as_secs(), f.sets[0].1[0])));
        out
    }

    #[test]
    fn a_tiled_frame_takes_its_best_square_even_across_batches() {
        let account = Arc::new(Account::default());
        let (tiled, plain) = (frame(&account, 2, 1), frame(&account, 1, 2));
        let item = |frame: &Arc<FrameMeta>, tile| Item { frame: Arc::clone(frame), tile };
        let out = scored(vec![
            vec![(item(&tiled, 0), [0.0, 1.0])],
            vec![(item(&tiled, 1), [1.0, 0.0]), (item(&plain, 0), [0.0, 1.0])],
        ]);
        drop((tiled, plain));
        assert_eq!(out.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [1, 2]);
        assert!(out[0].1 > 0.99 && out[1].1 < 0.01, "{out:?}");
        assert_eq!((account.totals().inferred, account.totals().unaccounted()), (2, 0));
    }

    #[test]
    fn a_frame_is_settled_only_after_its_events_have_been_made() {
        let account = Arc::new(Account::default());
        let (send, receive) = bounded(1);
        let item = Item { frame: frame(&account, 1, 1), tile: 0 };
        send.send(EmbeddedBatch { items: vec![item], embeddings: vec![1.0, 0.0], dim: 2 }).unwrap();
        drop(send);
        let mut meanwhile = None;
        run(&receive, &[scorer()], &[vec![0]], |_| meanwhile = Some(account.totals().unaccounted()));
        assert_eq!((meanwhile, account.totals().unaccounted()), (Some(1), 0));
    }

    #[test]
    fn a_frame_that_lost_a_square_is_forgotten_and_counted_once() {
        let account = Arc::new(Account::default());
        let (broken, good) = (frame(&account, 2, 1), frame(&account, 1, 2));
        broken.ticket.settle(Outcome::Dropped(DropReason::Inference));
        let item = |frame: &Arc<FrameMeta>, tile| Item { frame: Arc::clone(frame), tile };
        let out = scored(vec![vec![(item(&broken, 0), [1.0, 0.0])], vec![(item(&good, 0), [1.0, 0.0])]]);
        drop((broken, good));
        assert_eq!(out.len(), 1);
        let totals = account.totals();
        assert_eq!((totals.inferred, totals.dropped.get("inference"), totals.unaccounted()), (1, Some(&1), 0));
    }
}
