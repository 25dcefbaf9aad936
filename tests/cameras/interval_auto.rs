//! `interval: auto` with a model that is too slow for its streams: the interval grows until hardly a frame is lost, in all streams
//! that have it and in no other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, eventually, root};
use crate::common::model::{Counting, route, stages};
use crate::common::recorder::{make_mp4, settings};
use serde_json::Value;
use vtagd::frame::view::View;
use vtagd::pipeline;
use vtagd::pipeline::intake::{Member, StreamPart};
use vtagd::platform::shutdown;
use vtagd::sample::Interval;
use vtagd::source::{Decode, Location, SourceSettings};
use vtagd::stream::registry::RegisteredStream;

/// Streams that adapt, and one that does not.
const STREAMS: usize = 20;
/// The model serves ten pictures a second, whatever the machine.
const EACH: Duration = Duration::from_millis(100);

fn interval(member: &Member) -> f64 {
    member.status.report(Instant::now()).sampling_interval.unwrap()
}

/// Frames served and superseded, all streams together.
fn ended(members: &[Member]) -> (u64, u64) {
    let each = members.iter().map(|member| member.accounting.served_and_superseded());
    each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[test]
fn the_interval_grows_until_hardly_a_frame_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    make_mp4(&clip, 250, (64, 48), "ball");
    let (trigger, shutdown) = shutdown::channel();
    let encoder = Counting { pictures: Arc::new(AtomicU64::new(0)), each: EACH, failures: 0 };
    let (mut intake, mut threads) = pipeline::start(stages(encoder, 4), &shutdown).unwrap();
    let mut members = Vec::new();
    for number in 0..=STREAMS {
        let source = SourceSettings {
            id: format!("s{number}").into(),
            looped: true,
            // A file is held to real time by its decoded frames.
            decode: Decode::All,
            ..settings(Location::File(clip.clone()))
        };
        let interval = if number == STREAMS { Duration::from_secs(2).into() } else { Interval::Auto };
        let record = RegisteredStream::new(&source.id, Vec::new());
        let part =
            StreamPart { record, source, interval, unchanged: None, views: View::default().into(), route: route().0 };
        members.push(intake.join(part).unwrap());
    }
    assert_eq!((interval(&members[0]), interval(&members[STREAMS])), (1.0, 2.0), "where it begins");

    // Two seconds or a little more is what the model can do; what counts is that frames are no longer lost.
    let mut mark = (Instant::now(), (0, 0));
    eventually("a while with less than one frame in twenty lost", || {
        intake.adapt(Instant::now(), members.iter_mut());
        if mark.0.elapsed() < Duration::from_secs(10) {
            return None;
        }
        let now = ended(&members);
        let (served, lost) = (now.0 - mark.1.0, now.1 - mark.1.1);
        eprintln!("every {:.2} s: {served} served, {lost} lost", interval(&members[0]));
        mark = (Instant::now(), now);
        // Not so long that hardly anything is sampled, either.
        let fits = (1.5..6.0).contains(&interval(&members[0]));
        (fits && served >= 30 && lost * 20 < served).then_some(())
    });
    assert!(members[..STREAMS].iter().all(|member| interval(member) == interval(&members[0])));
    assert_eq!(interval(&members[STREAMS]), 2.0, "a fixed interval stays");

    trigger.trigger();
    drop(intake);
    let accounts: Vec<_> = members.iter().map(|member| Arc::clone(&member.accounting)).collect();
    threads.extend(members.into_iter().map(Member::into_thread));
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name}");
    }
    assert!(accounts.iter().all(|accounting| accounting.totals().unaccounted() == 0));
}

#[test]
fn the_interval_of_each_stream_is_told_by_the_api_and_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let clip = root().join("demo/clip.mp4");
    let config = format!(
        "model: {{ path: none }}\nsampling: {{ interval: auto }}\nstreams:\n\
         \x20 - {{ id: adapts, url: \"file://{clip}\" }}\n\
         \x20 - {{ id: fixed, url: \"file://{clip}\", sampling: {{ interval: 3s }} }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip = clip.display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let told = |daemon: &mut Daemon, id: &str| {
        let (_, body) = daemon.get("/api/v1/streams");
        let rows: Value = serde_json::from_str(&body).unwrap();
        let row = rows["streams"].as_array().unwrap().iter().find(|row| row["id"] == id).cloned();
        row.and_then(|row| row["sampling_interval"].as_f64())
    };
    assert_eq!(told(&mut daemon, "fixed"), Some(3.0));
    // Nothing is lost where nothing is inferred: there is room for more.
    eventually("the interval gets shorter", || told(&mut daemon, "adapts").filter(|seconds| *seconds < 0.95));
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("vtagd_sampling_interval_seconds{stream=\"fixed\"} 3\n"), "{metrics}");
    assert!(metrics.contains("vtagd_sampling_interval_seconds{stream=\"adapts\"} 0."), "{metrics}");
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("sampling interval of streams with `interval: auto`"));
}
