//! A made-up model and label, for tests of the pipeline in this process.
#![allow(dead_code)] // every scenario uses a part of it

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ndarray::{Array2, array};
use vtagd::frame::{FrameTime, Picture};
use vtagd::infer::{ImageEncoder, InferError, Provider};
use vtagd::model::{Activation, LogitParameters};
use vtagd::pipeline::Stages;
use vtagd::preprocess::Spec;
use vtagd::score::Scoring;
use vtagd::score::score_routes::ScoreRoute;
use vtagd::score::{Block, LabelEmbeddings, LabelScore, Scorer, SetEmbeddings};

/// Every picture gets an embedding of its own, whatever it shows: who has been looked at anew can be told from the score.
pub struct Counting {
    /// Pictures so far.
    pub pictures: Arc<AtomicU64>,
    /// How long a picture takes.
    pub each: Duration,
    /// So many runs fail at first.
    pub failures: u32,
}

impl ImageEncoder for Counting {
    fn dim(&self) -> usize {
        2
    }

    fn provider(&self) -> Provider {
        Provider::Cpu
    }

    fn encode(&mut self, _: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        std::thread::sleep(self.each * count as u32);
        if self.failures > 0 {
            self.failures -= 1;
            return Err(InferError::Run("as the test wants it".into()));
        }
        embeddings.clear();
        for _ in 0..count {
            let angle = self.pictures.fetch_add(1, Ordering::Relaxed) as f32 * 0.02;
            embeddings.extend([angle.cos(), angle.sin()]);
        }
        Ok(())
    }
}

/// Every stage around `encoder`; a small picture for it, batches of `max_size`.
pub fn stages(encoder: Counting, max_size: usize) -> Stages {
    let spec = Spec::from_json(r#"{"size": {"height": 32, "width": 32}, "do_center_crop": false}"#).unwrap();
    Stages {
        spec: Arc::new(spec),
        encoders: vec![Box::new(encoder)],
        runs: Arc::default(),
        max_size,
        max_delay: Duration::from_millis(10),
        threads: 1,
    }
}

/// Media time and score of every frame, in the order in which they were scored.
pub type Heard = Arc<Mutex<Vec<(Duration, f32)>>>;

/// One label that listens.
pub fn route() -> (ScoreRoute, Heard) {
    let label = LabelEmbeddings { name: "x".into(), prompts: array![[1.0, 0.0]], negatives: Array2::zeros((0, 2)) };
    let block = Block { labels: vec![label], background: array![[0.0, 1.0]] };
    let set = SetEmbeddings { name: "s".into(), scoring: Scoring::Exclusive, blocks: vec![block] };
    let head = LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax };
    let heard = Heard::default();
    let kept = Arc::clone(&heard);
    let handler = Box::new(move |time: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
        kept.lock().unwrap().push((time.media, scores[0][0].probability()))
    });
    (
        ScoreRoute {
            scorers: vec![Arc::new(Scorer::new(&set, head).unwrap())],
            skipped: Vec::new(),
            handler,
            embeddings: None,
        },
        heard,
    )
}
