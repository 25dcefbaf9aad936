//! Frames that show nothing new, through the whole pipeline: what is inferred, what is reused, and that the accounts are whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::model::{Counting, route, stages};
use crate::common::recorder::{make, settings};
use vtagd::frame::thumbprint::Unchanged;
use vtagd::frame::view::{View, ViewMode};
use vtagd::pipeline;
use vtagd::pipeline::intake::StreamPart;
use vtagd::platform::shutdown;
use vtagd::source::{Ended, Location, Pace, SourceSettings};
use vtagd::stream::accounting::Totals;
use vtagd::stream::registry::RegisteredStream;

const GATE: Unchanged = Unchanged { tolerance: 2.0, max_age: Duration::from_secs(3) };

/// Twelve seconds of a still picture, 640 pixels wide and 25 times a second, with some noise; between 5 and 7 s something of 16
/// pixels stands in it.
fn clip(folder: &Path) -> PathBuf {
    let path = folder.join("still.mp4");
    // A scene drawn by formats alone has no noise, so the encoder adds its own.
    make(&format!(
        "compositor name=scene background=black sink_1::xpos=400 sink_1::ypos=200 ! video/x-raw,width=640,height=360,framerate=25/1 \
         ! videoconvert ! video/x-raw,format=I420 ! x264enc speed-preset=ultrafast quantizer=30 key-int-max=50 ! h264parse \
         ! mp4mux faststart=true ! filesink location=\"{}\" \
         videotestsrc num-buffers=300 pattern=smpte75 ! video/x-raw,width=640,height=360,framerate=25/1 ! queue ! scene.sink_0 \
         videotestsrc num-buffers=50 pattern=white timestamp-offset=5000000000 \
         ! video/x-raw,width=16,height=16,framerate=25/1 ! queue ! scene.sink_1",
        path.display()
    ));
    path
}

/// Runs the clip through a pipeline, two samples a second. Gives the seconds of the frames with an embedding of their own, how many
/// frames were scored, the accounts, and how many pictures the model saw.
fn run(unchanged: Option<Unchanged>, mode: ViewMode, max_size: usize, failures: u32) -> (Vec<f64>, usize, Totals, u64) {
    let folder = tempfile::tempdir().unwrap();
    let source = SourceSettings { pace: Pace::Fast, ..settings(Location::File(clip(folder.path()))) };
    let (_trigger, shutdown) = shutdown::channel();
    let pictures = Arc::new(AtomicU64::new(0));
    let encoder = Counting { pictures: Arc::clone(&pictures), each: Duration::from_millis(2), failures };
    let (mut intake, mut threads) = pipeline::start(stages(encoder, max_size), &shutdown).unwrap();
    let (route, heard) = route();
    let view = View { mode, ..View::default() };
    let (record, interval) = (RegisteredStream::new(&source.id, Vec::new()), Duration::from_millis(500).into());
    let part = StreamPart { record, source, interval, unchanged, views: view.into(), route };
    let member = intake.join(part).unwrap();
    drop(intake);
    assert_eq!(member.wait(), Some(Ended::EndOfFile));
    let accounting = Arc::clone(&member.accounting);
    threads.push(member.into_thread());
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name}");
    }
    let totals = accounting.totals();
    assert_eq!(totals.unaccounted(), 0);
    let heard = heard.lock().unwrap();
    assert!(heard.windows(2).all(|pair| pair[0].0 < pair[1].0), "frames are scored in order: {heard:?}");
    let anew = |(index, (media, score)): (usize, &(Duration, f32))| {
        (index == 0 || heard[index - 1].1 != *score).then_some(media.as_secs_f64())
    };
    let anew = heard.iter().enumerate().filter_map(anew).collect();
    (anew, heard.len(), totals, pictures.load(Ordering::Relaxed))
}

#[test]
fn a_still_view_is_inferred_when_something_small_comes_or_goes_and_when_the_embedding_is_old() {
    let (anew, scored, totals, pictures) = run(Some(GATE), ViewMode::Model, 4, 0);
    assert_eq!(anew, [0.0, 3.0, 5.0, 7.0, 10.0]);
    assert_eq!((scored, totals.sampled, pictures), (24, 24, 5));
    assert_eq!((totals.inferred, totals.reused, totals.dropped.len()), (5, 19, 0));
}

#[test]
fn with_the_gate_off_every_frame_is_inferred() {
    let (anew, _, totals, pictures) = run(None, ViewMode::Model, 4, 0);
    assert_eq!((anew.len(), totals.inferred, totals.reused, pictures), (24, 24, 0, 24));
}

#[test]
fn all_squares_of_a_tiled_view_are_reused_together_also_when_they_fill_several_batches() {
    for max_size in [1, 2, 8] {
        let (anew, scored, totals, pictures) = run(Some(GATE), ViewMode::Tiles, max_size, 0);
        assert_eq!((anew.len(), scored, pictures), (5, 24, 10), "batches of {max_size}");
        assert_eq!((totals.inferred, totals.reused), (5, 19));
    }
}

#[test]
fn after_a_failed_run_the_next_frame_is_inferred_and_what_had_relied_on_it_is_counted_with_it() {
    let (anew, scored, totals, pictures) = run(Some(GATE), ViewMode::Model, 1, 1);
    let lost = totals.dropped.get("inference").copied().unwrap_or(0);
    // The frames behind the first one that had been waved through before it failed; how many is a matter of speed.
    assert!((1..7).contains(&lost), "{totals:?}");
    // Pictures are 40 ms apart: the one nearest to its half second is sampled.
    assert!((anew[0] - lost as f64 * 0.5).abs() <= 0.02 + 1e-6, "{anew:?}");
    assert_eq!(totals.dropped.len(), 1);
    assert_eq!((scored as u64, totals.inferred + totals.reused), (24 - lost, 24 - lost));
    assert_eq!((pictures, totals.inferred), (anew.len() as u64, anew.len() as u64));
}
