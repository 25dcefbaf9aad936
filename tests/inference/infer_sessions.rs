//! Several sessions behind one dispatcher, with encoders that do what the test says: the order of batches, a session that fails, one
//! that hangs, what is prepared while a batch runs, and how long a batch is filled. Nothing is measured in seconds.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use vtagd::batching::batch::{EmbeddedBatch, PrepareJob};
use vtagd::batching::dispatcher::{Arrival, Dispatcher, buffers};
use vtagd::batching::reorder_buffer::ReorderBuffer;
use vtagd::batching::tensor::BatchBuffer;
use vtagd::frame::slot::{self, SlotWriter};
use vtagd::frame::view::View;
use vtagd::frame::{Frame, FrameTime, Picture};
use vtagd::infer::session_thread::SessionWorker;
use vtagd::infer::watchdog::Runs;
use vtagd::infer::{ImageEncoder, InferError, Provider, Stop};
use vtagd::stream::accounting::{FrameAccounting, FrameOutcome, Totals};
use vtagd::stream::{StreamId, StreamKey};

/// Nothing in a working pipeline takes so long.
const DEADLINE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
/// What a run that was told to end has for that.
const GRACE: Duration = Duration::from_secs(10);

/// What becomes of a run.
#[derive(Clone, Copy)]
enum Say {
    Give,
    Fail,
}

/// An embedding is its picture's only float. Each run is told, and waits for what the test says.
struct Puppet {
    session: usize,
    begun: Sender<(usize, Vec<f32>)>,
    say: Receiver<Say>,
    /// Says `Fail` when it is told to end, if it listens.
    stop: Option<Arc<Stopped>>,
}

struct Stopped(Sender<Say>);

impl Stop for Stopped {
    fn stop(&self) {
        self.0.send(Say::Fail).unwrap();
    }
}

impl ImageEncoder for Puppet {
    fn dim(&self) -> usize {
        1
    }

    fn provider(&self) -> Provider {
        Provider::Cpu
    }

    fn stopper(&self) -> Option<Arc<dyn Stop>> {
        self.stop.clone().map(|stop| stop as Arc<dyn Stop>)
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        let _ = self.begun.send((self.session, pixels[..count].to_vec()));
        embeddings.clear();
        match self.say.recv() {
            Ok(Say::Give) => {
                embeddings.extend_from_slice(&pixels[..count]);
                Ok(())
            }
            Ok(Say::Fail) | Err(_) => Err(InferError::Run("as the test wants it".into())),
        }
    }
}

/// The stages from the slot of one stream to the embeddings, with so many sessions.
struct Rig {
    slot: Option<SlotWriter<Frame>>,
    accounting: Arc<FrameAccounting>,
    runs: Arc<Runs>,
    /// Which session runs which pictures.
    begun: Receiver<(usize, Vec<f32>)>,
    say: Vec<Sender<Say>>,
    embedded: Receiver<EmbeddedBatch>,
    /// Pictures that have been written into a batch.
    written: Receiver<f32>,
    threads: Vec<JoinHandle<()>>,
    sent: u64,
}

impl Rig {
    fn new(sessions: usize, max_size: usize, max_delay: Duration, heeds: bool) -> Self {
        // The slot of nobody is closed from the start.
        Self::with_single(sessions, max_size, max_delay, heeds).0
    }

    /// With the slot of a single picture that somebody asks about, beside that of the stream.
    fn with_single(sessions: usize, max_size: usize, max_delay: Duration, heeds: bool) -> (Self, SlotWriter<Frame>) {
        let accounting = Arc::new(FrameAccounting::default());
        let (wake, woken) = slot::wake_channel();
        let (arrive, arrivals) = bounded(2);
        let (slot, reader) = slot::slot(64, wake.clone());
        let (single, asked) = slot::slot(1, wake);
        let arrival = |key, single, slot| Arrival {
            key: StreamKey(key),
            views: View::default().into(),
            unchanged: None,
            pictures: false,
            single,
            slot,
        };
        arrive.send(arrival(0, None, reader)).unwrap();
        arrive.send(arrival(1, Some(Arc::default()), asked)).unwrap();
        let (free_again, free) = bounded(buffers(sessions));
        for _ in 0..buffers(sessions) {
            free_again.send(BatchBuffer::new(max_size, 1).unwrap()).unwrap();
        }
        let (jobs_in, jobs) = bounded::<PrepareJob>(64);
        let (batches_in, batches) = bounded(0);
        let (embedded_in, embedded) = bounded(4096);
        let (order, runs) = (Arc::new(ReorderBuffer::new(embedded_in, free_again)), Arc::new(Runs::new(LIMIT)));
        runs.pass_by(&order);
        let tiles = |_, _: &Picture| 1;
        let dispatcher =
            Dispatcher { arrivals, wake: woken, tiles, jobs: jobs_in, batches: batches_in, free, max_size, max_delay };
        let (begun_in, begun) = bounded(4096);
        let (written_in, written) = bounded(4096);
        let mut threads = vec![thread::spawn(|| dispatcher.run())];
        // The picture is as wide as its number.
        threads.push(thread::spawn(move || {
            for PrepareJob { picture, mut place, done, index, .. } in jobs {
                let value = picture.width() as f32;
                place.fill(value);
                drop(place);
                let _ = done.send((index, true));
                let _ = written_in.send(value);
            }
        }));
        let mut say = Vec::new();
        for session in 0..sessions {
            let (tell, told) = bounded(4096);
            let stop = heeds.then(|| Arc::new(Stopped(tell.clone())));
            let puppet = Puppet { session, begun: begun_in.clone(), say: told, stop };
            say.push(tell);
            let worker = SessionWorker {
                encoder: Some(Box::new(puppet)),
                session,
                has_peers: sessions > 1,
                batches: batches.clone(),
                embedded: Arc::clone(&order),
                runs: Arc::clone(&runs),
            };
            threads.push(thread::spawn(|| worker.run()));
        }
        (Self { slot: Some(slot), accounting, runs, begun, say, embedded, written, threads, sent: 0 }, single)
    }

    /// The next picture comes; they are counted from 1.
    fn send(&mut self) {
        self.sent_at(Instant::now());
    }

    /// The picture of this number.
    fn frame(&self, number: u64, captured: Instant) -> Frame {
        let stream: StreamId = "a".into();
        let time = FrameTime {
            media: Duration::from_secs(number),
            captured,
            wall: jiff::Timestamp::UNIX_EPOCH,
            connection: 0,
        };
        let width = number as u32;
        let picture = Picture::from_rgb(width, 1, vec![0; 3 * width as usize]).unwrap();
        let guard = self.accounting.sample(&stream);
        Frame { stream, time, picture: Arc::new(picture), thumbprints: Vec::new(), still: None, guard }
    }

    fn sent_at(&mut self, captured: Instant) {
        self.sent += 1;
        let frame = self.frame(self.sent, captured);
        assert!(matches!(self.slot.as_ref().unwrap().put(frame), Ok(None)));
    }

    fn begins(&self) -> (usize, Vec<f32>) {
        self.begun.recv_timeout(DEADLINE).expect("a run begins")
    }

    fn say(&self, session: usize, what: Say) {
        self.say[session].send(what).unwrap();
    }

    /// The embeddings of the next batch; its frames have been looked at.
    fn comes(&self) -> Vec<f32> {
        let batch = self.embedded.recv_timeout(DEADLINE).expect("a batch comes out");
        batch.items.iter().for_each(|item| item.frame.guard.complete(FrameOutcome::Inferred));
        batch.embeddings
    }

    /// Waits until so many pictures have been written into their batches.
    fn prepared(&self, pictures: usize) -> Vec<f32> {
        (0..pictures).map(|_| self.written.recv_timeout(DEADLINE).expect("a picture is prepared")).collect()
    }

    fn dropped(&self) -> u64 {
        self.accounting.totals().dropped.get("inference").copied().unwrap_or_default()
    }

    /// The stream ends and every stage after it. All frames have ended by then.
    fn end(mut self) -> Totals {
        self.slot = None;
        self.say.clear();
        let deadline = Instant::now() + DEADLINE;
        for thread in self.threads {
            while !thread.is_finished() {
                assert!(Instant::now() < deadline, "a stage does not end");
                thread::sleep(Duration::from_millis(1));
            }
            thread.join().unwrap();
        }
        while let Ok(batch) = self.embedded.try_recv() {
            batch.items.iter().for_each(|item| item.frame.guard.complete(FrameOutcome::Inferred));
        }
        let totals = self.accounting.totals();
        assert_eq!(totals.unaccounted(), 0, "{totals:?}");
        totals
    }
}

#[test]
fn batches_come_out_in_order_whichever_session_is_done_first() {
    let mut rig = Rig::new(2, 1, DEADLINE, false);
    rig.send();
    let (first, pictures) = rig.begins();
    assert_eq!(pictures, [1.0]);
    rig.send();
    let (second, pictures) = rig.begins();
    assert_eq!((pictures, second), (vec![2.0], 1 - first), "the other session takes it");
    rig.say(second, Say::Give);
    // It is free again and takes the third while the first still runs.
    rig.send();
    assert_eq!(rig.begins(), (second, vec![3.0]));
    rig.say(second, Say::Give);
    rig.say(first, Say::Give);
    assert_eq!([rig.comes(), rig.comes(), rig.comes()], [[1.0], [2.0], [3.0]]);
    assert_eq!(rig.end().inferred, 3);
}

#[test]
fn what_waits_behind_a_session_that_hangs_is_bounded_by_the_buffers() {
    let mut rig = Rig::new(2, 1, DEADLINE, false);
    rig.send();
    let (hung, _) = rig.begins();
    (0..8).for_each(|_| rig.send());
    for wanted in 1..buffers(2) {
        let (session, pictures) = rig.begins();
        assert_eq!((session, pictures), (1 - hung, vec![(wanted + 1) as f32]));
        rig.say(session, Say::Give);
    }
    // All buffers are with batches that have not had their turn; the rest stays in its slot, where newer ones may replace it.
    let more = rig.begun.recv_timeout(Duration::from_millis(300));
    assert!(more.is_err(), "{more:?}");
    rig.say(hung, Say::Give);
    for _ in buffers(2)..9 {
        rig.say(rig.begins().0, Say::Give);
    }
    for wanted in 1..=9_u8 {
        assert_eq!(rig.comes(), [f32::from(wanted)]);
    }
    assert_eq!(rig.end().inferred, 9);
}

#[test]
fn a_single_picture_is_taken_where_no_stream_has_a_frame_that_waits() {
    let (mut rig, single) = Rig::with_single(1, 1, DEADLINE, false);
    // One runs, one waits in its buffer, and no other is free.
    (0..2).for_each(|_| rig.send());
    assert_eq!(rig.prepared(2), [1.0, 2.0]);
    assert!(matches!(single.put(rig.frame(100, Instant::now())), Ok(None)));
    (0..2).for_each(|_| rig.send());
    for wanted in [1.0, 2.0, 3.0, 4.0, 100.0] {
        assert_eq!(rig.begins(), (0, vec![wanted]));
        rig.say(0, Say::Give);
        assert_eq!(rig.comes(), [wanted]);
    }
    drop(single);
    assert_eq!(rig.end().inferred, 5);
}

#[test]
fn a_session_that_fails_costs_its_own_frames_and_the_others_go_on() {
    let mut rig = Rig::new(2, 1, DEADLINE, false);
    rig.send();
    let (bad, _) = rig.begins();
    rig.say(bad, Say::Fail);
    let (mut lost, mut given) = (1, 0);
    for _ in 0..20 {
        rig.send();
        let (session, pictures) = rig.begins();
        if session == bad {
            rig.say(bad, Say::Fail);
            lost += 1;
        } else {
            rig.say(session, Say::Give);
            assert_eq!(rig.comes(), pictures);
            given += 1;
        }
    }
    assert!(given > lost, "{given} of 20: who fails rests, and does not take the batches of who works");
    let totals = rig.end();
    assert_eq!((totals.inferred, totals.dropped.get("inference")), (given, Some(&lost)));
}

#[test]
fn a_run_that_hangs_is_given_up_with_its_frames_and_the_other_session_goes_on() {
    let mut rig = Rig::new(2, 2, DEADLINE, false);
    (0..2).for_each(|_| rig.send());
    let (hung, _) = rig.begins();
    // Before the other one begins, so that of the two only the first is too long.
    let between = Instant::now();
    (0..2).for_each(|_| rig.send());
    let (well, _) = rig.begins();
    rig.say(well, Say::Give);
    // Behind the one that hangs nothing comes out, until that is given up.
    let (runs, late) = (Arc::clone(&rig.runs), between + LIMIT + GRACE);
    runs.check_deadlines(between + LIMIT);
    assert_eq!((rig.dropped(), runs.hung(late)), (0, None), "it has been told to end and has time to do so");
    runs.check_deadlines(late);
    assert_eq!(rig.dropped(), 2);
    let told = runs.hung(late).expect("it hangs");
    assert!(told.contains(&format!("session {hung}")), "{told}");
    let deadline = Instant::now() + DEADLINE;
    while rig.embedded.is_empty() {
        assert!(Instant::now() < deadline);
        runs.check_deadlines(late);
    }
    assert_eq!(rig.comes(), [3.0, 4.0]);
    // The other one serves alone.
    for n in 0..3_u8 {
        (0..2).for_each(|_| rig.send());
        let (session, pictures) = rig.begins();
        assert_eq!(session, well);
        rig.say(well, Say::Give);
        assert_eq!(rig.comes(), pictures, "batch {n} after it");
    }
    // It comes back, too late for its frames and in time for others.
    rig.say(hung, Say::Give);
    while runs.hung(late).is_some() {
        assert!(Instant::now() < deadline, "it is well again");
    }
    let totals = rig.end();
    assert_eq!((totals.inferred, totals.dropped.get("inference")), (8, Some(&2)));
}

#[test]
fn a_run_that_ends_when_it_is_told_to_costs_its_frames_alone() {
    let mut rig = Rig::new(1, 2, DEADLINE, true);
    let began = Instant::now();
    (0..2).for_each(|_| rig.send());
    rig.begins();
    rig.runs.check_deadlines(began + LIMIT + Duration::from_secs(1));
    (0..2).for_each(|_| rig.send());
    assert_eq!(rig.begins().1, [3.0, 4.0]);
    assert_eq!((rig.dropped(), rig.runs.hung(Instant::now())), (2, None));
    rig.say(0, Say::Give);
    assert_eq!(rig.comes(), [3.0, 4.0]);
    assert_eq!(rig.end().inferred, 2);
}

#[test]
fn the_next_batch_is_assembled_and_its_pictures_are_written_while_one_runs() {
    let mut rig = Rig::new(1, 2, DEADLINE, false);
    (0..2).for_each(|_| rig.send());
    assert_eq!(rig.begins().1, [1.0, 2.0]);
    assert_eq!(rig.prepared(2), [1.0, 2.0]);
    // The run goes on until somebody says how it ends.
    (0..3).for_each(|_| rig.send());
    assert_eq!(rig.prepared(2), [3.0, 4.0]);
    assert!(
        rig.written.recv_timeout(Duration::from_millis(50)).is_err(),
        "one batch and no more: newer pictures may come"
    );
    rig.say(0, Say::Give);
    assert_eq!(rig.begins().1, [3.0, 4.0]);
    rig.say(0, Say::Give);
    assert_eq!([rig.comes(), rig.comes()], [[1.0, 2.0], [3.0, 4.0]]);
    rig.say(0, Say::Give);
    assert_eq!(rig.end().inferred, 5);
}

#[test]
fn a_batch_that_is_due_takes_what_comes_until_a_session_is_free() {
    let mut rig = Rig::new(1, 4, Duration::ZERO, false);
    rig.send();
    assert_eq!(rig.begins().1, [1.0], "due at once");
    // Each of these is due when it comes; the session has no use for them yet.
    for number in 2..5_u8 {
        rig.send();
        assert_eq!(rig.prepared(1), [f32::from(number) - 1.0]);
    }
    assert_eq!(rig.prepared(1), [4.0]);
    rig.say(0, Say::Give);
    assert_eq!(rig.begins().1, [2.0, 3.0, 4.0]);
    rig.say(0, Say::Give);
    assert_eq!([rig.comes(), rig.comes()], [vec![1.0], vec![2.0, 3.0, 4.0]]);
    assert_eq!(rig.end().inferred, 4);
}

#[test]
fn the_delay_of_a_batch_counts_from_when_its_first_frame_was_taken() {
    // Nobody waits for an hour here: the frame has done so already.
    let hour = Duration::from_secs(3600);
    let mut rig = Rig::new(1, 4, hour, false);
    let Some(long_ago) = Instant::now().checked_sub(hour) else { return };
    rig.sent_at(long_ago);
    assert_eq!(rig.begins().1, [1.0]);
    rig.say(0, Say::Give);
    assert_eq!(rig.comes(), [1.0]);
    assert_eq!(rig.end().inferred, 1);
}
