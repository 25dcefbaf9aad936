//! Which hosts `no_proxy` excepts from a proxy, in every form in which people write it: programs agree on none.
//!
//! In: the list, which is `no_proxy`, else `NO_PROXY`, the first of them that is not empty; a host and a port. Out: whether the host is gone to directly. Pure
//! but for the environment. Any thread.

use std::net::IpAddr;

use url::Url;

/// Whether the environment excepts the host of `url`.
pub fn excepts(url: &Url) -> bool {
    let list = ["no_proxy", "NO_PROXY"].iter().find_map(|name| {
        let list = std::env::var(name).ok()?;
        (!list.trim().is_empty()).then_some(list)
    });
    let host = url.host_str().unwrap_or_default();
    list.is_some_and(|list| is_excepted(&list, host, url.port_or_known_default()))
}

/// Whether `list`, divided by commas or blanks, has `host`.
fn is_excepted(list: &str, host: &str, port: Option<u16>) -> bool {
    let host = bare(host).to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let entries = list.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|entry| !entry.is_empty());
    entries.map(str::to_ascii_lowercase).any(|entry| fits(&entry, host, port))
}

fn fits(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, its_port) = without_port(entry);
    if its_port.is_some() && its_port != port {
        return false;
    }
    let address: Option<IpAddr> = host.parse().ok();
    if let (Some(address), Some((network, length))) = (address, entry.split_once('/')) {
        return bare(network).parse().is_ok_and(|network| is_within(address, network, length));
    }
    if let (Some(address), Ok(entry)) = (address, entry.parse::<IpAddr>()) {
        return address == entry;
    }
    // `10.`, `192.168.*`
    if let Some(beginning) = entry.strip_suffix('*').or_else(|| entry.ends_with('.').then_some(entry)) {
        return !beginning.is_empty() && host.starts_with(beginning);
    }
    let name = entry.trim_start_matches('*').trim_start_matches('.');
    // `lan`, `.lan` and `*.lan` are all that ends so; an address has no such ending.
    let ends = || host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    address.is_none() && !name.is_empty() && ends()
}

/// An entry, and the port that stands behind it: `cam.lan:8080`, `[fd00::1]:80`, but not `fd00::1`.
fn without_port(entry: &str) -> (&str, Option<u16>) {
    let divided = entry.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match divided.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (bare(host), Some(port)),
        None => (bare(entry), None),
    }
}

/// Without the brackets that an IPv6 address has in URLs.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether the first `length` bits of both are the same.
fn is_within(address: IpAddr, network: IpAddr, length: &str) -> bool {
    let Ok(length) = length.parse::<u32>() else { return false };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if length <= 32 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if length <= 128 => {
            let differ = address.to_bits() ^ network.to_bits();
            differ.checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_is_excepted_as_people_write_it() {
        for (list, host) in [
            ("*", "cam.lan"),
            ("example.org, cam.lan", "cam.lan"),
            ("example.org cam.lan", "cam.lan"),
            ("CAM.lan", "cam.LAN"),
            ("cam.lan", "cam.lan."),
            ("lan", "cam.lan"),
            (".lan", "cam.lan"),
            ("*.lan", "cam.lan"),
            ("*.lan", "lan"),
            ("cam.lan:8080", "cam.lan"),
            ("10.0.0.5", "10.0.0.5"),
            ("10.0.0.5:8080", "10.0.0.5"),
            ("10.", "10.0.0.5"),
            ("192.168.*", "192.168.1.2"),
            ("192.168.0.0/16", "192.168.1.2"),
            ("0.0.0.0/0", "192.168.1.2"),
            ("10.0.0.5/32", "10.0.0.5"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("fd00:0::1", "[fd00::1]"),
            ("[fd00::1]:8080", "[fd00::1]"),
            ("fd00::/8", "[fd12::1]"),
            ("[fd00::]/8", "[fd12::1]"),
        ] {
            assert!(is_excepted(list, host, Some(8080)), "{list}: {host}");
        }
    }

    #[test]
    fn another_host_is_not() {
        for (list, host) in [
            ("", "cam.lan"),
            (" , ", "cam.lan"),
            ("cam.lan", "webcam.lan"),
            ("cam.lan", "cam.lan.example.org"),
            ("cam.lan:80", "cam.lan"),
            ("[fd00::1]:80", "[fd00::1]"),
            ("0.1", "10.0.0.1"),
            ("1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.10"),
            ("192.168.0.0/16", "192.169.1.2"),
            ("192.168.0.0/16", "192.168.lan"),
            ("192.168.0.0/33", "192.168.0.0"),
            ("192.168.0.0/x", "192.168.0.0"),
            ("fd00::/8", "[fc00::1]"),
            ("fd00::/8", "10.0.0.1"),
            ("0.0.0.0/0", "[::1]"),
            (".", "cam.lan"),
            ("*.", "cam.lan"),
            ("**", "cam.lan"),
        ] {
            assert!(!is_excepted(list, host, Some(8080)), "{list}: {host}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(list in ".{0,40}", host in ".{0,20}") {
            is_excepted(&list, &host, None);
        }
    }
}
