//! Which address a request is from where a proxy stands in front: the proxies that are believed, and `X-Forwarded-For`. Pure.
//!
//! Every proxy writes whom it was asked by at the end of the header's list, so it is read from its end: hops that are trusted themselves are
//! passed over, and the first that is not is who asks. What stands before that one anybody can write; it is never looked at.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::HeaderMap;
use serde::{Serialize, Serializer};

/// Hops that are looked at. More proxies stand behind one another nowhere.
const HOPS: usize = 32;

/// An address, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The number whose first bits are the address's.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl AddressRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let differing = number(self.first) ^ number(address);
        self.first.is_ipv4() == address.is_ipv4() && differing.leading_zeros() >= u32::from(self.bits)
    }

    /// Whether it is every address there is.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self { first, bits: width(first) }
    }
}

impl FromStr for AddressRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) if bits.bytes().all(|b| b.is_ascii_digit()) => (address, Some(bits)),
            Some(_) => return Err(()),
        };
        let written: IpAddr = address.parse().map_err(|_| ())?;
        let bits = bits.map_or(Ok(width(written)), |bits| bits.parse().map_err(|_| ()))?;
        // An IPv4 address may be written as IPv6 writes it.
        let first = written.to_canonical();
        let bits = if first.is_ipv4() && written.is_ipv6() { bits.checked_sub(96).ok_or(())? } else { bits };
        if bits > width(first) {
            return Err(());
        }
        Ok(Self { first, bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits {
            bits if bits == width(self.first) => write!(f, "{}", self.first),
            bits => write!(f, "{}/{bits}", self.first),
        }
    }
}

/// Whether `address` is one of `trusted`.
pub(super) fn is_trusted(trusted: &[AddressRange], address: IpAddr) -> bool {
    trusted.iter().any(|range| range.contains(address))
}

/// Who asks through `peer`: itself, unless it is trusted and says whom it was asked by. Where what it says cannot be read, it is the proxy.
pub(super) fn client(trusted: &[AddressRange], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(trusted, peer) {
        return peer;
    }
    let mut client = peer;
    // Several lines are one list (RFC 9110).
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for (seen, hop) in hops.enumerate() {
        let hop = hop.trim_ascii();
        if hop.is_empty() && seen < HOPS {
            continue;
        }
        let Some(address) = address(hop).filter(|_| seen < HOPS) else { return peer };
        client = address;
        if !is_trusted(trusted, address) {
            break;
        }
    }
    client
}

/// An address as proxies write it: some add the port, and IPv6 then needs brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = str::from_utf8(hop).ok()?;
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']'));
    let address: IpAddr = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().ok()?.into(),
        None => hop.parse().or_else(|_| hop.parse::<std::net::SocketAddr>().map(|socket| socket.ip())).ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<AddressRange> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_range_is_an_address_or_a_network_in_either_family() {
        for (range, inside, outside) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::1", "::1", "127.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
        ] {
            let parsed: AddressRange = range.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{range} {outside}");
        }
        for wrong in [
            "",
            "proxy",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/8",
            "10.0.0.1:80",
        ] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
        let shown: Vec<String> = ranges(&["10.0.0.0/8", "::1"]).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "::1"]);
    }

    fn asked(peer: &str, lines: &[&[u8]]) -> String {
        let trusted = ranges(&["10.0.0.0/8", "127.0.0.1", "::1"]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", axum::http::HeaderValue::from_bytes(line).unwrap());
        }
        client(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn who_asks_is_the_last_hop_that_is_no_trusted_proxy() {
        for (peer, lines, who) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &[&b"203.0.113.5"[..]], "203.0.113.5"),
            ("::ffff:10.0.0.1", &[b"203.0.113.5"], "203.0.113.5"),
            ("127.0.0.1", &[b"198.51.100.9, 203.0.113.5, 10.0.0.9"], "203.0.113.5"),
            ("10.0.0.1", &[b"198.51.100.9", b"203.0.113.5", b" 10.0.0.9 ,10.0.0.8"], "203.0.113.5"),
            ("10.0.0.1", &[b"2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &[b"[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &[b"[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &[b"203.0.113.5:4711"], "203.0.113.5"),
            ("10.0.0.1", &[b"::ffff:203.0.113.5"], "203.0.113.5"),
            ("10.0.0.1", &[b"203.0.113.5,"], "203.0.113.5"),
            // Proxies alone: the first of them asks for itself.
            ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What stands before the client, the client wrote.
            ("10.0.0.1", &[b"127.0.0.1, <script>, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.1", &[b"\xff\xfe", b"203.0.113.5"], "203.0.113.5"),
        ] {
            assert_eq!(asked(peer, lines), who, "{peer} {lines:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed_and_nothing_that_cannot_be_read() {
        assert_eq!(asked("203.0.113.1", &[b"198.51.100.1"]), "203.0.113.1");
        assert_eq!(asked("2001:db8::1", &[b"198.51.100.1"]), "2001:db8::1");
        for wrong in
            [&b"unknown"[..], b"_hidden", b"203.0.113.5;", b"203.0.113", b"\xff", b"fe80::1%eth0", b"\"203.0.113.5\""]
        {
            assert_eq!(asked("10.0.0.1", &[wrong]), "10.0.0.1", "{wrong:?}");
            assert_eq!(asked("10.0.0.1", &[&[wrong, b", 10.0.0.2"].concat()]), "10.0.0.1", "{wrong:?}");
        }
        let endless = "10.0.0.2, ".repeat(1000);
        assert_eq!(asked("10.0.0.1", &[format!("203.0.113.5, {endless}10.0.0.2").as_bytes()]), "10.0.0.1");
        assert_eq!(asked("10.0.0.1", &[",".repeat(1000).as_bytes()]), "10.0.0.1");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_client_or_the_proxy(line in proptest::collection::vec(32_u8..=255, 0..200)) {
            let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 127).collect();
            asked("10.0.0.1", &[&line]);
        }
    }
}
