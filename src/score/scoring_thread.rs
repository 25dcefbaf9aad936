//! The scoring thread: embeddings in, scores of whole frames out, in the order in which the frames were taken.
//!
//! Tiles of a tiled view are joined here: each label keeps its best score. Views of one frame are scored one after the other and told
//! together: a frame that lost a tile of one of them is lost. A frame without pixels is scored with the embedding of
//! the frame it looks like, by the labels of now, and lost if that one was. Who listens stands in the [`ScoreRoutes`]; a frame of a
//! stream that has left is dropped. Ends when the session thread is gone.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use ndarray::ArrayView1;

use super::score_routes::{ScoreRoute, ScoreRoutes};
use super::{LabelScore, Scorer};
use crate::batching::batch::{EmbeddedBatch, FrameMeta, ItemKind};
use crate::stream::accounting::{DropReason, FrameOutcome};

/// A frame some of whose tiles are still to come.
struct Partial {
    frame: Arc<FrameMeta>,
    missing: usize,
    /// `[tiles so far, dim]`.
    embeddings: Vec<f32>,
}

/// Runs until the session thread is gone.
pub fn run(embedded: &Receiver<EmbeddedBatch>, score_routes: &ScoreRoutes) {
    let mut partials: HashMap<*const FrameMeta, Partial> = HashMap::new();
    for EmbeddedBatch { items, embeddings, dim, provider } in embedded {
        let mut routes = score_routes.lock();
        score_routes.computed_by.set(provider);
        let mut rows = embeddings.chunks_exact(dim);
        for item in items {
            let row = match item.kind {
                ItemKind::Tile => rows.next().unwrap_or_default(),
                ItemKind::Reused(shared_embedding) => {
                    match (shared_embedding.get(), routes.get_mut(&item.frame.stream)) {
                        (Some(embeddings), Some(route)) => {
                            whole(&item.frame, embeddings, dim, route, FrameOutcome::Reused)
                        }
                        (None, Some(_)) => item.frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference)),
                        (_, None) => {}
                    }
                    continue;
                }
            };
            // The map keeps the frame alive, so its address names it.
            let key = Arc::as_ptr(&item.frame);
            let partial = partials.remove(&key);
            let mut partial = partial.unwrap_or_else(|| Partial {
                missing: item.frame.tiles.iter().sum(),
                frame: item.frame,
                embeddings: Vec::with_capacity(dim),
            });
            partial.embeddings.extend_from_slice(row);
            partial.missing -= 1;
            if partial.missing > 0 {
                partials.insert(key, partial);
            } else if let Some(route) = routes.get_mut(&partial.frame.stream) {
                let Partial { frame, embeddings, .. } = &partial;
                // Before it ends: whoever finds it ended relies on this.
                if let Some(shared_embedding) = &frame.shared_embedding {
                    shared_embedding.keep(embeddings);
                }
                whole(frame, embeddings, dim, route, FrameOutcome::Inferred);
            }
        }
        // A frame that lost a tile to a failed run has ended elsewhere.
        partials.retain(|_, p| !p.frame.guard.is_complete());
    }
}

/// Scores a frame all of whose tiles are here, view by view.
fn whole(frame: &FrameMeta, embeddings: &[f32], dim: usize, route: &mut ScoreRoute, outcome: FrameOutcome) {
    let mut scores = Vec::with_capacity(frame.tiles.len() * route.scorers.len());
    let mut rest = embeddings;
    for tiles in &frame.tiles {
        let (of_view, others) = rest.split_at((tiles * dim).min(rest.len()));
        let skipped = route.skipped.iter().copied().chain(std::iter::repeat(false));
        let of_set = |(scorer, skipped): (&Arc<Scorer>, bool)| {
            if skipped { Vec::new() } else { best(scorer, of_view, dim) }
        };
        scores.extend(route.scorers.iter().zip(skipped).map(of_set));
        rest = others;
    }
    metrics::histogram!("vtagd_frame_latency_seconds").record(frame.time.captured.elapsed().as_secs_f64());
    if let Some(handler) = &mut route.embeddings {
        handler(frame.time, frame.picture.as_ref(), &frame.tiles, embeddings, dim);
    }
    (route.handler)(frame.time, frame.picture.as_ref(), &scores);
    // Last: a stream whose frames have all been completed may be closed, and no event may come after that.
    frame.guard.complete(outcome);
}

/// The scores of one view: of several tiles each label keeps its best.
fn best(scorer: &Scorer, embeddings: &[f32], dim: usize) -> Vec<LabelScore> {
    let mut tiles = embeddings.chunks_exact(dim).map(|row| scorer.score(ArrayView1::from(row)));
    let mut best = tiles.next().unwrap_or_default();
    for scores in tiles {
        for (best, new) in best.iter_mut().zip(scores) {
            *best = best.best(new);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use crossbeam_channel::bounded;
    use ndarray::{Array2, array};

    use super::*;
    use crate::batching::batch::{Item, SharedEmbedding};
    use crate::frame::{FrameTime, Picture};
    use crate::model::{Activation, LogitParameters};
    use crate::score::Scoring;
    use crate::score::{Block, LabelEmbeddings, SetEmbeddings};
    use crate::stream::StreamKey;
    use crate::stream::accounting::FrameAccounting;

    const KEY: StreamKey = StreamKey(7);

    fn scorer() -> Arc<Scorer> {
        scorer_of([1.0, 0.0])
    }

    /// One label with this prompt, against `[0, 1]`.
    fn scorer_of(prompt: [f32; 2]) -> Arc<Scorer> {
        let label = |prompts| LabelEmbeddings { name: "x".into(), prompts, negatives: Array2::zeros((0, 2)) };
        let set = SetEmbeddings {
            name: "s".into(),
            scoring: Scoring::Exclusive,
            blocks: vec![Block { labels: vec![label(array![prompt])], background: array![[0.0, 1.0]] }],
        };
        Arc::new(
            Scorer::new(&set, LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax }).unwrap(),
        )
    }

    fn frame(accounting: &Arc<FrameAccounting>, tiles: usize, second: u64) -> Arc<FrameMeta> {
        let time = FrameTime {
            media: Duration::from_secs(second),
            captured: Instant::now(),
            wall: jiff::Timestamp::UNIX_EPOCH,
            connection: 0,
        };
        Arc::new(FrameMeta {
            stream: KEY,
            time,
            tiles: vec![tiles],
            shared_embedding: None,
            picture: None,
            guard: accounting.sample(&"a".into()),
        })
    }

    /// Feeds the batches, gives (media second, score) of every frame that came out.
    fn scored(batches: Vec<Vec<(Item, [f32; 2])>>) -> Vec<(u64, f32)> {
        let (send, receive) = bounded(16);
        for batch in batches {
            let embeddings = batch.iter().filter(|(item, _)| item.has_place()).flat_map(|(_, e)| *e).collect();
            let items = batch.into_iter().map(|(i, _)| i).collect();
            send.send(EmbeddedBatch { items, embeddings, dim: 2, provider: "cpu" }).unwrap();
        }
        drop(send);
        let out = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&out);
        run(&receive, &score_routes(move |time, score| kept.lock().unwrap().push((time.media.as_secs(), score))));
        std::mem::take(&mut *out.lock().unwrap())
    }

    fn score_routes(mut heard: impl FnMut(FrameTime, f32) + Send + 'static) -> ScoreRoutes {
        let score_routes = ScoreRoutes::default();
        let handler = Box::new(move |time: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
            heard(time, scores[0][0].probability())
        });
        score_routes.enter(KEY, ScoreRoute { scorers: vec![scorer()], skipped: Vec::new(), handler, embeddings: None });
        score_routes
    }

    #[test]
    fn a_tiled_frame_takes_its_best_square_even_across_batches() {
        let accounting = Arc::new(FrameAccounting::default());
        let (tiled, plain) = (frame(&accounting, 2, 1), frame(&accounting, 1, 2));
        let item = |frame: &Arc<FrameMeta>| Item { frame: Arc::clone(frame), kind: ItemKind::Tile };
        let out = scored(vec![
            vec![(item(&tiled), [0.0, 1.0])],
            vec![(item(&tiled), [1.0, 0.0]), (item(&plain), [0.0, 1.0])],
        ]);
        drop((tiled, plain));
        assert_eq!(out.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [1, 2]);
        assert!(out[0].1 > 0.99 && out[1].1 < 0.01, "{out:?}");
        assert_eq!((accounting.totals().inferred, accounting.totals().unaccounted()), (2, 0));
    }

    #[test]
    fn each_view_of_a_frame_has_scores_of_its_own_in_the_streams_order_and_reused_ones_too() {
        let accounting = Arc::new(FrameAccounting::default());
        let shared_embedding = Arc::new(SharedEmbedding::default());
        let of_views = |second, shared_embedding| {
            let frame = Arc::into_inner(frame(&accounting, 1, second)).unwrap();
            // The view in the middle is tiled.
            Arc::new(FrameMeta { tiles: vec![1, 2, 1], shared_embedding, ..frame })
        };
        let (first, again) = (of_views(1, Some(Arc::clone(&shared_embedding))), of_views(2, None));
        let tile = || Item { frame: Arc::clone(&first), kind: ItemKind::Tile };
        let (send, receive) = bounded(2);
        let embeddings = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]].concat();
        let batch = |items, embeddings| EmbeddedBatch { items, embeddings, dim: 2, provider: "cpu" };
        send.send(batch(vec![tile(), tile(), tile()], embeddings[..6].to_vec())).unwrap();
        let reused = Item { frame: again, kind: ItemKind::Reused(shared_embedding) };
        send.send(batch(vec![tile(), reused], embeddings[6..].to_vec())).unwrap();
        drop(send);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let handler = Box::new(move |_: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
            let of_view = |scores: &Vec<LabelScore>| scores[0].probability() > 0.99;
            kept.lock().unwrap().push(scores.iter().map(of_view).collect::<Vec<_>>());
        });
        let routes = ScoreRoutes::default();
        routes.enter(
            KEY,
            ScoreRoute {
                scorers: vec![scorer(), scorer_of([0.0, 1.0])],
                skipped: Vec::new(),
                handler,
                embeddings: None,
            },
        );
        run(&receive, &routes);
        drop(first);
        let of_one = [true, false, true, false, false, false];
        assert_eq!(*heard.lock().unwrap(), [of_one, of_one], "view by view, in each scorer by scorer");
        assert_eq!((accounting.totals().inferred, accounting.totals().reused), (1, 1));
    }

    #[test]
    fn a_set_that_is_skipped_has_no_scores_and_the_frame_and_the_others_have_theirs() {
        let accounting = Arc::new(FrameAccounting::default());
        let (send, receive) = bounded(1);
        let frame = Arc::into_inner(frame(&accounting, 1, 1)).unwrap();
        let item = Item { frame: Arc::new(FrameMeta { tiles: vec![1, 1], ..frame }), kind: ItemKind::Tile };
        let again = Item { frame: Arc::clone(&item.frame), kind: ItemKind::Tile };
        let embeddings = vec![1.0, 0.0, 0.0, 1.0];
        send.send(EmbeddedBatch { items: vec![item, again], embeddings, dim: 2, provider: "cpu" }).unwrap();
        drop(send);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let handler = Box::new(move |_: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
            kept.lock().unwrap().extend(scores.iter().map(Vec::len));
        });
        let (scorers, skipped) = (vec![scorer(), scorer(), scorer()], vec![false, true]);
        let routes = ScoreRoutes::default();
        routes.enter(KEY, ScoreRoute { scorers, skipped, handler, embeddings: None });
        run(&receive, &routes);
        assert_eq!(*heard.lock().unwrap(), [1, 0, 1, 1, 0, 1], "in both views");
        assert_eq!((accounting.totals().inferred, accounting.totals().unaccounted()), (1, 0));
    }

    /// A frame that looks like one whose embedding is in `shared_embedding`.
    fn again(
        accounting: &Arc<FrameAccounting>,
        tiles: usize,
        shared_embedding: &Arc<SharedEmbedding>,
        second: u64,
    ) -> (Item, [f32; 2]) {
        // The row belongs to nobody; `scored` leaves it out.
        (
            Item { frame: frame(accounting, tiles, second), kind: ItemKind::Reused(Arc::clone(shared_embedding)) },
            [0.0; 2],
        )
    }

    fn remembering(
        accounting: &Arc<FrameAccounting>,
        tiles: usize,
        second: u64,
    ) -> (Arc<FrameMeta>, Arc<SharedEmbedding>) {
        let shared_embedding = Arc::new(SharedEmbedding::default());
        let frame = Arc::into_inner(frame(accounting, tiles, second)).unwrap();
        (Arc::new(FrameMeta { shared_embedding: Some(Arc::clone(&shared_embedding)), ..frame }), shared_embedding)
    }

    #[test]
    fn a_frame_that_looks_like_another_is_scored_in_its_turn_with_that_ones_embedding() {
        let accounting = Arc::new(FrameAccounting::default());
        let (first, shared_embedding) = remembering(&accounting, 2, 1);
        let item = |frame: &Arc<FrameMeta>| Item { frame: Arc::clone(frame), kind: ItemKind::Tile };
        let other = frame(&accounting, 1, 3);
        let out = scored(vec![
            vec![(item(&first), [0.0, 1.0]), (item(&first), [1.0, 0.0]), again(&accounting, 2, &shared_embedding, 2)],
            vec![(item(&other), [0.0, 1.0]), again(&accounting, 2, &shared_embedding, 4)],
            vec![again(&accounting, 2, &shared_embedding, 5)],
        ]);
        drop((first, other));
        let seen: Vec<(u64, bool)> = out.iter().map(|(second, score)| (*second, *score > 0.99)).collect();
        assert_eq!(seen, [(1, true), (2, true), (3, false), (4, true), (5, true)], "both squares are remembered");
        let totals = accounting.totals();
        assert_eq!((totals.inferred, totals.reused, totals.unaccounted()), (2, 3, 0));
    }

    #[test]
    fn a_frame_whose_likeness_was_lost_is_lost_too() {
        let accounting = Arc::new(FrameAccounting::default());
        let (broken, shared_embedding) = remembering(&accounting, 1, 1);
        broken.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
        drop(broken);
        assert!(scored(vec![vec![again(&accounting, 1, &shared_embedding, 2)]]).is_empty());
        let totals = accounting.totals();
        assert_eq!((totals.reused, totals.dropped.get("inference"), totals.unaccounted()), (0, Some(&2), 0));
    }

    #[test]
    fn a_remembered_embedding_is_scored_by_the_labels_of_now() {
        let accounting = Arc::new(FrameAccounting::default());
        let shared_embedding = Arc::new(SharedEmbedding::default());
        shared_embedding.keep(&[1.0, 0.0]);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let score_routes = |labels: [f32; 2]| {
            let heard = Arc::clone(&heard);
            let score_routes = ScoreRoutes::default();
            let handler = Box::new(move |_: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
                heard.lock().unwrap().push(scores[0][0].probability())
            });
            score_routes.enter(
                KEY,
                ScoreRoute { scorers: vec![scorer_of(labels)], skipped: Vec::new(), handler, embeddings: None },
            );
            score_routes
        };
        for labels in [[1.0, 0.0], [0.0, 1.0]] {
            let (send, receive) = bounded(1);
            let (item, _) = again(&accounting, 1, &shared_embedding, 1);
            send.send(EmbeddedBatch { items: vec![item], embeddings: vec![], dim: 2, provider: "cpu" }).unwrap();
            drop(send);
            run(&receive, &score_routes(labels));
        }
        let heard = heard.lock().unwrap();
        assert!(heard[0] > 0.99 && heard[1] <= 0.5, "{heard:?}");
    }

    #[test]
    fn a_frame_is_settled_only_after_its_events_have_been_made() {
        let accounting = Arc::new(FrameAccounting::default());
        let (send, receive) = bounded(1);
        let item = Item { frame: frame(&accounting, 1, 1), kind: ItemKind::Tile };
        send.send(EmbeddedBatch { items: vec![item], embeddings: vec![1.0, 0.0], dim: 2, provider: "cpu" }).unwrap();
        drop(send);
        let meanwhile = Arc::new(Mutex::new(None));
        let (seen, counts) = (Arc::clone(&meanwhile), Arc::clone(&accounting));
        run(&receive, &score_routes(move |_, _| *seen.lock().unwrap() = Some(counts.totals().unaccounted())));
        assert_eq!((*meanwhile.lock().unwrap(), accounting.totals().unaccounted()), (Some(1), 0));
    }

    #[test]
    fn frames_of_a_stream_that_has_left_are_dropped_and_counted() {
        let accounting = Arc::new(FrameAccounting::default());
        let (send, receive) = bounded(1);
        let item = Item { frame: frame(&accounting, 1, 1), kind: ItemKind::Tile };
        send.send(EmbeddedBatch { items: vec![item], embeddings: vec![1.0, 0.0], dim: 2, provider: "cpu" }).unwrap();
        drop(send);
        let score_routes = score_routes(|_, _| panic!("nobody listens any more"));
        score_routes.leave(KEY);
        run(&receive, &score_routes);
        let totals = accounting.totals();
        assert_eq!((totals.inferred, totals.dropped.get("shutdown"), totals.unaccounted()), (0, Some(&1), 0));
    }

    #[test]
    fn a_frame_that_lost_a_square_is_forgotten_and_counted_once() {
        let accounting = Arc::new(FrameAccounting::default());
        let (broken, good) = (frame(&accounting, 2, 1), frame(&accounting, 1, 2));
        broken.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
        let item = |frame: &Arc<FrameMeta>| Item { frame: Arc::clone(frame), kind: ItemKind::Tile };
        let out = scored(vec![vec![(item(&broken), [1.0, 0.0])], vec![(item(&good), [1.0, 0.0])]]);
        drop((broken, good));
        assert_eq!(out.len(), 1);
        let totals = accounting.totals();
        assert_eq!((totals.inferred, totals.dropped.get("inference"), totals.unaccounted()), (1, Some(&1), 0));
    }
}
