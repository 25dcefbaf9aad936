//! Cameras that are no streams yet: which there are in the network, and what one shows.
//!
//! In: whom to ask, or an address. Out: devices as `vtagd discover` tells them; one picture, of a source as a stream has it, which is left as soon as it has come.
//! On the caller's thread, which waits: [`SEARCH_TIMEOUT`] at most, or [`LOOK_TIMEOUT`] and what a source needs to stop. Nothing is kept.

use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select, tick};
use serde_json::{Value, json};

use crate::api::{CameraFinder, DiscoverQuestion, NoPreview};
use crate::config::added_streams;
use crate::discover::{self, DeviceError, DiscoverOptions, OnvifLogin, PORT, ProbeTarget};
use crate::frame::{FrameTap, FrameTime, Picture};
use crate::platform::shutdown::Shutdown;
use crate::snapshot;
use crate::source::Source;
use crate::stream::requests::NewStream;
use crate::stream::status::{StreamState, StreamStatus};

/// How long answers to the probe are waited for …
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// … and all that is asked of those who answer: the API's own answer may take thirty seconds.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a camera has for its first picture.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// Beyond that, for its source to say why there was none, and to stop.
const GRACE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What a source that looks is called in the log and in the names of its threads: no stream can be.
const LOOK_ID: &str = "Preview";
/// Sources that look, or have looked and do not stop.
const MOST_RUNNING: usize = 4;
/// Of the picture.
const SIDE: u32 = 480;
const QUALITY: u8 = 75;

/// See the module.
pub struct CameraLooks {
    shutdown: Shutdown,
    /// Each source that looks has one of these until it has stopped.
    running: Arc<()>,
}

impl CameraLooks {
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, running: Arc::new(()) }
    }
}

impl CameraFinder for CameraLooks {
    fn discover(&self, question: &DiscoverQuestion) -> Result<Vec<Value>, String> {
        let target = question.address.map(|mut address| {
            if address.port() == 0 {
                address.set_port(PORT);
            }
            address
        });
        let login =
            question.username.clone().map(|username| OnvifLogin { username, password: question.password.clone() });
        let place = ProbeTarget { interface: None, target };
        let options =
            DiscoverOptions { place, time: PROBE_TIMEOUT, login, until: Some(Instant::now() + SEARCH_TIMEOUT) };
        let devices = discover::discover(&options).map_err(|error| error.to_string())?;
        let told = devices.into_iter().map(|mut device| {
            // What the command is called with is nobody's business here.
            if device.error.as_deref() == Some(&*DeviceError::Anonymous.to_string()) {
                device.error = Some("it wants a user and a password: give them, and look again".to_owned());
            }
            json!(device)
        });
        Ok(told.collect())
    }

    fn preview(&self, stream: &NewStream) -> Result<Vec<u8>, NoPreview> {
        let none = |why: &str| NoPreview::None(why.to_owned());
        let mut settings = added_streams::checked(stream).map_err(NoPreview::Wrong)?;
        settings.source.id = LOOK_ID.into();
        settings.source.host_alone = true;
        let running = Arc::clone(&self.running);
        if Arc::strong_count(&running) > MOST_RUNNING + 2 {
            return Err(none("the sources of cameras that were looked at before do not stop: come back later"));
        }
        let (tap, picture) = OnePicture::new();
        let status = Arc::new(StreamStatus::uncounted(Arc::clone(&settings.source.id)));
        let (trigger, until) = self.shutdown.child();
        let source =
            Source::new(settings.source.of_one_attempt(LOOK_TIMEOUT), Arc::new(tap), Arc::clone(&status), until);
        let (told, ended) = bounded::<()>(1);
        let run = move || {
            // Dropped at the end, also of a panic.
            let (_told, _running) = (told, running);
            source.run()
        };
        let thread = Builder::new().name("src-preview".to_owned()).spawn(run);
        let thread = thread.map_err(|error| none(&format!("the system gives no thread: {error}")))?;
        let (started, look) = (Instant::now(), tick(POLL_INTERVAL));
        let found = loop {
            let over = select! {
                recv(picture) -> found => match found {
                    Ok(found) => break Some(found),
                    Err(_) => true,
                },
                recv(self.shutdown.receiver()) -> _ => true,
                recv(ended) -> _ => true,
                recv(look) -> _ => is_over(&status) || started.elapsed() >= LOOK_TIMEOUT + GRACE,
            };
            if over {
                break picture.try_recv().ok();
            }
        };
        // Before it is told to stop, which is a state too.
        let state = status.report(Instant::now()).state;
        trigger.trigger();
        if ended.recv_timeout(GRACE).is_err_and(|error| error.is_timeout()) {
            tracing::warn!("the source of a camera that was looked at does not stop; left behind");
        } else if thread.join().is_err() {
            return Err(none("its source has panicked; please report this"));
        }
        let Some(found) = found else {
            return Err(NoPreview::None(match state {
                StreamState::Down { error } | StreamState::Failed { error } => error,
                StreamState::Ended => "it has ended without a picture".to_owned(),
                _ => format!("no picture within {} s", LOOK_TIMEOUT.as_secs()),
            }));
        };
        snapshot::jpeg(&found, SIDE, QUALITY).map_err(|error| none(&format!("its picture cannot be encoded: {error}")))
    }
}

/// Whether no picture is to be expected any more.
fn is_over(status: &StreamStatus) -> bool {
    matches!(
        status.report(Instant::now()).state,
        StreamState::Down { .. } | StreamState::Failed { .. } | StreamState::Ended
    )
}

/// Takes the first picture that comes.
struct OnePicture {
    found: Sender<Picture>,
}

impl OnePicture {
    fn new() -> (Self, Receiver<Picture>) {
        let (found, picture) = bounded(1);
        (Self { found }, picture)
    }
}

impl FrameTap for OnePicture {
    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    fn is_sampled(&self, _: Duration) -> bool {
        self.found.is_empty()
    }

    fn deliver(&self, _: FrameTime, picture: Picture) {
        match self.found.try_send(picture) {
            // Nobody waits for a second one.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}
