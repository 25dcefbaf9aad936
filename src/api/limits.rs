//! How much one address may ask of the API: so many requests, so many connections. Pure: time is a parameter.
//!
//! Addresses are remembered in a bounded table; where it is full, the one that has been quiet for longest is forgotten, which gives
//! it a fresh start. Connections beyond the limits are closed at once, requests beyond them are told when to come back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Requests at once, after a while of quiet …
const BURST: f64 = 200.0;
/// … and a second, for ever. A browser with the page and a Prometheus ask for less than one.
const PER_SECOND: f64 = 50.0;
/// What a request with a wrong token costs: guessing is slower than asking.
const WRONG_TOKEN: f64 = 10.0;
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 1024;

/// Connections from this machine. A room of their own: others cannot keep its service manager out.
const MAX_LOCAL: usize = 64;
/// Connections from everywhere else …
const MAX_REMOTE: usize = 128;
/// … and from one address of it.
const MAX_REMOTE_EACH: usize = 16;

/// Whom a limit applies to: an address, or for IPv6 the network that one subscriber has.
pub fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let mut parts = address.segments();
            parts[4..].fill(0);
            IpAddr::from(parts)
        }
        address => address,
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    then: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.then).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(BURST);
        self.then = self.then.max(now);
    }
}

/// Requests of each address.
#[derive(Debug, Default)]
pub struct Rates(HashMap<IpAddr, Bucket>);

impl Rates {
    /// Takes a request of what `peer` has left; one that has none left may come back after the time that is returned.
    pub fn take(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let bucket = self.bucket(peer, now);
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / PER_SECOND));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// The request that was [taken](Self::take) came with a wrong token. What that costs beyond what is left is paid for later: else whoever
    /// has little left would guess at the price of asking.
    pub fn guessed(&mut self, peer: IpAddr, now: Instant) {
        self.bucket(peer, now).left -= WRONG_TOKEN - 1.0;
    }

    fn bucket(&mut self, peer: IpAddr, now: Instant) -> &mut Bucket {
        let peer = origin(peer);
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, bucket)| bucket.then).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        let bucket = self.0.entry(peer).or_insert(Bucket { left: BURST, then: now });
        bucket.fill(now);
        bucket
    }
}

/// Open connections of each address.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    local: usize,
    remote: usize,
    /// Those with at least one.
    each: HashMap<IpAddr, usize>,
}

impl ConnectionCounts {
    /// Whether one more may come; if so it has, and has to [`leave`](Self::leave).
    pub fn enter(&mut self, peer: IpAddr) -> bool {
        let peer = origin(peer);
        if peer.is_loopback() {
            let room = self.local < MAX_LOCAL;
            self.local += usize::from(room);
            return room;
        }
        let own = self.each.get(&peer).copied().unwrap_or(0);
        if self.remote >= MAX_REMOTE || own >= MAX_REMOTE_EACH {
            return false;
        }
        self.remote += 1;
        self.each.insert(peer, own + 1);
        true
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.local + self.remote
    }

    pub fn leave(&mut self, peer: IpAddr) {
        let peer = origin(peer);
        if peer.is_loopback() {
            self.local = self.local.saturating_sub(1);
            return;
        }
        self.remote = self.remote.saturating_sub(1);
        if let Some(own) = self.each.get_mut(&peer) {
            *own -= 1;
            if *own == 0 {
                self.each.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn served(rates: &mut Rates, peer: &str, now: Instant) -> usize {
        (0..1000).take_while(|_| rates.take(address(peer), now).is_ok()).count()
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_no_part_in_that_of_others() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(served(&mut rates, "192.0.2.1", start), 200);
        let wait = rates.take(address("192.0.2.1"), start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(20));
        assert!(rates.take(address("192.0.2.1"), start + wait).is_ok(), "it comes back when it was told to");
        assert_eq!(served(&mut rates, "192.0.2.1", start + wait + Duration::from_secs(1)), 50);
        assert_eq!(served(&mut rates, "192.0.2.2", start), 200);
        assert_eq!(served(&mut rates, "192.0.2.1", start + Duration::from_secs(3600)), 200, "no more than the burst");
    }

    #[test]
    fn wrong_tokens_are_slower_than_requests() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let peer = address("192.0.2.1");
        let guess = |rates: &mut Rates, now| rates.take(peer, now).map(|()| rates.guessed(peer, now)).is_ok();
        assert_eq!((0..1000).take_while(|_| guess(&mut rates, start)).count(), 20);
        let minute = (1..=6000_u32).filter(|tick| guess(&mut rates, start + Duration::from_millis(10) * *tick));
        assert!((295..=305).contains(&minute.count()), "five a second, also for who has nothing left");
        assert_eq!(served(&mut rates, "192.0.2.2", start), 200, "nobody else pays for it");
    }

    #[test]
    fn a_subscribers_ipv6_network_is_one_and_so_are_both_spellings_of_an_ipv4_address() {
        assert_eq!(origin(address("2001:db8:1:2:3:4:5:6")), origin(address("2001:db8:1:2::1")));
        assert_ne!(origin(address("2001:db8:1:2::1")), origin(address("2001:db8:1:3::1")));
        assert_eq!(origin(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert!(origin(address("::1")).is_loopback() && origin(address("::ffff:127.0.0.1")).is_loopback());
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(served(&mut rates, "192.0.2.1", start), 200);
        for other in 0..5000_u32 {
            let peer = IpAddr::from((0x0a00_0000 + other).to_be_bytes());
            assert!(rates.take(peer, start + Duration::from_millis(u64::from(other))).is_ok());
        }
        assert_eq!(rates.0.len(), MAX_ADDRESSES);
    }

    #[test]
    fn others_cannot_take_the_places_of_this_machine() {
        let mut places = ConnectionCounts::default();
        let mut crowd = 0;
        for host in 0..=255_u8 {
            while places.enter(IpAddr::from([198, 51, 100, host])) {
                crowd += 1;
            }
        }
        assert_eq!(crowd, MAX_REMOTE);
        assert_eq!(places.each.values().max(), Some(&MAX_REMOTE_EACH));
        let local =
            std::iter::repeat_with(|| places.enter(address("127.0.0.1"))).take_while(|entered| *entered).count();
        assert_eq!(local, MAX_LOCAL);

        places.leave(IpAddr::from([198, 51, 100, 0]));
        assert!(places.enter(IpAddr::from([198, 51, 100, 200])) && !places.enter(IpAddr::from([198, 51, 100, 201])));
        places.leave(address("127.0.0.1"));
        assert!(places.enter(address("::1")));
    }

    #[test]
    fn whoever_has_left_is_forgotten() {
        let mut places = ConnectionCounts::default();
        let peer = address("2001:db8::1");
        assert!(places.enter(peer) && places.enter(peer));
        places.leave(peer);
        places.leave(peer);
        assert!(places.each.is_empty() && places.remote == 0);
    }
}
