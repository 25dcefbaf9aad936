//! Too many cameras for one small model: the real samplers, slots, dispatcher and session thread, with an encoder that takes as long as
//! the test likes. Nothing is measured in seconds: one turn is one batch, and all cameras bring their pictures between two turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use vtagd::batching::batch::{EmbeddedBatch, PrepareJob};
use vtagd::batching::dispatcher::{Arrival, Dispatcher, buffers};
use vtagd::batching::reorder_buffer::ReorderBuffer;
use vtagd::batching::tensor::BatchBuffer;
use vtagd::frame::slot;
use vtagd::frame::view::View;
use vtagd::frame::{FrameTap, FrameTime, Picture};
use vtagd::infer::session_thread::SessionWorker;
use vtagd::infer::{ImageEncoder, InferError, Provider};
use vtagd::sample::{OnFull, Sampler};
use vtagd::stream::accounting::{FrameAccounting, FrameOutcome, Totals};
use vtagd::stream::{StreamId, StreamKey};

/// Nothing in a working pipeline takes so long.
const DEADLINE: Duration = Duration::from_secs(60);
const BATCH: usize = 2;
const BUFFERS: usize = buffers(1);
const SECOND: Duration = Duration::from_secs(1);

/// A model that is as slow as its owner: a batch a permit.
struct Slow(Receiver<()>);

impl ImageEncoder for Slow {
    fn dim(&self) -> usize {
        1
    }

    fn provider(&self) -> Provider {
        Provider::Cpu
    }

    fn encode(&mut self, _: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        self.0.recv().map_err(|_| InferError::Run("the test has ended".into()))?;
        *embeddings = vec![1.0; count];
        Ok(())
    }
}

/// One camera: so many pictures every so many turns.
struct Camera {
    id: StreamId,
    sampler: Sampler,
    accounting: Arc<FrameAccounting>,
    pictures: u32,
    every: u32,
    /// Media time of its newest picture.
    newest: Duration,
}

impl Camera {
    /// Brings its pictures of this turn.
    fn play(&mut self, turn: u32) {
        if !turn.is_multiple_of(self.every) {
            return;
        }
        for n in 0..self.pictures {
            self.newest = SECOND * turn + SECOND / self.pictures * n;
            assert!(self.sampler.is_sampled(self.newest), "every picture is sampled");
            let time = FrameTime {
                media: self.newest,
                captured: Instant::now(),
                wall: jiff::Timestamp::UNIX_EPOCH,
                connection: 0,
            };
            self.sampler.deliver(time, Picture::from_rgb(1, 1, vec![0; 3]).unwrap());
        }
    }
}

/// Cameras and the stages behind them, whose other ends the test holds.
struct Overload {
    cameras: Vec<Camera>,
    jobs: Receiver<PrepareJob>,
    permits: Sender<()>,
    embedded: Receiver<EmbeddedBatch>,
    threads: Vec<JoinHandle<()>>,
    /// What left the slots and has not come out: whose picture, and which was that camera's newest at that moment.
    under_way: VecDeque<(StreamKey, Duration)>,
}

impl Overload {
    /// `rates`: pictures, and in how many turns.
    fn start(rates: &[(u32, u32)]) -> Self {
        let (wake, woken) = slot::wake_channel();
        let (arrive, arrivals) = bounded(rates.len());
        let camera = |(n, &(pictures, every)): (usize, &(u32, u32))| {
            let (id, accounting) = (StreamId::from(format!("camera-{n}")), Arc::new(FrameAccounting::default()));
            let (writer, slot) = slot::slot(1, wake.clone());
            arrive
                .send(Arrival {
                    unchanged: None,
                    pictures: false,
                    single: None,
                    key: StreamKey(n as u64),
                    views: View::default().into(),
                    slot,
                })
                .unwrap();
            let sampler =
                Sampler::new(Arc::clone(&id), Duration::ZERO, Arc::clone(&accounting), writer, OnFull::NewestWins);
            Camera { id, sampler, accounting, pictures, every, newest: Duration::ZERO }
        };
        let cameras = rates.iter().enumerate().map(camera).collect();

        let (free_again, free) = bounded(BUFFERS);
        for _ in 0..BUFFERS {
            free_again.send(BatchBuffer::new(BATCH, 1).unwrap()).unwrap();
        }
        let (jobs_in, jobs) = bounded(BATCH * BUFFERS);
        let (batches_in, batches) = bounded(0);
        let (embedded_in, embedded) = bounded(BUFFERS);
        let (permits, permitted) = bounded(BATCH * rates.len());
        let dispatcher = Dispatcher {
            arrivals,
            wake: woken,
            tiles: |_, _| 1,
            jobs: jobs_in,
            batches: batches_in,
            free,
            max_size: BATCH,
            // There is always enough to fill a batch.
            max_delay: DEADLINE,
        };
        let encoder: Box<dyn ImageEncoder> = Box::new(Slow(permitted));
        let session = SessionWorker {
            encoder: Some(encoder),
            session: 0,
            has_peers: false,
            batches,
            embedded: Arc::new(ReorderBuffer::new(embedded_in, free_again)),
            runs: Arc::default(),
        };
        let threads = vec![thread::spawn(|| dispatcher.run()), thread::spawn(|| session.run())];
        Self { cameras, jobs, permits, embedded, threads, under_way: VecDeque::new() }
    }

    /// The next picture has left its slot and is preprocessed.
    fn prepare(&mut self) {
        let PrepareJob { stream, mut place, done, index, .. } = self.jobs.recv_timeout(DEADLINE).unwrap();
        place.fill(0.5);
        drop(place);
        done.send((index, true)).unwrap();
        let n = self.cameras.iter().position(|camera| camera.id == stream).unwrap();
        self.under_way.push_back((StreamKey(n as u64), self.cameras[n].newest));
    }

    /// Both buffers are filled: one waits for its permit, one waits behind it, and everything else stays in the slots.
    fn prime(&mut self) {
        self.cameras.iter_mut().for_each(|camera| camera.play(0));
        for _ in 0..BATCH * BUFFERS {
            self.prepare();
        }
        // The cameras were still playing.
        self.under_way.iter_mut().for_each(|(_, newest)| *newest = Duration::MAX);
    }

    /// All cameras play, then one batch is done and another takes its place.
    fn turn(&mut self, turn: u32) {
        self.cameras.iter_mut().for_each(|camera| camera.play(turn));
        self.permits.send(()).unwrap();
        for _ in 0..BATCH {
            self.prepare();
        }
        let batch = self.embedded.recv_timeout(DEADLINE).unwrap();
        assert_eq!(batch.items.len(), BATCH);
        for item in batch.items {
            let (stream, newest) = self.under_way.pop_front().unwrap();
            assert_eq!(item.frame.stream, stream);
            if newest < Duration::MAX {
                assert_eq!(item.frame.time.media, newest, "an old picture of {stream:?} in turn {turn}");
            }
            item.frame.guard.complete(FrameOutcome::Inferred);
        }
    }

    /// The cameras end, what is left is looked at. Gives every camera's totals.
    fn end(self) -> Vec<Totals> {
        let accounts: Vec<_> = self.cameras.iter().map(|camera| Arc::clone(&camera.accounting)).collect();
        // The samplers finish their slots, and nobody can join.
        drop(self.cameras);
        while self.permits.try_send(()).is_ok() {}
        loop {
            select! {
                recv(self.jobs) -> job => if let Ok(PrepareJob { place, done, index, .. }) = job {
                    drop(place);
                    done.send((index, true)).unwrap();
                },
                recv(self.embedded) -> batch => match batch {
                    Ok(batch) => batch.items.iter().for_each(|item| item.frame.guard.complete(FrameOutcome::Inferred)),
                    Err(_) => break,
                },
                default(DEADLINE) => panic!("the stages do not end"),
            }
        }
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        accounts.iter().map(|accounting| accounting.totals()).collect()
    }
}

#[test]
fn under_overload_every_camera_gets_its_share_and_what_is_looked_at_is_new() {
    const TURNS: u32 = 600;
    // One camera at ten times the rate of three others, and one that asks for less than its share: two pictures a turn are looked
    // at, 13.2 are taken.
    let mut overload = Overload::start(&[(10, 1), (1, 1), (1, 1), (1, 1), (1, 5)]);
    overload.prime();
    for turn in 1..=TURNS {
        overload.turn(turn);
    }
    let totals = overload.end();
    for totals in &totals {
        assert_eq!(totals.unaccounted(), 0, "{totals:?}");
        let superseded = totals.dropped.get("superseded").copied().unwrap_or_default();
        assert_eq!(totals.inferred + superseded, totals.sampled, "nothing was lost for another reason: {totals:?}");
    }
    let sampled: Vec<u64> = totals.iter().map(|totals| totals.sampled).collect();
    assert_eq!(sampled, [6010, 601, 601, 601, 121]);
    let inferred: Vec<u64> = totals.iter().map(|totals| totals.inferred).collect();
    // The modest one loses nothing, and the others share equally what it leaves, however much more one of them brings.
    assert_eq!(inferred[4], 121);
    let share = inferred[..4].iter().sum::<u64>() / 4;
    assert!(share >= (u64::from(TURNS) * BATCH as u64 - inferred[4]) / 4, "the model was never idle: {inferred:?}");
    assert!(
        inferred[..4].iter().all(|inferred| inferred.abs_diff(share) <= 2),
        "{share} for each, and not {inferred:?}"
    );
}

#[test]
fn every_camera_gets_its_share_in_any_stretch_of_turns_and_not_only_in_the_long_run() {
    let mut overload = Overload::start(&[(10, 1), (10, 1), (10, 1), (1, 1)]);
    overload.prime();
    let inferred = |overload: &Overload| -> Vec<u64> {
        overload.cameras.iter().map(|camera| camera.accounting.totals().inferred).collect()
    };
    // What was taken while the cameras began comes out first.
    (1..=BUFFERS as u32).for_each(|turn| overload.turn(turn));
    let mut last = inferred(&overload);
    for stretch in 0..50 {
        (0..2).for_each(|turn| overload.turn(BUFFERS as u32 + 1 + stretch * 2 + turn));
        let now = inferred(&overload);
        let got: Vec<u64> = now.iter().zip(&last).map(|(now, last)| now - last).collect();
        assert_eq!(got, [1; 4], "four pictures in two turns, one of each camera");
        last = now;
    }
    assert!(overload.end().iter().all(|totals| totals.unaccounted() == 0));
}
