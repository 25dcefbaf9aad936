//! Measuring in a [child process](crate::platform::child_process): vtagd starts itself with the hidden command [`SUBCOMMAND`]. One request, then
//! an answer for each turn, one for each result, and an end. The parent kills the child on shutdown, in the middle of a run.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::rounds::{self, Speed};
use super::{BenchError, Memory, Model, memory_use};
use crate::infer::runtime::{self, Runtime};
use crate::infer::session::OrtImageEncoder;
use crate::infer::session_threads::SessionThreads;
use crate::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider, ProviderChoice};
use crate::model::Bundle;
use crate::model::probe_picture::probe_picture;
use crate::platform::child_process::{self, ChildError, End, OWN_PROGRAM};
use crate::platform::shutdown::Shutdown;

/// The command of a child that measures. Not one for people.
pub const SUBCOMMAND: &str = "__bench";

/// It takes no arguments: everything comes on stdin.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct BenchChildArgs {}

/// Different pictures in a batch; further ones repeat them.
const PICTURES: usize = 4;

/// How the models are run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub provider: ProviderChoice,
    /// `libonnxruntime.so`; looked for if left out.
    pub library: Option<PathBuf>,
    /// 0: ONNX Runtime decides.
    pub threads: usize,
}

#[derive(Serialize, Deserialize)]
struct Request {
    models: Vec<Model>,
    batches: Vec<usize>,
    setup: Setup,
    what: What,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Memory,
    Speed {
        budget: Duration,
    },
    /// Sessions side by side.
    Splits {
        splits: Vec<SessionThreads>,
        budget: Duration,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Turn {
        done: usize,
        total: usize,
    },
    Memory(Memory),
    Speed(Speed),
    /// Images a second of one split.
    Split(f64),
}

/// What a process with only `model` takes when it is warm for `batch` pictures.
///
/// # Errors
/// What the child says, how it ended, or [`BenchError::Stopped`].
pub fn memory(model: &Model, batch: usize, setup: &Setup, shutdown: &Shutdown) -> Result<Memory, BenchError> {
    let request =
        Request { models: vec![model.clone()], batches: vec![batch], setup: setup.clone(), what: What::Memory };
    let mut found = None;
    ask(&request, shutdown, None, &mut |answer| {
        if let Answer::Memory(memory) = answer {
            found = Some(memory);
        }
    })?;
    found.ok_or_else(|| BenchError::Child("said nothing about its memory".into()))
}

/// How fast `models` are at each of `batches`, in turn, `budget` for each pair; `progress` is told the turns done and all turns.
/// In the order of `batches`, within one in that of `models`.
///
/// # Errors
/// As [`memory`].
pub fn speed(
    models: &[Model],
    batches: &[usize],
    budget: Duration,
    setup: &Setup,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Speed>, BenchError> {
    let (models_, batches_) = (models.to_vec(), batches.to_vec());
    let request = Request { models: models_, batches: batches_, setup: setup.clone(), what: What::Speed { budget } };
    let mut found = Vec::new();
    ask(&request, shutdown, None, &mut |answer| match answer {
        Answer::Turn { done, total } => progress(done, total),
        Answer::Speed(speed) => found.push(speed),
        _ => {}
    })?;
    if found.len() != models.len() * batches.len() {
        return Err(BenchError::Child(format!("gave {} results", found.len())));
    }
    Ok(found)
}

/// How fast `model` is in runs of `batch` pictures with each of `splits`, in their order, `budget` each and the time it takes to load
/// it. A child that says nothing for `patience` is given up.
///
/// # Errors
/// As [`memory`].
pub fn splits(
    model: &Model,
    batch: usize,
    splits: &[SessionThreads],
    (budget, patience): (Duration, Duration),
    setup: &Setup,
    shutdown: &Shutdown,
) -> Result<Vec<f64>, BenchError> {
    let what = What::Splits { splits: splits.to_vec(), budget };
    let request = Request { models: vec![model.clone()], batches: vec![batch], setup: setup.clone(), what };
    let mut found = Vec::new();
    ask(&request, shutdown, Some(patience), &mut |answer| {
        if let Answer::Split(rate) = answer {
            found.push(rate);
        }
    })?;
    if found.len() == splits.len() {
        Ok(found)
    } else {
        Err(BenchError::Child(format!("gave {} results", found.len())))
    }
}

/// Has a child do it. How long it may be silent, without `patience` the person knows who waits for it.
fn ask(
    request: &Request,
    shutdown: &Shutdown,
    patience: Option<Duration>,
    heard: &mut dyn FnMut(Answer),
) -> Result<(), BenchError> {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg(SUBCOMMAND);
    if !matches!(request.what, What::Speed { .. }) {
        // The measuring of speed says the same about the same models.
        command.env("VTAGD_LOG", "error");
    }
    let mut heard = |answer| {
        heard(answer);
        true
    };
    child_process::ask(command, "bench-reader", request, Some(shutdown), patience, &mut heard).map_err(|error| {
        match error {
            ChildError::Told { message, code } => BenchError::Told { message, code },
            // Ctrl-C reaches every process of a terminal, and the child may be the first to end of it.
            ChildError::Stopped | ChildError::Ended(End::Signal(libc::SIGINT | libc::SIGTERM)) => BenchError::Stopped,
            error => BenchError::Child(error.to_string()),
        }
    })
}

/// The child's whole life; the exit code.
pub fn serve(_: &BenchChildArgs) -> u8 {
    child_process::serve(SUBCOMMAND, |request, say| {
        answer(&request, say).map_err(|error| (error.to_string(), error.exit_code()))
    })
}

fn answer(request: &Request, say: &mut dyn FnMut(Answer)) -> Result<(), BenchError> {
    let most = request.batches.iter().copied().max().unwrap_or(1);
    let runtime = runtime::load(request.setup.library.as_deref())?;
    // What was asked for, and nothing else in its place.
    let settings = InferSettings {
        providers: vec![request.setup.provider.clone()],
        strict: true,
        threads: request.setup.threads,
        max_size: BatchSize::Pictures(most),
        ..InferSettings::default()
    };
    let size = request.models.first().map_or((1, 1), |model| model.size);
    let pixels = pictures(size, most);
    if let (What::Splits { splits, budget }, Some(model)) = (&request.what, request.models.first()) {
        let bundle = Bundle::open_unmarked(&model.dir)?;
        for split in splits {
            say(Answer::Split(side_by_side(&runtime, &bundle, &settings, model.size, *split, &pixels, *budget)?));
        }
        return Ok(());
    }
    let (mut encoders, mut embeddings) = (Vec::new(), Vec::new());
    for model in &request.models {
        let bundle = Bundle::open_unmarked(&model.dir)?;
        let mut encoder = OrtImageEncoder::open(&runtime, &bundle, &settings, model.size)?;
        encoder.warm_up(most)?;
        encoders.push(encoder);
    }
    // As the daemon does.
    runtime::give_back_freed_memory();
    match request.what {
        What::Splits { .. } => {}
        What::Memory => say(Answer::Memory(memory_use::of_this_process()?)),
        What::Speed { budget } => {
            // Warming up runs the largest size and one picture, and others only as far as its time goes.
            for batch in request.batches.iter().filter(|batch| (2..most).contains(*batch)) {
                for encoder in &mut encoders {
                    ImageEncoder::encode(encoder, &pixels, *batch, &mut embeddings)?;
                }
            }
            let started = Instant::now();
            let mut turn = |done, total| say(Answer::Turn { done, total });
            let mut now = || started.elapsed();
            let found = rounds::run(&mut encoders, &request.batches, budget, &pixels, &mut now, &mut turn)?;
            found.into_iter().for_each(|speed| say(Answer::Speed(speed)));
        }
    }
    Ok(())
}

/// Images a second of sessions that run batches at the same time, each for `budget` and two runs at least.
fn side_by_side(
    runtime: &Runtime,
    bundle: &Bundle,
    settings: &InferSettings,
    size: (usize, usize),
    split: SessionThreads,
    pixels: &[f32],
    budget: Duration,
) -> Result<f64, BenchError> {
    let settings = InferSettings { threads: split.threads, ..settings.clone() };
    let batch = settings.max_size.most(Provider::Cpu);
    let mut encoders = Vec::new();
    for _ in 0..split.sessions {
        let mut encoder = OrtImageEncoder::open(runtime, bundle, &settings, size)?;
        encoder.warm_up(batch)?;
        encoders.push(encoder);
    }
    let work = |mut encoder: OrtImageEncoder| -> Result<f64, InferError> {
        let (started, mut pictures, mut embeddings) = (Instant::now(), 0, Vec::new());
        loop {
            encoder.encode(pixels, batch, &mut embeddings)?;
            pictures += batch;
            let took = started.elapsed();
            if took >= budget && pictures >= 2 * batch {
                return Ok(pictures as f64 / took.as_secs_f64());
            }
        }
    };
    let rates: Vec<Result<f64, InferError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = encoders.into_iter().map(|encoder| scope.spawn(|| work(encoder))).collect();
        let lost = || Err(InferError::Run("a session panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    });
    let rates: Result<Vec<f64>, InferError> = rates.into_iter().collect();
    Ok(rates?.iter().sum())
}

/// `count` made-up pictures of `size`.
fn pictures((height, width): (usize, usize), count: usize) -> Vec<f32> {
    let len = 3 * height * width;
    let drawn: Vec<Vec<f32>> =
        (0..PICTURES.min(count)).map(|seed| probe_picture(height.max(width), seed as u64)).collect();
    let mut pixels = Vec::with_capacity(count * len);
    drawn.iter().cycle().take(count).for_each(|picture| pixels.extend_from_slice(&picture[..len]));
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_pictures_as_asked_for_and_of_the_size() {
        let pixels = pictures((4, 6), 5);
        assert_eq!(pixels.len(), 5 * 3 * 4 * 6);
        assert_eq!(pixels[..72], pixels[4 * 72..], "the fifth repeats the first");
        assert!(pixels[..72] != pixels[72..144] && pixels.iter().all(|v| v.is_finite()));
    }
}
