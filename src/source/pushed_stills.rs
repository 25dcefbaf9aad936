//! A stream made of pictures that others send: cameras that post when something moves, scripts.
//!
//! In: coded pictures, on the threads of whoever takes them in ([`PushedPictures`]); each is decoded there, within the stream's limits, and sampled at once. Out: pictures for the
//! source's [`PipelineTap`]. The source's thread shows the last one again, with the same number, each interval for as long as it stands for what is there. Holds
//! that one. Full: the sampler's slot, where the newest wins. Closed: on shutdown, at once; what comes later finds nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::End;
use super::pipeline_tap::PipelineTap;
use super::polled_stills::{SHORTEST_INTERVAL, copy_of, next_number};
use super::{PushSettings, SourceSettings};
use crate::frame::pushed_pictures::{PushedPictures, TakesPictures};
use crate::frame::still_image::{self, Animated, StillImageError};
use crate::frame::{Picture, coded_size};
use crate::platform::secret::Secret;
use crate::platform::shutdown::Shutdown;
use crate::stream::accounting::OutcomeWatcher;
use crate::stream::status::{StreamState, StreamStatus};

/// The last picture.
struct Last {
    picture: Picture,
    number: u64,
    came: Instant,
    /// When it was last due to be shown.
    shown: Instant,
}

/// One stream's.
struct Taker {
    feed: Arc<PipelineTap>,
    connection: u64,
    started: Instant,
    sizes: coded_size::Limits,
    token: Option<Secret>,
    hold: Option<Duration>,
    /// When the last picture came.
    came: Mutex<Option<Instant>>,
    /// Also held while a picture is handed over: one after another.
    last: Mutex<Option<Last>>,
}

impl Taker {
    /// How often a picture is shown again, as things stand.
    fn interval(&self) -> Duration {
        self.feed.interval().unwrap_or_default().max(SHORTEST_INTERVAL)
    }

    /// How long a picture stands for what is there.
    fn hold(&self, interval: Duration) -> Duration {
        self.hold.unwrap_or(interval)
    }
}

impl TakesPictures for Taker {
    fn take(&self, coded: &[u8], outcome: Option<OutcomeWatcher>) -> Result<u64, StillImageError> {
        let picture = still_image::decode_within(coded, self.sizes, Animated::Refused)?;
        let number = next_number();
        let mut last = self.last.lock();
        let (copy, came) = (copy_of(&picture), Instant::now());
        // First: once its frame has been looked at, this may be asked for.
        *self.came.lock() = Some(came);
        self.feed.pushed(self.connection, self.started.elapsed(), picture, number, outcome);
        *last = copy.map(|picture| Last { picture, number, came, shown: came });
        Ok(number)
    }

    fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    fn gone_at(&self) -> Option<Instant> {
        let came = (*self.came.lock())?;
        let interval = self.interval();
        // Who sends one an interval is a little late now and then.
        came.checked_add(self.hold(interval).saturating_add(interval / 2))
    }
}

/// Takes pictures until shutdown is asked for.
pub(super) fn run(
    settings: &SourceSettings,
    feed: &Arc<PipelineTap>,
    pushed: &PushedPictures,
    status: &StreamStatus,
    shutdown: &Shutdown,
) -> End {
    let PushSettings { token, hold } = settings.push.clone().unwrap_or_default();
    let connection = feed.connect();
    let taker = Arc::new(Taker {
        feed: Arc::clone(feed),
        connection,
        started: Instant::now(),
        sizes: settings.sizes(),
        token,
        hold,
        came: Mutex::default(),
        last: Mutex::default(),
    });
    pushed.enter(&settings.id, &(Arc::clone(&taker) as Arc<dyn TakesPictures>));
    status.set(StreamState::Up);
    tracing::info!(stream = %settings.id, "waiting for pictures that are sent to it");
    loop {
        let interval = taker.interval();
        let wait = show_again(&taker, interval, taker.hold(interval), Instant::now());
        if shutdown.sleep(wait) {
            return End::Shutdown;
        }
    }
}

/// Shows the last picture once more, if it is time to and it still stands for what is there. Gives the time until it is looked again.
fn show_again(taker: &Taker, interval: Duration, hold: Duration, now: Instant) -> Duration {
    let mut last = taker.last.lock();
    let Some(Last { picture, number, came, shown }) = &mut *last else { return interval };
    let due = *shown + interval;
    if due.saturating_duration_since(*came) >= hold {
        *last = None;
        return interval;
    }
    if now < due {
        return due - now;
    }
    *shown = due;
    if let Some(copy) = copy_of(picture) {
        taker.feed.pushed(taker.connection, taker.started.elapsed(), copy, *number, None);
    }
    interval
}
