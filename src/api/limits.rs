//! How much one address may ask of the API: so many requests, so many wrong tokens, so many connections. Pure: time is a parameter.
//!
//! Addresses are remembered in a bounded table; where it is full, the one that has been quiet for longest is forgotten, which gives
//! it a fresh start. Requests beyond the limits are told when to come back; connections beyond them have no place (`serve.rs` says what
//! becomes of those).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Requests at once, after a while of quiet …
const BURST: f64 = 200.0;
/// … and a second, for ever. A browser with the page and a Prometheus ask for less than one.
const PER_SECOND: f64 = 50.0;
/// The same for wrong tokens: a person who mistypes and a script with an old token make fewer.
const WRONG_BURST: f64 = 20.0;
const WRONG_PER_SECOND: f64 = 5.0;
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 1024;

/// Connections from this machine. A room of their own: others cannot keep its service manager out.
const MAX_LOCAL: usize = 64;
/// Connections from everywhere else …
const MAX_REMOTE: usize = 128;
/// … and from one address of it.
const MAX_REMOTE_EACH: usize = 16;
/// Connections that carry a live stream, wherever they come from …
const MAX_LIVE: usize = 64;
/// … and for one address that is not this machine.
const MAX_LIVE_EACH: usize = 16;

/// Pictures that are taken in at the same time.
pub const MAX_PICTURES: usize = 4;

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

/// What a request is paid from. Each address has all three, so that nobody who lacks the token can use up what the token is good for, not even
/// from the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Requests that may be answered: the right token, or none where none is needed.
    Entitled,
    /// Requests that anybody may make.
    Open,
    /// Requests with a wrong token, or none where one is needed.
    WrongToken,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    burst: f64,
    per_second: f64,
    left: f64,
    then: Instant,
}

impl Bucket {
    fn full(burst: f64, per_second: f64, now: Instant) -> Self {
        Self { burst, per_second, left: burst, then: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.then).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.then = self.then.max(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second));
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// What one address has left.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    entitled: Bucket,
    open: Bucket,
    wrong_token: Bucket,
    then: Instant,
}

/// Requests of each address.
#[derive(Debug, Default)]
pub struct Rates(HashMap<IpAddr, Buckets>);

impl Rates {
    /// Takes a request of what `peer` has left in `budget`; where there is nothing left, the time after which there is.
    pub fn take(&mut self, peer: IpAddr, budget: Budget, now: Instant) -> Result<(), Duration> {
        let buckets = self.buckets(peer, now);
        match budget {
            Budget::Entitled => &mut buckets.entitled,
            Budget::Open => &mut buckets.open,
            Budget::WrongToken => &mut buckets.wrong_token,
        }
        .take(now)
    }

    fn buckets(&mut self, peer: IpAddr, now: Instant) -> &mut Buckets {
        let peer = origin(peer);
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, buckets)| buckets.then).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        let requests = Bucket::full(BURST, PER_SECOND, now);
        let wrong_token = Bucket::full(WRONG_BURST, WRONG_PER_SECOND, now);
        let buckets =
            self.0.entry(peer).or_insert(Buckets { entitled: requests, open: requests, wrong_token, then: now });
        buckets.then = buckets.then.max(now);
        buckets
    }
}

/// Connections of one kind.
#[derive(Debug, Default)]
struct Pool {
    taken: usize,
    /// Addresses with at least one.
    each: HashMap<IpAddr, usize>,
}

impl Pool {
    fn enter(&mut self, origin: IpAddr, most: usize, most_each: usize) -> bool {
        let own = self.each.get(&origin).copied().unwrap_or(0);
        if self.taken >= most || own >= most_each {
            return false;
        }
        self.taken += 1;
        self.each.insert(origin, own + 1);
        true
    }

    fn leave(&mut self, origin: IpAddr) {
        let Some(own) = self.each.get_mut(&origin) else { return };
        self.taken = self.taken.saturating_sub(1);
        *own -= 1;
        if *own == 0 {
            self.each.remove(&origin);
        }
    }
}

/// A connection's place, which it has to [give back](ConnectionCounts::leave).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    Local(IpAddr),
    Remote(IpAddr),
    Live(IpAddr),
    /// None of those that are counted: `serve.rs` has a few for when all are taken.
    Reserve,
}

/// Open connections of each address.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    local: Pool,
    remote: Pool,
    live: Pool,
}

impl ConnectionCounts {
    /// A place for one more connection of `peer`; one that speaks `for_others` (a proxy) may have as many as there are.
    pub fn enter(&mut self, peer: IpAddr, for_others: bool) -> Option<Seat> {
        let peer = origin(peer);
        if peer.is_loopback() {
            return self.local.enter(peer, MAX_LOCAL, MAX_LOCAL).then_some(Seat::Local(peer));
        }
        let each = if for_others { MAX_REMOTE } else { MAX_REMOTE_EACH };
        self.remote.enter(peer, MAX_REMOTE, each).then_some(Seat::Remote(peer))
    }

    /// A place for one more live stream for `client`.
    pub fn enter_live(&mut self, client: IpAddr) -> Option<Seat> {
        let client = origin(client);
        let each = if client.is_loopback() { MAX_LIVE } else { MAX_LIVE_EACH };
        self.live.enter(client, MAX_LIVE, each).then_some(Seat::Live(client))
    }

    pub fn leave(&mut self, seat: Seat) {
        match seat {
            Seat::Local(peer) => self.local.leave(peer),
            Seat::Remote(peer) => self.remote.leave(peer),
            Seat::Live(client) => self.live.leave(client),
            Seat::Reserve => {}
        }
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.local.taken + self.remote.taken + self.live.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn served(rates: &mut Rates, peer: &str, budget: Budget, now: Instant) -> usize {
        (0..1000).take_while(|_| rates.take(address(peer), budget, now).is_ok()).count()
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_no_part_in_that_of_others() {
        use Budget::Entitled;
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(served(&mut rates, "192.0.2.1", Entitled, start), 200);
        let wait = rates.take(address("192.0.2.1"), Entitled, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(20));
        assert!(rates.take(address("192.0.2.1"), Entitled, start + wait).is_ok(), "it comes back when it was told to");
        assert_eq!(served(&mut rates, "192.0.2.1", Entitled, start + wait + Duration::from_secs(1)), 50);
        assert_eq!(served(&mut rates, "192.0.2.2", Entitled, start), 200);
        let later = start + Duration::from_secs(3600);
        assert_eq!(served(&mut rates, "192.0.2.1", Entitled, later), 200, "no more than the burst");
    }

    #[test]
    fn what_one_budget_has_lost_the_others_of_the_address_still_have() {
        let all = [(Budget::Entitled, 200), (Budget::Open, 200), (Budget::WrongToken, 20)];
        for (used_up, most) in all {
            let (mut rates, start) = (Rates::default(), Instant::now());
            assert_eq!(served(&mut rates, "192.0.2.1", used_up, start), most);
            for (other, most) in all.into_iter().filter(|(other, _)| *other != used_up) {
                assert_eq!(served(&mut rates, "192.0.2.1", other, start), most, "{used_up:?} {other:?}");
            }
        }
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
        assert_eq!(served(&mut rates, "192.0.2.1", Budget::Entitled, start), 200);
        for other in 0..5000_u32 {
            let peer = IpAddr::from((0x0a00_0000 + other).to_be_bytes());
            assert!(rates.take(peer, Budget::Open, start + Duration::from_millis(u64::from(other))).is_ok());
        }
        assert_eq!(rates.0.len(), MAX_ADDRESSES);
    }

    #[test]
    fn others_cannot_take_the_places_of_this_machine() {
        let mut places = ConnectionCounts::default();
        let mut crowd = Vec::new();
        for host in 0..=255_u8 {
            crowd.extend(
                std::iter::repeat_with(|| places.enter(IpAddr::from([198, 51, 100, host]), false)).map_while(|s| s),
            );
        }
        assert_eq!(crowd.len(), MAX_REMOTE);
        assert_eq!(places.remote.each.values().max(), Some(&MAX_REMOTE_EACH));
        let local = std::iter::repeat_with(|| places.enter(address("127.0.0.1"), false)).map_while(|seat| seat);
        assert_eq!(local.count(), MAX_LOCAL);
        assert!(places.enter(address("::ffff:127.0.0.1"), false).is_none(), "another spelling of the same");

        places.leave(crowd[0]);
        assert!(places.enter(IpAddr::from([198, 51, 100, 200]), false).is_some());
        assert!(places.enter(IpAddr::from([198, 51, 100, 201]), false).is_none());
        places.leave(Seat::Local(address("127.0.0.1")));
        assert!(places.enter(address("::1"), false).is_some());
    }

    #[test]
    fn a_proxy_has_as_many_connections_as_there_are() {
        let mut places = ConnectionCounts::default();
        let proxy = address("10.0.0.1");
        assert_eq!(std::iter::repeat_with(|| places.enter(proxy, true)).map_while(|seat| seat).count(), MAX_REMOTE);
    }

    #[test]
    fn live_streams_take_no_place_of_others_and_have_no_more_than_their_own() {
        let mut places = ConnectionCounts::default();
        let far = address("2001:db8::1");
        let own = std::iter::repeat_with(|| places.enter_live(far)).map_while(|seat| seat).count();
        assert_eq!(own, MAX_LIVE_EACH);
        assert!(places.enter_live(address("2001:db8::2")).is_none(), "the same subscriber");
        let local = std::iter::repeat_with(|| places.enter_live(address("::1"))).map_while(|seat| seat).count();
        assert_eq!(own + local, MAX_LIVE);
        assert!(places.enter(far, false).is_some() && places.enter(address("::1"), false).is_some());
        places.leave(Seat::Live(origin(far)));
        assert_eq!(places.enter_live(address("198.51.100.1")), Some(Seat::Live(address("198.51.100.1"))));
    }

    #[test]
    fn whoever_has_left_is_forgotten() {
        let mut places = ConnectionCounts::default();
        let peer = address("2001:db8::1");
        let seats = [places.enter(peer, false).unwrap(), places.enter(peer, false).unwrap()];
        seats.into_iter().for_each(|seat| places.leave(seat));
        assert!(places.remote.each.is_empty() && places.remote.taken == 0);
    }
}
