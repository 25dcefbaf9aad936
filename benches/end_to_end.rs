//! What everything around the session costs: images/s of the whole way of a frame (file, `pace: fast`, decode, preprocess,
//! batch, infer, score) against a bare loop over the same session, one intra-op thread, the same batch size.
//!
//! Both run in turn in one process; the ratio of each round is printed, then the median. Needs `make setup`.
//! `cargo bench --bench end_to_end` · `VTAGD_BENCH_CLIP` names another clip.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench is a program for a terminal and fails by panicking"
)]

#[path = "common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vtagd::config::ModelChoice;
use vtagd::daemon::engine::{Engine, preprocessing_threads};
use vtagd::frame::view::View;
use vtagd::frame::{FrameTime, Picture};
use vtagd::infer::{BatchSize, ImageEncoder, InferSettings};
use vtagd::label::{Ensemble, Label, LabelSet};
use vtagd::pipeline::intake::StreamPart;
use vtagd::pipeline::{self, Stages};
use vtagd::platform::shutdown;
use vtagd::score::score_routes::ScoreRoute;
use vtagd::score::{LabelScore, Scoring};
use vtagd::source::{CameraTls, Decode, Decoder, Location, Pace, Reconnect, SourceSettings, Transport};
use vtagd::stream::registry::RegisteredStream;

const BATCH: usize = 8;
const ROUNDS: usize = 5;

fn engine() -> Engine {
    let infer = InferSettings { threads: 1, max_size: BatchSize::Pictures(BATCH), ..InferSettings::default() };
    let set = LabelSet {
        name: "bench".into(),
        scoring: Scoring::Exclusive,
        templates: vec!["{}".into()],
        ensemble: Ensemble::Embeddings,
        background: vec!["a wall".into()],
        has_nouns: false,
        counter_examples: Vec::new(),
        labels: vec![Label::plain("a cat"), Label::plain("a rocket")],
        hours: None,
        file: PathBuf::new(),
        sha256: String::new(),
    };
    Engine::build_in_process(&ModelChoice::Starter.into(), &infer, &[set]).expect("run `make setup` first")
}

/// Images/s of the session alone.
fn bare(encoder: &mut dyn ImageEncoder, place: usize, images: usize) -> f64 {
    let pixels: Vec<f32> = (0..BATCH * place).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect();
    let mut embeddings = Vec::new();
    let started = Instant::now();
    for _ in 0..images / BATCH {
        encoder.encode(&pixels, BATCH, &mut embeddings).expect("the session runs");
    }
    (images / BATCH * BATCH) as f64 / started.elapsed().as_secs_f64()
}

/// Images/s from the file to the scores, and how many there were.
fn whole(engine: Engine, clip: &Path) -> (f64, usize) {
    let (_trigger, shutdown) = shutdown::channel();
    let source = SourceSettings {
        id: "bench".into(),
        location: Location::File(clip.to_owned()),
        username: None,
        password: None,
        password_file: None,
        pace: Pace::Fast,
        looped: false,
        decode: Decode::All,
        decoder: Decoder::Software,
        max_pixels: None,
        any_codec: false,
        templates: "pipelines".into(),
        reconnect: Reconnect::default(),
        transport: Transport::default(),
        tls: CameraTls::default(),
        push: None,
        host_alone: false,
    };
    let stages = Stages {
        spec: engine.spec,
        encoders: engine.encoders,
        runs: Arc::default(),
        max_size: BATCH,
        max_delay: Duration::from_millis(50),
        threads: preprocessing_threads(None),
    };
    let scored = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&scored);
    let handler = Box::new(move |_: FrameTime, _: Option<&Arc<Picture>>, _: &[Vec<LabelScore>]| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let started = Instant::now();
    let (mut intake, mut threads) = pipeline::start(stages, &shutdown).expect("the pipeline starts");
    // Every frame of a 25 frames/s clip.
    let route = ScoreRoute { scorers: engine.scorers, skipped: Vec::new(), handler, embeddings: None };
    let interval = Duration::from_millis(40).into();
    let record = RegisteredStream::new(&source.id, Vec::new());
    let part = StreamPart { record, source, interval, unchanged: None, views: View::default().into(), route };
    let member = intake.join(part).expect("the stream joins");
    drop(intake);
    let accounting = Arc::clone(&member.accounting);
    member.wait().expect("the source does not panic");
    threads.push(member.into_thread());
    for (_, thread) in threads {
        thread.join().expect("no stage panics");
    }
    let scored = scored.load(Ordering::Relaxed) as usize;
    assert_eq!(accounting.totals().unaccounted(), 0);
    assert!(scored > 0, "nothing was seen of {}", clip.display());
    (scored as f64 / started.elapsed().as_secs_f64(), scored)
}

fn main() {
    let clip = std::env::var_os("VTAGD_BENCH_CLIP").map_or_else(|| "demo/clip.mp4".into(), PathBuf::from);
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let mut engine = engine();
        let encoder = engine.encoders.first_mut().expect("the starter model has a session");
        let alone = bare(encoder.as_mut(), engine.spec.place_len(), 400);
        let (all, images) = whole(engine, &clip);
        println!(
            "round {round}: bare {alone:.1} images/s, end to end {all:.1} images/s ({images} images), ratio {:.3}",
            all / alone
        );
        ratios.push((all / alone, all, alone));
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, all, alone) = ratios[ROUNDS / 2];
    println!("median ratio {ratio:.3} (goal 0.90)");
    common::tell("end to end, starter model", "images/s", (all, alone), "the session alone", ratio);
}
