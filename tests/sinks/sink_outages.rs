//! A broker that goes down and up at random and a daemon that is killed again and again: every event that was stored arrives, as the same
//! event, in order.
//!
//! The ordinary run is a small one. `VTAGD_OUTAGES=50` and, beside it, 20 kills and 10,000 events is the whole:
//! `VTAGD_OUTAGES=50 VTAGD_KILLS=20 VTAGD_EVENTS=10000 cargo nextest run --test sinks sink_outages:: --no-capture`

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::common::arrived::{drain, id, lanes, unique};
use crate::common::broker::{Broker, Consumer};
use crate::common::daemon::{Daemon, eventually, stored};
use crate::common::flicker;
use serde_json::Value;

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// SplitMix64: what happens when is random, and the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn every_stored_event_arrives_in_order_whatever_goes_down() {
    let (outages, kills, wanted) = (number("VTAGD_OUTAGES", 6), number("VTAGD_KILLS", 3), number("VTAGD_EVENTS", 1000));
    let seed = number("VTAGD_SEED", 1) as u64;
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/events"]);
    let mut config = flicker::config(folder.path(), 2, 5);
    config.push_str(&format!(
        "outbox: {{ path: outbox.db }}\nsinks:\n  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{}\", timeout: 5s }}\n",
        broker.port
    ));
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();

    let mut random = Random(seed);
    let (mut down, mut killed) = (0, 0);
    let began = Instant::now();
    while down < outages || killed < kills {
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        let kill = random.below((outages - down + kills - killed) as u64) >= (outages - down) as u64;
        if kill {
            daemon.kill();
            killed += 1;
            daemon = Daemon::start(folder.path(), &config);
        } else {
            broker.stop();
            std::thread::sleep(Duration::from_millis(random.below(700)));
            broker.up();
            down += 1;
        }
    }
    eventually("enough events are stored", || (stored(folder.path()).len() >= wanted).then_some(()));
    eprintln!("{down} outages and {killed} kills in {:.0?}", began.elapsed());
    daemon.stop_cleanly();
    drain(folder.path(), &config);
    let events = stored(folder.path());
    let arrived = eventually("everything has arrived", || {
        let arrived: Vec<Value> = consumer.got().iter().map(crate::common::broker::Got::json).collect();
        (unique(&arrived) >= events.len()).then_some(arrived)
    });

    let by_id: HashMap<String, &Value> = events.iter().map(|event| (id(event), event)).collect();
    for event in &arrived {
        assert_eq!(by_id.get(&id(event)), Some(&event), "what arrives is what was stored");
    }
    let duplicates = arrived.len() - unique(&arrived);
    eprintln!("stored {}, arrived {}, of them again with the same id {duplicates}", events.len(), arrived.len());
    assert_eq!(by_id.len(), events.len(), "each has an id of its own");
    assert!(events.len() >= wanted);
    assert_eq!(lanes(&arrived), lanes(&events), "none is missing, in order within each stream and label");
}
