//! The probe: asks the local network who is a camera, by UDP, and collects the answers.
//!
//! In: where to ask and for how long. Out: the devices that answered, each once. One thread an interface, `probe-<address>`,
//! within a scope; they end with the time that was given. Full: what exceeds [`MOST_INTERFACES`], [`MOST_DEVICES`] or, from one
//! sender, [`MOST_OF_ONE`] is left out, and the log says so once. An answer counts only if it names our question and, where one
//! address was asked, comes from there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use url::Url;
use uuid::Uuid;

use super::soap::{self, Match};

/// WS-Discovery's group and port.
pub const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), PORT);
pub const PORT: u16 = 3702;
/// Networks that are asked at once.
const MOST_INTERFACES: usize = 32;
/// Devices in all. Whoever has more has several networks, and can ask each.
const MOST_DEVICES: usize = 512;
/// Devices behind one sender: a recorder that answers for its channels.
const MOST_OF_ONE: usize = 64;
/// Addresses and scopes that a device may add by answering again.
const MOST_WORDS: usize = 64;
/// Datagrams that are read from one interface.
const MOST_DATAGRAMS: usize = 20_000;
/// UDP's own limit.
const LARGEST: usize = 65_536;
/// Questions get lost: each is put again after this part of the time.
const AGAIN_AFTER: u32 = 3;

/// Where to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProbeTarget {
    /// The interface with this address alone; otherwise all with multicast.
    pub interface: Option<IpAddr>,
    /// One address instead of everybody.
    pub target: Option<SocketAddr>,
}

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("this machine has no network interface with IPv4 and multicast; name an address with --target")]
    NoInterface,
    #[error("{address} is no address of this machine; name one of its own with --interface")]
    NotOurs { address: IpAddr },
    #[error("cannot ask on {address}: {source}")]
    Socket { address: IpAddr, source: io::Error },
}

/// A device that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who sent the answer.
    pub sender: IpAddr,
    pub endpoint: String,
    pub xaddrs: Vec<Url>,
    pub scopes: Vec<String>,
}

/// Asks, and waits for answers for as long as `time`.
///
/// # Errors
/// When no interface could be asked on.
pub fn probe(place: ProbeTarget, time: Duration) -> Result<Vec<Found>, ProbeError> {
    let to = place.target.unwrap_or(GROUP);
    let from: Vec<IpAddr> = match (place.interface, place.target) {
        (Some(address), _) => vec![address],
        (None, Some(SocketAddr::V4(_))) => vec![Ipv4Addr::UNSPECIFIED.into()],
        (None, Some(SocketAddr::V6(_))) => vec![Ipv6Addr::UNSPECIFIED.into()],
        (None, None) => interfaces(),
    };
    if from.is_empty() {
        return Err(ProbeError::NoInterface);
    }
    let question = Question { ids: [Uuid::new_v4(), Uuid::new_v4()], to, only: place.target.map(|t| t.ip()) };
    let roll = Mutex::new(Roll::default());
    let deadline = Instant::now() + time;
    let results: Vec<Result<(), ProbeError>> = std::thread::scope(|scope| {
        let start = |address: &IpAddr| {
            let (address, question, roll) = (*address, &question, &roll);
            let work = move || question.ask(address, time, deadline, roll);
            let thread = std::thread::Builder::new().name(format!("probe-{address}"));
            thread.spawn_scoped(scope, work).map_err(|source| ProbeError::Socket { address, source })
        };
        let threads: Vec<_> = from.iter().map(start).collect();
        // A panic has been told on stderr.
        threads.into_iter().map(|thread| thread.and_then(|thread| thread.join().unwrap_or(Ok(())))).collect()
    });
    let asked = results.iter().filter(|result| result.is_ok()).count();
    for error in results.into_iter().filter_map(Result::err) {
        if asked == 0 {
            return Err(error);
        }
        tracing::warn!("{error}");
    }
    Ok(roll.into_inner().finish())
}

/// The IPv4 addresses of this machine's interfaces that are up and have multicast.
fn interfaces() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().inspect_err(|error| tracing::warn!(%error, "no list of interfaces"));
    let usable =
        found.into_iter().flatten().filter(|interface| interface.addr.ip().is_ipv4() && can_multicast(interface));
    let mut addresses: Vec<IpAddr> = usable.map(|interface| interface.addr.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MOST_INTERFACES {
        tracing::warn!(interfaces = addresses.len(), asked = MOST_INTERFACES, "too many; name one with --interface");
        addresses.truncate(MOST_INTERFACES);
    }
    addresses
}

/// Whether the interface is up, no loopback, and has multicast: tunnels often do not.
fn can_multicast(interface: &if_addrs::Interface) -> bool {
    // From linux/if.h.
    const MULTICAST: u32 = 0x1000;
    let flags = std::fs::read_to_string(format!("/sys/class/net/{}/flags", interface.name));
    let flags = flags.ok().and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
    // An alias such as `eth0:1` has no folder there; its interface has.
    !interface.is_loopback() && interface.is_oper_up() && flags.is_none_or(|flags| flags & MULTICAST != 0)
}

/// What is asked, of whom.
struct Question {
    /// One for each of [`soap::KINDS`].
    ids: [Uuid; 2],
    to: SocketAddr,
    /// Nobody else's answers count.
    only: Option<IpAddr>,
}

impl Question {
    fn ask(&self, address: IpAddr, time: Duration, deadline: Instant, roll: &Mutex<Roll>) -> Result<(), ProbeError> {
        // Linux sends multicast through the interface that has the socket's address, so binding is enough to choose one.
        let socket = UdpSocket::bind(SocketAddr::new(address, 0)).map_err(|source| match source.kind() {
            io::ErrorKind::AddrNotAvailable => ProbeError::NotOurs { address },
            _ => ProbeError::Socket { address, source },
        })?;
        let failed = |source| ProbeError::Socket { address, source };
        self.send(&socket).map_err(failed)?;
        let again = deadline - time + time / AGAIN_AFTER;
        let mut repeated = false;
        let mut buffer = vec![0; LARGEST];
        for _ in 0..MOST_DATAGRAMS {
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            if !repeated && now >= again {
                repeated = true;
                // The first ones have gone out.
                let _ = self.send(&socket);
            }
            let wait = (if repeated { deadline } else { again.min(deadline) }).saturating_duration_since(now);
            socket.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).map_err(failed)?;
            let (length, sender) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => continue,
                    // A closed port's answer to an earlier question.
                    io::ErrorKind::ConnectionRefused => continue,
                    _ => return Err(failed(error)),
                },
            };
            self.hear(&buffer[..length], sender.ip(), roll);
        }
        tracing::warn!(%address, "a flood of datagrams; not all were read");
        Ok(())
    }

    fn send(&self, socket: &UdpSocket) -> io::Result<()> {
        for (id, kind) in self.ids.iter().zip(soap::KINDS) {
            socket.send_to(soap::probe(*id, kind).as_bytes(), self.to)?;
        }
        Ok(())
    }

    fn hear(&self, bytes: &[u8], sender: IpAddr, roll: &Mutex<Roll>) {
        if self.only.is_some_and(|only| only != sender) {
            tracing::debug!(%sender, "it was not asked");
            return;
        }
        match soap::matches(bytes, &self.ids) {
            Ok(matches) => {
                let mut roll = roll.lock();
                matches.into_iter().for_each(|found| roll.add(sender, found));
            }
            Err(error) => tracing::debug!(%sender, %error, "an answer that cannot be read"),
        }
    }
}

/// Who has answered.
#[derive(Debug, Default)]
struct Roll {
    found: Vec<Found>,
    told: bool,
}

impl Roll {
    /// Notes an answer. A device that answers again, to the other question or through another network, adds to what it said.
    fn add(&mut self, sender: IpAddr, new: Match) {
        let same = |found: &&mut Found| match new.endpoint.as_str() {
            "" => found.endpoint.is_empty() && found.sender == sender,
            endpoint => found.endpoint == endpoint,
        };
        if let Some(known) = self.found.iter_mut().find(same) {
            extend(&mut known.xaddrs, new.xaddrs);
            extend(&mut known.scopes, new.scopes);
            return;
        }
        let of_one = self.found.iter().filter(|found| found.sender == sender).count();
        if self.found.len() >= MOST_DEVICES || of_one >= MOST_OF_ONE {
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(%sender, devices = self.found.len(), "too many devices; not all are listed");
            }
            return;
        }
        let Match { endpoint, xaddrs, scopes } = new;
        let mut found = Found { sender, endpoint, xaddrs: Vec::new(), scopes: Vec::new() };
        extend(&mut found.xaddrs, xaddrs);
        extend(&mut found.scopes, scopes);
        self.found.push(found);
    }

    fn finish(mut self) -> Vec<Found> {
        self.found.sort_by(|a, b| (a.sender, &a.endpoint).cmp(&(b.sender, &b.endpoint)));
        self.found
    }
}

fn extend<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) {
    for item in more {
        if known.len() < MOST_WORDS && !known.contains(&item) {
            known.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(endpoint: &str, xaddr: &str) -> Match {
        Match { endpoint: endpoint.into(), xaddrs: vec![xaddr.parse().unwrap()], scopes: vec!["onvif".into()] }
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn a_device_that_answers_twice_is_one_device() {
        let mut roll = Roll::default();
        roll.add(ip(2), device("urn:b", "http://10.0.0.2/"));
        roll.add(ip(1), device("urn:a", "http://10.0.0.1/"));
        roll.add(ip(2), device("urn:b", "http://10.0.0.2/"));
        roll.add(ip(3), device("urn:b", "https://10.0.0.2/"));
        let found = roll.finish();
        assert_eq!(found.iter().map(|f| f.endpoint.as_str()).collect::<Vec<_>>(), ["urn:a", "urn:b"]);
        assert_eq!((found[1].sender, found[1].xaddrs.len(), found[1].scopes.len()), (ip(2), 2, 1));
    }

    #[test]
    fn devices_without_a_name_of_their_own_are_told_apart_by_their_address() {
        let mut roll = Roll::default();
        for last in [1, 1, 2] {
            roll.add(ip(last), device("", "http://10.0.0.9/"));
        }
        assert_eq!(roll.finish().len(), 2);
    }

    #[test]
    fn a_flood_of_devices_stays_within_its_bounds_and_does_not_push_others_out() {
        let mut roll = Roll::default();
        for number in 0..10_000 {
            roll.add(ip(1), device(&format!("urn:{number}"), "http://10.0.0.1/"));
        }
        roll.add(ip(2), device("urn:honest", "http://10.0.0.2/"));
        let found = roll.finish();
        assert_eq!(found.len(), MOST_OF_ONE + 1);
        assert!(found.iter().any(|f| f.endpoint == "urn:honest"));
    }

    #[test]
    fn a_device_cannot_grow_by_answering_for_ever() {
        let mut roll = Roll::default();
        for number in 0..1000 {
            roll.add(ip(1), device("urn:a", &format!("http://10.0.0.1/{number}")));
        }
        assert_eq!(roll.finish()[0].xaddrs.len(), MOST_WORDS);
    }
}
