//! Words of strangers, made fit for a terminal, a YAML file and an id. Pure.

use std::net::IpAddr;

use url::{Host, Url};

use crate::platform::secret::is_secret_key;

/// Longest text of a device that is repeated.
const MAX_CHARS: usize = 200;
/// Longest part of an id that comes from a name; two of them and a number fit into an id's 64 characters.
const MAX_SLUG_CHARS: usize = 28;

/// `text` on one short line, without control characters (a terminal acts on them), direction marks (they make one text look like
/// another) and what YAML does not take.
pub(super) fn clean(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut plain = words.chars().filter(|c| is_plain(*c));
    let mut clean: String = plain.by_ref().take(MAX_CHARS).collect();
    if plain.next().is_some() {
        clean.push('…');
    }
    clean.trim().to_owned()
}

fn is_plain(c: char) -> bool {
    let format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'..='\u{10ffff}');
    !c.is_control() && !format
}

/// `text` in the characters of a stream id, or nothing where none of its own fit.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= MAX_SLUG_CHARS {
            break;
        }
    }
    slug.trim_matches(['-', '_']).to_owned()
}

/// The host of `url`, if it is written as an address.
pub(super) fn host(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        // The url crate reads addresses only in the schemes it knows; `rtsp` is none of them.
        Host::Domain(name) => name.parse().ok(),
    }
}

/// A URL that may be shown, and whether something was taken out of it without which it does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShownUrl {
    pub url: String,
    pub incomplete: bool,
}

/// `url` without credentials: user and password go, as they are configured apart. Some cameras write them into the path or the
/// query (`/user=admin_password=…_channel=1.sdp`); there `***` takes their place, also where the `password` itself stands.
pub(super) fn without_credentials(url: &Url, password: Option<&str>) -> ShownUrl {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have userinfo in the first place.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    let mut incomplete = false;
    let telling = |part: &str| {
        let pieces = part.split(['=', '&', ';', '_', '+', ':', '/']);
        let told = password.filter(|p| !p.is_empty());
        (part.contains('=') && is_secret_key(part))
            || told.is_some_and(|told| part == told || pieces.into_iter().any(|piece| decoded(piece) == told))
    };
    let path: Vec<&str> = url.path().split('/').collect();
    if path.iter().any(|part| telling(part)) {
        let hidden: Vec<&str> = path.into_iter().map(|part| if telling(part) { "***" } else { part }).collect();
        shown.set_path(&hidden.join("/"));
        incomplete = true;
    }
    if let Some(query) = url.query() {
        let parts: Vec<&str> = query.split('&').map(|part| if telling(part) { "***" } else { part }).collect();
        incomplete |= parts.contains(&"***");
        shown.set_query(Some(&parts.join("&")));
    }
    ShownUrl { url: shown.to_string(), incomplete }
}

/// Undoes percent-encoding.
pub(super) fn decoded(text: &str) -> String {
    // A form would read `+` as a space and `&` as an end.
    let query = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(query.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_and_line_breaks_of_a_name_do_not_survive() {
        assert_eq!(clean("Dock\u{1b}]0;owned\u{7}\n- id: x\u{9b}2J\u{202e}!\u{2028}"), "Dock]0;owned - id: x2J!");
        assert_eq!(clean(&"é".repeat(300)), format!("{}…", "é".repeat(200)));
    }

    #[test]
    fn ids_keep_what_can_be_read() {
        assert_eq!(slug("  Dock Camera #3 (north)"), "dock-camera-3-north");
        assert_eq!(slug("停车场"), "");
        assert_eq!(slug("__--x--__"), "x");
    }

    #[test]
    fn credentials_leave_a_url_wherever_they_stand() {
        let shown = |url: &str| {
            let shown = without_credentials(&url.parse().unwrap(), Some("hunter2"));
            (shown.url, shown.incomplete)
        };
        let whole = |url: &str| (url.to_owned(), false);
        assert_eq!(shown("rtsp://admin:hunter2@10.0.0.1:554/a?channel=1"), whole("rtsp://10.0.0.1:554/a?channel=1"));
        let (url, incomplete) = shown("rtsp://10.0.0.1/user=admin_password=tlJwpbo6_channel=1.sdp?real_stream");
        assert!(incomplete && !url.contains("tlJ"), "{url}");
        let (url, incomplete) = shown("rtsp://10.0.0.1/a?usr=admin&pwd=abc&channel=1");
        assert!(incomplete && url.ends_with("/a?usr=admin&***&channel=1"), "{url}");
        let (url, incomplete) = shown("rtsp://10.0.0.1/admin/hunter2/1?x=hunter2");
        assert!(incomplete && !url.contains("hunter2"), "{url}");
        let (url, incomplete) = shown("rtsp://10.0.0.1/a?x=hunter%32");
        assert!(incomplete && !url.contains("hunter"), "{url}");
    }

    #[test]
    fn addresses_are_told_from_names_in_every_scheme() {
        let host = |url: &str| host(&url.parse().unwrap());
        assert_eq!(host("rtsp://10.0.0.1:554/a"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(host("http://[fe80::1]/"), Some("fe80::1".parse().unwrap()));
        assert_eq!(host("http://camera.local/"), None);
    }

    proptest! {
        #[test]
        fn slugs_are_made_of_the_characters_of_an_id(text in "\\PC*") {
            let slug = slug(&text);
            prop_assert!(slug.len() <= MAX_SLUG_CHARS);
            prop_assert!(slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-'));
        }

        #[test]
        fn clean_text_is_one_line_without_control_characters(text in any::<String>()) {
            let clean = clean(&text);
            prop_assert!(!clean.chars().any(char::is_control) && clean.lines().count() <= 1);
        }
    }
}
