//! Cost of the pure stages between the pixels and the event: batcher, scorer, tracker. They must vanish beside inference.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench is a program for a terminal and fails by panicking"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::{Array1, Array2};
use vtagd::batching::batcher::Batcher;
use vtagd::calibrate::past_samples::PastMargins;
use vtagd::calibrate::{self, Recording, Sample, Setting};
use vtagd::event::{Emitter, LabelRules, ModelRef, SetRules, ThresholdOrigin, Thresholds, Tracker};
use vtagd::frame::thumbprint::Thumbprint;
use vtagd::frame::view::Region;
use vtagd::frame::{FrameTime, Matrix, Picture, PixelFormat, Range};
use vtagd::history::name_table::Name;
use vtagd::history::past_rows;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore};
use vtagd::model::{Activation, LogitParameters};
use vtagd::score::Scoring;
use vtagd::score::discriminant::{Discriminant, LabelClass};
use vtagd::score::learning::{LabelExamples, Learn, SetExamples};
use vtagd::score::{Block, LabelEmbeddings, LabelScore, Rival, Scorer, SetEmbeddings};

/// CLIP ViT-H-14's embedding length.
const DIM: usize = 1024;

fn unit_rows(rows: usize, seed: usize) -> Array2<f32> {
    let mut m = Array2::from_shape_fn((rows, DIM), |(r, c)| ((r * 31 + c * 17 + seed * 7) % 101) as f32 - 50.0);
    for mut row in m.rows_mut() {
        let norm = row.dot(&row).sqrt();
        row.mapv_inplace(|x| x / norm);
    }
    m
}

fn scoring(c: &mut Criterion) {
    let label =
        |n: usize| LabelEmbeddings { name: n.to_string(), prompts: unit_rows(4, n), negatives: unit_rows(1, n + 1000) };
    let block = Block { labels: (0..50).map(label).collect(), background: unit_rows(20, 9999) };
    let head = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };
    let embedding: Array1<f32> = unit_rows(1, 5).row(0).to_owned();
    // What benches/guard.py compares with: the same product, and nothing else.
    let rows = unit_rows(270, 7);
    c.bench_function("bare: 270 rows of 1024 values times one", |b| {
        b.iter(|| black_box(&rows).dot(black_box(&embedding)))
    });
    let templates = [(1, ""), (8, ", 8 templates as probabilities"), (80, ", 80 templates as probabilities")];
    for (count, name) in templates {
        let blocks = vec![block.clone(); count];
        let Ok(scorer) =
            Scorer::new(&SetEmbeddings { name: "bench".into(), scoring: Scoring::Exclusive, blocks }, head)
        else {
            return;
        };
        c.bench_function(&format!("score 50 labels, 270 prompts, 1024 values{name}"), |b| {
            b.iter(|| scorer.score(black_box(embedding.view())))
        });
    }
}

fn batching(c: &mut Criterion) {
    c.bench_function("batcher: pick and push 64 frames of 64 streams in batches of 8", |b| {
        let now = Instant::now();
        b.iter(|| {
            let mut batcher = Batcher::new(8, Duration::from_millis(50));
            for _ in 0..64 {
                let stream = batcher.pick(64, |_| true);
                if batcher.push(stream, now).is_err() || batcher.is_due(now) {
                    black_box(batcher.take());
                }
            }
        });
    });
}

fn tracking(c: &mut Criterion) {
    c.bench_function("tracker: 1000 samples", |b| {
        let base = Instant::now();
        b.iter(|| {
            let mut tracker = Tracker::new(Thresholds::default(), Duration::from_secs(30));
            for i in 0..1000u32 {
                let media = Duration::from_secs(u64::from(i));
                let time = FrameTime { media, captured: base, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
                black_box(tracker.sample(time, LabelScore { margin: (i % 13) as f32 - 6.0, rival: None }));
            }
        });
    });
}

/// A sample of 50 labels through the emitter, live scores kept and nobody looking; the tracker alone is what it cost before.
fn emitting(c: &mut Criterion) {
    let scores =
        |i: u32| (0..50).map(move |n| LabelScore { margin: ((i + n) % 13) as f32 - 12.5, rival: Some(Rival(n)) });
    let rounds: Vec<Vec<LabelScore>> = (0..13).map(|i| scores(i).collect()).collect();
    let times = {
        let base = Instant::now();
        move |i: u64| {
            let media = Duration::from_secs(i);
            FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 }
        }
    };
    c.bench_function("emitter: a sample of 50 labels with live scores", |b| {
        let rules = |n: u32| LabelRules {
            name: n.to_string().into(),
            thresholds: Thresholds::default(),
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
            hours: None,
        };
        let set = SetRules {
            region: None,
            name: "bench".into(),
            labels: (0..50).map(rules).collect(),
            rivals: Arc::default(),
        };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
        let mut emitter = Emitter::new("bench", "a".into(), model, vec![set], Duration::from_secs(30));
        let mut i = 0;
        b.iter(|| {
            i += 1;
            emitter.scores(times(i), 0, black_box(&rounds[i as usize % 13]), &mut |_| true);
        });
    });
    c.bench_function("trackers: a sample of 50 labels", |b| {
        let mut trackers: Vec<Tracker> =
            (0..50).map(|_| Tracker::new(Thresholds::default(), Duration::from_secs(30))).collect();
        let mut i = 0;
        b.iter(|| {
            i += 1;
            for (tracker, score) in trackers.iter_mut().zip(black_box(&rounds[i as usize % 13])) {
                black_box(tracker.sample(times(i), *score));
            }
        });
    });
}

/// A 1080p frame as decoders give it: signed on its stream's thread, compared on the dispatcher's.
fn signing(c: &mut Criterion) {
    let plane = |length: usize| (0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
    let planes = vec![plane(1920 * 1080), plane(960 * 540), plane(960 * 540)];
    let bytes = planes.concat();
    // As above: every byte touched once.
    c.bench_function("bare: adding up the bytes of one 1080p frame", |b| {
        b.iter(|| black_box(&bytes).iter().map(|&byte| u64::from(byte)).sum::<u64>());
    });
    let colour = (Matrix::Bt709, Range::Limited);
    let size = (1920, 1080);
    let Ok(picture) = Picture::new(PixelFormat::I420, size, [1920, 960, 960], colour, Box::new(planes)) else { return };
    c.bench_function("signature of one 1080p frame", |b| b.iter(|| Thumbprint::of(black_box(&picture), Region::FULL)));
    let thumbprint = Thumbprint::of(&picture, Region::FULL);
    c.bench_function("comparing two signatures", |b| b.iter(|| black_box(&thumbprint).change(black_box(&thumbprint))));
}

/// A day at a sample a second with a visit each hour, all of it marked: fit, check on other marks, the tags there would have been, advice.
fn calibrating(c: &mut Criterion) {
    let is_visit = |second: u32| second % 3600 < 60;
    let margin = |second: u32| (second * 7 % 13) as f32 / 13.0 + if is_visit(second) { 1.5 } else { -1.5 };
    let samples: Vec<Sample> = (0..86_400).map(|second| Sample::at(f64::from(second), margin(second))).collect();
    let seen: Vec<(f64, f64)> =
        (0..24).map(|hour| (f64::from(hour) * 3600.0, f64::from(hour) * 3600.0 + 59.0)).collect();
    let absent: Vec<(f64, f64)> = seen.iter().map(|(from, to)| (to + 2.0, from + 3599.0)).collect();
    let base = Thresholds::default();
    let (every, gap) = (Duration::from_secs(1), Duration::from_secs(30));
    let setting = Setting { every, gap, current: Some(base), base, origin: Instant::now(), counter_examples: &[] };
    let recording = Recording { samples: &samples, seen: &seen, absent: &absent };
    c.bench_function("calibrate one label of a day, 86 400 rows", |b| {
        b.iter(|| calibrate::label(black_box(&[recording]), &setting).found.is_ok())
    });
    day_of_history(c, &seen, &absent, &setting);
}

/// The same from the history's files: every row read, turned back and scored against five labels, which are all calibrated.
fn day_of_history(c: &mut Criterion, seen: &[(f64, f64)], absent: &[(f64, f64)], setting: &Setting<'_>) {
    const LENGTH: usize = 512;
    let folder = tempfile::tempdir().expect("a folder");
    let name = Name { stream: "gate".into(), model: "m".into(), ..Name::default() };
    let rows = |seed: usize, rows: usize| {
        let mut all =
            Array2::from_shape_fn((rows, LENGTH), |(r, c)| ((r * 31 + c * 17 + seed * 7) % 101) as f32 - 50.0);
        all.rows_mut().into_iter().for_each(|mut row| {
            let norm = row.dot(&row).sqrt();
            row.mapv_inplace(|x| x / norm);
        });
        all
    };
    let limits = RetentionLimits { max_size: 1 << 30, max_age: Duration::from_secs(1 << 20), min_change: 0.0 };
    let (mut store, _) = RowStore::open(Some(folder.path()), limits, Instant::now()).expect("a store");
    let embeddings = rows(1, 997);
    for second in 0..86_400_usize {
        let embedding = embeddings.row(second % 997);
        let embedding = embedding.as_slice().expect("a row lies in one piece");
        let row = NewRow { name: &name, tile: 0, at: second as i64 * 1000, embedding };
        store.push(&row, Instant::now()).expect("room");
    }
    let label = |n: usize| LabelEmbeddings { name: n.to_string(), prompts: rows(n + 2, 2), negatives: rows(n + 50, 1) };
    let block = Block { labels: (0..5).map(label).collect(), background: rows(99, 5) };
    let logits = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };
    let set = SetEmbeddings { name: "bench".into(), scoring: Scoring::Independent, blocks: vec![block] };
    let scorer = Scorer::new(&set, logits).expect("one length");
    c.bench_function("calibrate five labels of a day of history, 86 400 rows", |b| {
        b.iter(|| {
            let mut past = PastMargins::new(5);
            past_rows::visit(&store.stored(), &name, (0, i64::MAX), &mut |row| {
                let scores = scorer.score(row.embedding.into());
                past.push(row.tile, (row.from, row.until), scores.iter().map(|score| score.margin))
            });
            let moments = past.moments();
            for label in 0..5 {
                let samples = past.samples(&moments, label);
                assert_eq!(samples.len(), 86_400);
                black_box(calibrate::label(&[Recording { samples: &samples, seen, absent }], setting));
            }
        });
    });
}

/// Labels that learn from pictures: learning one of 32 examples and as many counter-examples, and what 100 of five each cost a picture.
fn learning(c: &mut Criterion) {
    for dim in [512, 1024] {
        let unit = |seed: usize| {
            let mut state = seed as u64 * 0x9e37_79b9 + 1;
            let mut values: Vec<f32> = (0..dim)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 24) as f32 - 0.5
                })
                .collect();
            let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.iter_mut().for_each(|value| *value /= norm);
            values
        };
        let units = |first: usize, count: usize| (first..first + count).map(unit).collect::<Vec<_>>();
        let (examples, counter_examples) = (units(1, 32), units(100, 32));
        c.bench_function(&format!("learn a label of 32 examples and 32 counter-examples of {dim}"), |b| {
            let label = LabelClass { examples: &examples, counter_examples: &counter_examples };
            b.iter(|| black_box(Discriminant::learn(&[label], &[])).is_ok())
        });
        for scoring in [Scoring::Independent, Scoring::Exclusive] {
            let label = |n: usize| LabelEmbeddings {
                name: n.to_string(),
                prompts: Array2::from_shape_vec((1, dim), unit(n + 5000)).expect("one row"),
                negatives: Array2::zeros((0, dim)),
            };
            let background = Array2::from_shape_vec((5, dim), units(9000, 5).concat()).expect("five rows");
            let block = Block { labels: (0..100).map(label).collect(), background };
            let set = SetEmbeddings { name: "bench".into(), scoring, blocks: vec![block] };
            let logits = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };
            let plain = Scorer::new(&set, logits).expect("one length");
            let of = |n: usize| LabelExamples {
                examples: units(200 + n * 10, 5),
                counter_examples: units(205 + n * 10, 5),
                learn: Learn::Always,
                similarity: None,
            };
            let examples = SetExamples { labels: (0..100).map(of).collect(), counter_examples: units(20_000, 5) };
            let learned = plain.clone().learning(&examples).expect("there is something to learn");
            let embedding = Array1::from(unit(77));
            for (scorer, what) in [(&plain, "texts alone"), (&learned, "with what was learned")] {
                c.bench_function(&format!("score 100 labels of {dim}, {scoring:?}, {what}"), |b| {
                    b.iter(|| scorer.score(black_box(embedding.view())))
                });
            }
        }
    }
}

criterion_group!(benches, scoring, batching, tracking, emitting, signing, calibrating, learning);
criterion_main!(benches);
