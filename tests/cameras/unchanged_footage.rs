//! The change gate on real footage: what it saves, what it costs, and that it hides nothing. `--nocapture` prints the table of
//! docs/benchmarks.md.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::daemon::{Daemon, footage, root};
use ndarray::ArrayView1;
use vtagd::batching::batch::{FrameMeta, SharedEmbedding};
use vtagd::batching::unchanged::UnchangedFilter;
use vtagd::config::{self, Settings};
use vtagd::daemon::engine::Engine;
use vtagd::event::tracker::Change;
use vtagd::event::{Thresholds, Tracker};
use vtagd::frame::thumbprint::{Thumbprint, Unchanged};
use vtagd::frame::{FrameTap, FrameTime, Picture};
use vtagd::infer::ImageEncoder;
use vtagd::platform::shutdown;
use vtagd::preprocess::{Preprocessor, Region, View};
use vtagd::sample::Schedule;
use vtagd::score::{LabelScore, Scorer, margin};
use vtagd::source::{Ended, Source};
use vtagd::stream::StreamKey;
use vtagd::stream::accounting::FrameAccounting;
use vtagd::stream::status::StreamStatus;

/// Samples are taken this often; sparser rows of the table leave frames out.
const EVERY: Duration = Duration::from_millis(200);
const TOLERANCES: [f32; 7] = [1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0];
/// Each clip with the labels we ship for it, or some that fit.
const CLIPS: [(&str, &str, &str); 4] = [
    ("car-detection.mp4", "parking-lot", "model"),
    ("bottle-detection.mp4", "bottles", "squash"),
    ("flower.mp4", "nature", "model"),
    ("stream-of-water.mp4", "nature", "model"),
];
const NATURE: &str = "set: nature\nbackground: [a wall, a street]\nlabels:\n  - { name: flower, prompts: [a flower] }\n  - { name: river, prompts: [a river] }\n";

/// One sample with everything inferred.
struct Sample {
    time: FrameTime,
    thumbprint: Thumbprint,
    embedding: Vec<f32>,
    /// One a label.
    scores: Vec<f32>,
}

/// Looks at every sample on the source's own thread.
struct Looker {
    view: View,
    schedule: Mutex<Schedule>,
    model: Mutex<(Preprocessor, Box<dyn ImageEncoder>, usize)>,
    scorer: Arc<Scorer>,
    samples: Mutex<Vec<Sample>>,
}

impl FrameTap for Looker {
    fn interval(&self) -> Duration {
        EVERY
    }

    fn is_sampled(&self, media: Duration) -> bool {
        self.schedule.lock().unwrap().is_sampled(media)
    }

    fn deliver(&self, time: FrameTime, picture: Picture) {
        let (preprocessor, encoder, place) = &mut *self.model.lock().unwrap();
        let (mut pixels, mut embedding) = (vec![0.0; *place], Vec::new());
        preprocessor.run(&picture, self.view, 0, &mut pixels).unwrap();
        encoder.encode(&pixels, 1, &mut embedding).unwrap();
        let scores = self.scorer.score(ArrayView1::from(&embedding)).into_iter().map(LabelScore::probability).collect();
        let thumbprint = Thumbprint::of(&picture, Region::FULL);
        self.samples.lock().unwrap().push(Sample { time, thumbprint, embedding, scores });
    }
}

fn settings(folder: &std::path::Path, clip: &str, set: &str, view: &str) -> Option<Settings> {
    let clip = footage(clip)?.canonicalize().unwrap();
    std::fs::write(folder.join("nature.yaml"), NATURE).unwrap();
    let shipped = root().join("config/labels").join(format!("{set}.yaml"));
    let set = if shipped.is_file() { shipped } else { folder.join(format!("{set}.yaml")) };
    let file = folder.join("vtagd.yaml");
    let text = format!(
        "streams: [{{ id: clip, url: \"file://{}\", pace: fast, view: {{ mode: {view} }} }}]\nlabels: [{}]\nsampling: {{ decode: all, decoder: software }}\n",
        clip.display(),
        set.display()
    );
    std::fs::write(&file, text).unwrap();
    Some(config::load(&file).unwrap_or_else(|problems| panic!("{}", problems[0])))
}

/// Every sample of a clip, and its labels' thresholds.
fn look(clip: &str, set: &str, view: &str) -> Option<(Vec<Sample>, Vec<Thresholds>)> {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), clip, set, view)?;
    let mut engine = Engine::build_in_process(&settings.model, &settings.infer, &settings.label_sets).unwrap();
    let stream = settings.streams[0].clone();
    let looker = Arc::new(Looker {
        view: stream.views[0].view,
        schedule: Mutex::new(Schedule::new(EVERY)),
        model: Mutex::new((
            Preprocessor::new(Arc::clone(&engine.spec)),
            engine.encoders.pop().unwrap(),
            engine.spec.place_len(),
        )),
        scorer: Arc::clone(&engine.scorers[0]),
        samples: Mutex::default(),
    });
    let (_trigger, shutdown) = shutdown::channel();
    let status = Arc::new(StreamStatus::new("clip".into()));
    let tap = Arc::clone(&looker) as Arc<dyn FrameTap>;
    assert_eq!(Source::new(stream.source, tap, status, shutdown).run(), Ended::EndOfFile);
    let rules = settings.label_sets[0].labels.iter().map(|label| config::thresholds(label, &settings.events));
    Some((std::mem::take(&mut *looker.samples.lock().unwrap()), rules.collect()))
}

/// What a gate makes of the samples: for each, the index of the one whose embedding it gets.
fn stands_for(samples: &[&Sample], settings: Unchanged) -> Vec<usize> {
    let accounting = Arc::new(FrameAccounting::default());
    let mut filter = UnchangedFilter::new(settings);
    let mut reference = 0;
    let mut all = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        if filter.reuse(std::slice::from_ref(&sample.thumbprint), sample.time.media).is_none() {
            let shared_embedding = Arc::new(SharedEmbedding::default());
            let guard = accounting.sample(&"clip".into());
            let frame = FrameMeta {
                stream: StreamKey(0),
                time: sample.time,
                tiles: vec![1],
                shared_embedding: None,
                picture: None,
                guard,
            };
            shared_embedding.keep(&sample.scores);
            filter.infer(vec![sample.thumbprint.clone()], shared_embedding, &Arc::new(frame));
            reference = index;
        }
        all.push(reference);
    }
    all
}

fn scored(score: f32) -> LabelScore {
    LabelScore { margin: margin::margin(f64::from(score)), rival: None }
}

/// Starts and ends of one label's tags, in seconds.
fn tags(scores: impl Iterator<Item = (FrameTime, f32)>, rules: Thresholds) -> Vec<f64> {
    let mut tracker = Tracker::new(rules, Duration::from_secs(30));
    let at = |time: FrameTime| time.media.as_secs_f64();
    let times = scores.filter_map(|(time, score)| match tracker.sample(time, scored(score))? {
        Change::Start { tag } => Some(at(tag.started)),
        Change::End { ended, .. } => Some(at(ended)),
        Change::Update { .. } => None,
    });
    times.collect()
}

/// What a tolerance does to a clip, sampled every so often.
struct Effect {
    reused: usize,
    difference: f32,
    cosine: f32,
    same_tags: bool,
}

fn effect(samples: &[&Sample], rules: &[Thresholds], every: Duration, settings: Unchanged) -> Effect {
    let stands = stands_for(samples, settings);
    let pairs = || stands.iter().enumerate().map(|(index, stands)| (samples[index], samples[*stands]));
    let scores = pairs().flat_map(|(own, other)| own.scores.iter().zip(&other.scores).map(|(a, b)| (a - b).abs()));
    let cosines = pairs().map(|(own, other)| own.embedding.iter().zip(&other.embedding).map(|(a, b)| a * b).sum());
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= every.as_secs_f64() + 0.05;
    let same = |label: usize| {
        let full = tags(samples.iter().map(|s| (s.time, s.scores[label])), rules[label]);
        let gated = tags(pairs().map(|(own, other)| (own.time, other.scores[label])), rules[label]);
        full.len() == gated.len() && full.iter().zip(&gated).all(near)
    };
    Effect {
        reused: stands.iter().enumerate().filter(|(index, stands)| index != *stands).count(),
        difference: scores.fold(0.0, f32::max),
        cosine: cosines.fold(1.0, f32::min),
        same_tags: (0..rules.len()).all(same),
    }
}

#[test]
fn frames_that_look_the_same_may_be_reused_without_hiding_anything() {
    let mut clips = Vec::new();
    for (clip, set, view) in CLIPS {
        let Some(looked) = look(clip, set, view) else { return };
        clips.push((clip, looked));
    }
    let names: Vec<&str> = clips.iter().map(|(clip, _)| clip.strip_suffix(".mp4").unwrap()).collect();
    println!(
        "Reused, sampled every 200 ms / every second; over all clips: worst score, worst embedding, tags (+- 1 sample).\n"
    );
    println!("| tolerance | {} | largest difference of a score | smallest cosine | tags |", names.join(" | "));
    println!("|---|{}---|---|---|", "---|".repeat(clips.len()));
    for tolerance in TOLERANCES {
        let settings = Unchanged { tolerance, ..Unchanged::default() };
        let mut worst = Effect { reused: 0, difference: 0.0, cosine: 1.0, same_tags: true };
        let mut cells = Vec::new();
        for (clip, (samples, rules)) in &clips {
            let mut shares = Vec::new();
            for step in [1, 5] {
                let samples: Vec<&Sample> = samples.iter().step_by(step).collect();
                let effect = effect(&samples, rules, EVERY * step as u32, settings);
                shares.push(format!("{:.0} %", 100.0 * effect.reused as f64 / samples.len() as f64));
                if settings == Unchanged::default() {
                    assert!(effect.same_tags, "{clip}, every {step}: tags differ with the default tolerance");
                }
                worst.reused += effect.reused;
                worst.difference = worst.difference.max(effect.difference);
                worst.cosine = worst.cosine.min(effect.cosine);
                worst.same_tags &= effect.same_tags;
            }
            cells.push(shares.join(" / "));
        }
        let Effect { reused, difference, cosine, same_tags } = worst;
        let tags = if same_tags { "the same" } else { "differ" };
        println!("| {tolerance} | {} | {difference:.3} | {cosine:.3} | {tags} |", cells.join(" | "));
        if settings == Unchanged::default() {
            assert!(difference < 0.02, "a score differs by {difference} with the default tolerance");
            assert!(reused > 80, "hardly anything is ever reused: {reused}");
        }
    }
    assert!(TOLERANCES.contains(&Unchanged::default().tolerance), "the default is not in the table");

    // What the default lies between: an empty lot, and the moments in which cars come in.
    let (lot, _) = &clips[0].1;
    let between = |from: f64, to: f64| lot.iter().filter(move |s| (from..to).contains(&s.time.media.as_secs_f64()));
    let change = |now: &Sample, then: &Sample| now.thumbprint.change(&then.thumbprint).unwrap();
    let still = [(1.0, 4.0), (9.8, 14.0), (19.6, 25.0)].map(|(from, to)| {
        let first = between(from, to).next().unwrap();
        between(from, to).map(|sample| change(sample, first)).fold(0.0, f32::max)
    });
    let coming = [4.5, 14.6, 25.5].map(|second| {
        let samples: Vec<&Sample> = between(second - 0.7, second + 0.5).collect();
        samples.windows(2).map(|pair| change(pair[1], pair[0])).fold(0.0, f32::max)
    });
    println!("\nThe empty lot changes by up to {still:.1?} levels, within 200 ms of a car's coming by {coming:.1?}.");
    let (most, least) = (still.into_iter().fold(0.0, f32::max), coming.into_iter().fold(f32::MAX, f32::min));
    assert!(least > 2.0 * most && least > 5.0 * Unchanged::default().tolerance, "{still:?} {coming:?}");
}

#[test]
fn every_car_is_told_at_the_same_time_by_the_daemon_whether_frames_are_reused_or_not() {
    let Some(clip) = footage("car-detection.mp4") else { return };
    let run = |unchanged: &str| {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "sampling: {{ interval: 400ms, unchanged: {unchanged} }}\n\
             streams: [{{ id: lot, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\n\
             sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
            clip.canonicalize().unwrap().display(),
            root().join("config/labels/parking-lot.yaml").display()
        );
        let mut daemon = Daemon::start(folder.path(), &config);
        assert!(daemon.wait().success());
        let log = daemon.log();
        let line = log.lines().find(|l| l.contains("frames accounted")).unwrap().to_owned();
        let number = |key: &str| {
            let text = line.split(&format!(" {key}=")).nth(1).unwrap();
            text.split_whitespace().next().unwrap().parse::<i64>().unwrap()
        };
        let ends = daemon.events().into_iter().filter(|e| e["type"] == "dev.vtagd.tag.end");
        let time = |e: &serde_json::Value, key: &str| e["data"][key].as_f64().unwrap();
        let tags: Vec<(f64, f64)> = ends.map(|e| (time(&e, "media_start"), time(&e, "media_end"))).collect();
        assert_eq!((number("unaccounted"), number("inferred") + number("reused")), (0, number("sampled")), "{line}");
        (tags, number("reused"))
    };
    let ((every, none), (gated, reused)) = (run("off"), run("on"));
    assert_eq!((every.len(), none), (3, 0));
    assert!(reused > 10, "{reused}");
    assert_eq!(gated.len(), 3, "{gated:?}");
    for (a, b) in every.iter().zip(&gated) {
        assert!((a.0 - b.0).abs() <= 0.45 && (a.1 - b.1).abs() <= 0.45, "{every:?} {gated:?}");
    }
}
