//! Finds ONVIF cameras on the local network, and asks them for their streams.
//!
//! ```text
//! probe ─ UDP ─► everybody          who is a camera? (WS-Discovery)
//!   └► device ─ HTTP ─► each one    which streams?   (ONVIF: services, profiles, stream addresses)
//!        └► block                   what to paste into the configuration
//! ```
//!
//! In: [`DiscoverOptions`]. Out: [`Device`]s, in the order of their addresses. Blocks the caller's thread for the time that the probe may
//! take and then until every device has answered or given up on; devices are asked [`AT_ONCE`] at a time. Everything that comes
//! from the network is untrusted: sizes and numbers are bounded, texts cleaned, XML never expanded, and only the address that
//! answered is connected to.

mod block;
mod device;
mod plain_text;
mod soap;
mod ws_discovery;
mod xml;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

pub use block::{PasswordFrom, block};
pub use device::DeviceError;
pub use soap::OnvifLogin;
pub use ws_discovery::{PORT, ProbeError, ProbeTarget};

use device::Client;
use ws_discovery::Found;

/// Devices that are asked at the same time.
const AT_ONCE: usize = 8;
/// Longest stream id.
const MAX_ID: usize = 64;

/// Whether a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secure {
    Yes,
    No,
}

/// What to look for, and where.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    pub place: ProbeTarget,
    /// How long answers to the probe are waited for.
    pub time: Duration,
    /// Proven to devices that do not answer without.
    pub login: Option<OnvifLogin>,
    /// Devices that have not told their streams by then are listed without.
    pub until: Option<Instant>,
}

/// A device that answered. All texts are clean, no address holds credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Device {
    /// A stream id for it, unique among the devices found.
    pub id: String,
    pub name: Option<String>,
    /// Where it answered from.
    pub address: String,
    pub xaddrs: Vec<String>,
    pub scopes: Vec<String>,
    pub hardware: Option<String>,
    pub location: Option<String>,
    /// One for each of its profiles with video.
    pub streams: Vec<Stream>,
    /// Why it did not tell its streams.
    pub error: Option<String>,
}

/// A stream of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stream {
    pub profile: String,
    pub url: String,
    /// Such as `h264`.
    pub codec: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub frame_rate: Option<f64>,
    /// The address had a credential in it, which stands as `***` now.
    pub incomplete: bool,
    /// The address names another host than the one that answered.
    pub elsewhere: bool,
}

/// Looks, and asks whoever answers.
///
/// # Errors
/// When nobody could be asked. That nobody answered, or that a device does not tell its streams, is none.
pub fn discover(options: &DiscoverOptions) -> Result<Vec<Device>, ProbeError> {
    let found = ws_discovery::probe(options.place, options.time)?;
    tracing::info!(devices = found.len(), "devices answered");
    let mut devices: Vec<Device> = found.iter().map(describe).collect();
    name(&mut devices);
    let client = Client::new();
    let queue = Mutex::new(found.iter().zip(&mut devices));
    let next = || queue.lock().next();
    std::thread::scope(|scope| {
        for number in 0..AT_ONCE.min(found.len()) {
            let work = || {
                while let Some((found, device)) = next() {
                    if options.until.is_some_and(|until| Instant::now() >= until) {
                        device.error = Some("there was no time left to ask it: name its address alone".to_owned());
                        continue;
                    }
                    match client.streams(found, options.login.as_ref(), options.until) {
                        Ok(streams) => device.streams = streams,
                        Err(error) => {
                            tracing::warn!(device = device.address, %error, "it does not tell its streams");
                            device.error = Some(error.to_string());
                        }
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("discover-{number}"));
            if let Err(error) = thread.spawn_scoped(scope, work) {
                tracing::warn!(%error, "a thread less to ask devices with");
            }
        }
    });
    // Without any thread nobody was asked.
    while let Some((_, device)) = next() {
        device.error = Some("it was not asked: the system gives no thread".to_owned());
    }
    Ok(devices)
}

fn describe(found: &Found) -> Device {
    Device {
        name: soap::said(&found.scopes, "name"),
        address: found.sender.to_string(),
        xaddrs: found.xaddrs.iter().map(ToString::to_string).collect(),
        scopes: found.scopes.clone(),
        hardware: soap::said(&found.scopes, "hardware"),
        location: soap::said(&found.scopes, "location"),
        ..Device::default()
    }
}

/// Gives each device an id: its name, with its address where several have the same or where it has none. The same devices get the
/// same ids in any order.
fn name(devices: &mut [Device]) {
    let wish = |device: &Device| {
        let of = |text: &Option<String>| text.as_deref().map(plain_text::slug).filter(|slug| !slug.is_empty());
        of(&device.name).or_else(|| of(&device.hardware))
    };
    let mut wishes = BTreeMap::<String, usize>::new();
    for wish in devices.iter().filter_map(wish) {
        *wishes.entry(wish).or_default() += 1;
    }
    let mut ids = Ids::default();
    for device in devices {
        let address = device.address.replace(['.', ':'], "-");
        device.id = ids.take(&match wish(device) {
            Some(wish) if wishes.get(&wish) == Some(&1) => wish,
            wish => format!("{}-{address}", wish.as_deref().unwrap_or("camera")),
        });
    }
}

/// Ids that were given.
#[derive(Debug, Default)]
struct Ids(HashSet<String>);

impl Ids {
    /// `wish`, or the next thing to it that nobody has.
    fn take(&mut self, wish: &str) -> String {
        let cut = |length: usize| wish.get(..length).unwrap_or(wish).trim_end_matches('-');
        let mut id = cut(MAX_ID).to_owned();
        let mut number = 1_u32;
        while !self.0.insert(id.clone()) {
            number += 1;
            id = format!("{}-{number}", cut(MAX_ID - 8));
        }
        id
    }
}

/// The URL to try for a camera that does not tell its own.
fn guess(address: &str) -> String {
    let v6 = address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    if v6 { format!("rtsp://[{address}]:554/") } else { format!("rtsp://{address}:554/") }
}

/// Reads `data` as every answer of a device. What the fuzzers run: any bytes in, nothing out, no panic.
pub fn fuzz(data: &[u8]) {
    soap::fuzz(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: Option<&str>, address: &str) -> Device {
        Device { name: name.map(str::to_owned), address: address.to_owned(), ..Device::default() }
    }

    #[test]
    fn ids_are_names_where_these_are_unique_and_addresses_where_they_are_not() {
        let mut devices = [
            device(Some("Gate"), "10.0.0.1"),
            device(Some("IPC"), "10.0.0.2"),
            device(Some("ipc"), "10.0.0.3"),
            device(Some("停车场"), "10.0.0.4"),
            device(None, "fe80::1"),
            device(Some("ipc-10-0-0-2"), "10.0.0.5"),
        ];
        name(&mut devices);
        let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
        assert_eq!(
            ids,
            ["gate", "ipc-10-0-0-2", "ipc-10-0-0-3", "camera-10-0-0-4", "camera-fe80--1", "ipc-10-0-0-2-2"]
        );
    }

    #[test]
    fn ids_stay_unique_and_short_whatever_is_wished() {
        let mut ids = Ids::default();
        let long = "x".repeat(200);
        let all: HashSet<String> = (0..50).map(|_| ids.take(&long)).collect();
        assert!(all.len() == 50 && all.iter().all(|id| id.len() <= MAX_ID));
    }
}
