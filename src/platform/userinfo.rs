//! User and password in front of an address's host, as people write them.
//!
//! In: text from the configuration, the command line, the environment or a device. Out: a [`Url`] that means the same to every library, or
//! why there is none. A password with `/`, `?` or `#` in it ends the host early: to a parser `rtsp://admin:12/34@camera/` is the host
//! `admin` and a path, which is shown, logged and asked for. Nobody can tell that from a port and a path with an `@` in it,
//! so neither is taken. Without a colon in front there is no password, and an `@` behind the host is only told by `check`.
//! Pure, but for what it makes known to [`secret`](crate::platform::secret). Any thread.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::path::Path;

use url::{ParseError, Position, Url};

use crate::platform::secret;

/// Why a text is no address that can be used. Does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("is not a valid URL ({0})")]
    NoUrl(ParseError),
    #[error("has an `@` behind its host, which may be the end of a password with a `/`, `?` or `#` in it")]
    Unclear,
}

/// What to do about [`Unfit::Unclear`] where there are keys for user and password.
pub const REMEDY: &str = "put user and password under `username` and `password`, or write / as %2F, ? as %3F, # as %23 and \\ as %5C in them; \
                          an @ that belongs to the path or query is %40";

/// Parses an address. What may be a password of one that is refused is known from then on, so that no message shows it.
///
/// # Errors
/// Text that is no URL, or is none that everybody would understand alike.
pub fn parse(text: &str) -> Result<Url, Unfit> {
    let text = text.trim();
    let parsed = Url::parse(text);
    let unclear = match &parsed {
        Ok(url) => has_at_behind_host(url) && may_hold_password(text),
        // What should be the host is none, or its port is no number.
        Err(_) => {
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            rest.find(['/', '?', '#', '\\']).is_some_and(|end| rest[end..].contains('@'))
        }
    };
    // Where a user has a slash in it there may be a password too.
    if unclear || parsed.as_ref().map_or(true, has_at_behind_host) {
        remember(text);
    }
    if unclear { Err(Unfit::Unclear) } else { parsed.map_err(Unfit::NoUrl) }
}

/// Whether an `@` stands behind the host of `url`: what was meant as its user and password may end there.
pub fn has_at_behind_host(url: &Url) -> bool {
    url[Position::BeforePath..].contains('@')
}

/// Whether what a parser takes for user, host and port of `text` has a colon that does not follow an IP address: a password may follow it,
/// which a `/` cuts short. A parsed URL does not tell, as it leaves the usual port out.
fn may_hold_password(text: &str) -> bool {
    let rest = text.split_once(':').map_or(text, |(_, rest)| rest).trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    // Numbers are a host for certain, those in brackets too, and a port behind them is no password.
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    if host.parse::<Ipv4Addr>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    authority.split('[').next().is_some_and(|before| before.contains(':'))
}

/// Makes known what may be a password in `text`, somebody's argument, if it may be an address: also one whose scheme is left out, or
/// badly written.
pub fn remember_argument(text: &str) {
    remember(text);
    if let Some(userinfo) = userinfo_without_scheme(text) {
        secret::holds_one(userinfo);
        for (colon, _) in userinfo.match_indices(':') {
            let password = userinfo[colon + 1..].trim_start_matches(['/', '\\']);
            secret::holds_one(password);
            secret::holds_one(&percent_decode(password));
        }
    }
}

/// What may be user and password in `text`, an address that does not begin with a scheme and `://`: up to the last `@`, from the last slash in front of the first colon.
fn userinfo_without_scheme(text: &str) -> Option<&str> {
    let colon = text.find(':').filter(|colon| !text[*colon..].starts_with("://"))?;
    let start = text[..colon].rfind(['/', '\\']).map_or(0, |slash| slash + 1);
    let end = text.rfind('@').filter(|end| *end > colon)?;
    text.get(start..end)
}

/// Makes known what may be a password in any address of `text`, however much of it that is.
pub fn remember(text: &str) {
    for (at, mark) in text.match_indices("://") {
        let rest = &text[at + mark.len()..];
        for end in [rest.find('@'), rest.rfind('@')].into_iter().flatten() {
            // A user alone is no secret, and may be a word that the log needs.
            let Some((_, password)) = rest[..end].split_once(':') else { continue };
            secret::holds_one(&rest[..end]);
            secret::holds_one(password);
            secret::holds_one(&percent_decode(password));
        }
    }
}

/// `text` with `***` in the place of what may be user and password in `value`, an address whose scheme `text` need not repeat.
pub fn without(text: &str, value: &str) -> String {
    let start = value.find("//").map(|slashes| slashes + 2);
    let userinfo = start.zip(value.rfind('@')).and_then(|(start, end)| value.get(start..end));
    // What is shorter stands in other words too.
    let Some(userinfo) = userinfo.filter(|userinfo| userinfo.len() > 3 || userinfo.contains(':')) else {
        return text.to_owned();
    };
    text.replace(userinfo, "***").replace(&percent_decode(userinfo), "***")
}

/// `text` with `***` in the place of user and password of every address in it, as far as a space or a quote tells where one ends.
pub fn masked(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut done = 0;
    while let Some(found) = text[done..].find("://") {
        let start = done + found + 3;
        let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let end = text[start..].find(ends).map_or(text.len(), |length| start + length);
        out.push_str(&text[done..start]);
        done = start;
        if let Some(at) = text[start..end].rfind('@') {
            out.push_str("***");
            done = start + at;
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// A file's name as it may be shown: somebody may have written an address in its place. One that is there is called what it is called.
pub fn shown(file: &Path) -> String {
    let name = file.display().to_string();
    let masked = if name.contains("://") {
        masked(&without(&name, &name)).into_owned()
    } else if file.exists() {
        return name;
    } else {
        name
    };
    let masked = match userinfo_without_scheme(&masked) {
        Some(userinfo) if !userinfo.is_empty() => masked.replace(userinfo, "***"),
        _ => masked,
    };
    secret::scrub(&masked).into_owned()
}

/// Undoes percent-encoding. Sequences that are not two hex digits stay; bytes that are not UTF-8 become U+FFFD.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            // Two hex digits are at most 255.
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            (byte, ..) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_once() {
        assert_eq!(percent_decode("p%40ss%2Fword"), "p@ss/word");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%2540"), "%40");
        assert_eq!(percent_decode("%zz+a"), "%zz+a");
        assert_eq!(percent_decode("%C3%A9%"), "é%");
    }

    #[test]
    fn an_address_whose_password_may_go_on_behind_its_host_is_refused() {
        for unclear in [
            "rtsp://admin:1234/tail@host/stream",
            "rtsp://admin:1234#tail@host/stream",
            "rtsp://admin:1234?tail@host/stream",
            "rtsp://admin:word/tail@host/stream",
            "rtsp://admin:#tail@host/stream",
            "rtsp://admin:12@34/tail@host/stream",
            "rtsp:///admin:1234@host/stream",
            "http://admin:1234\\tail@host/",
            "http://admin:12\t34/ta il@host/",
            "https://host:443/a?mail=a@b",
            "http://admin:80/tail@host/",
            "http://10.0.0.1:12a4/tail@host/",
            "rtsp://user:word@[::1]/tail@host",
            "https://user:good@host/p@th",
            "mqtt://user:/@host",
        ] {
            assert_eq!(parse(unclear), Err(Unfit::Unclear), "{unclear}");
        }
        for (text, host, password) in [
            ("rtsp://admin:1234%2Ftail%23%3F%40%5C@host/stream", "host", Some("1234%2Ftail%23%3F%40%5C")),
            ("rtsp://admin:pa@ss@host/", "host", Some("pa%40ss")),
            ("rtsp://admin:pa\\ss@host/", "host", Some("pa%5Css")),
            ("rtsp://admin:pa ss@host/", "host", Some("pa%20ss")),
            (" https://host/a?mail=a%40b#c ", "host", None),
            ("rtsp://[::1]:554/a:b", "[::1]", None),
            // No colon, no password.
            ("rtsp://admin/tail@host/stream", "admin", None),
            ("https://hooks.example/x?email=ops@example.com", "hooks.example", None),
            ("rtsp://[::1]:554/a@b", "[::1]", None),
            ("rtsp://10.0.0.1:554/a@b", "10.0.0.1", None),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host_str(), url.password()), (Some(host), password), "{text}");
        }
        assert!(matches!(parse("rtsp://viewer:pw@host:port/"), Err(Unfit::NoUrl(_))));
    }

    #[test]
    fn what_is_refused_is_known_and_its_reason_does_not_repeat_it() {
        let error = parse("rtsp://admin:9876/M4rkTail@host/").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("M4rkTail"));
        assert_eq!(secret::scrub("host 9876/M4rkTail and 9876%2FM4rkTail"), "host *** and ***");
    }

    #[test]
    fn what_may_be_an_address_without_a_scheme_is_known() {
        for (text, tail) in [
            ("admin:Zq7Bare@10.0.0.5/stream", "Zq7Bare"),
            ("rtsp:/admin:Zq7One@cam/x", "Zq7One"),
            ("rtsp//admin:Zq7None@cam/x", "Zq7None"),
            ("http:\\\\admin:Zq7Back@cam", "Zq7Back"),
            ("--url=admin:Zq7Option@cam", "Zq7Option"),
            ("admin:Zq7%20x/y@z@cam", "Zq7 x/y@z"),
        ] {
            remember_argument(text);
            assert_eq!(secret::scrub(&format!("no {tail} here")), "no *** here", "{text}");
        }
        for text in ["", ":", "@", "a@b:c", "rtsp://a:b@c", "10:30", "/srv/me@home.png"] {
            assert_eq!(userinfo_without_scheme(text), None, "{text}");
        }
    }

    #[test]
    fn users_and_passwords_are_taken_out_of_every_address_in_a_text() {
        for (text, shown) in [
            ("cannot open rtsp://a:b@h/x: no", "cannot open rtsp://***@h/x: no"),
            ("rtsp://a:b/c#d?e@h", "rtsp://***@h"),
            ("\"location=rtsp://a:b@h\" and 'http://u@k'", "\"location=rtsp://***@h\" and 'http://***@k'"),
            ("rtsp://a:b@c@h/x@y", "rtsp://***@y"),
            ("nothing@all http://h/x mail a@b", "nothing@all http://h/x mail a@b"),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown);
            assert_eq!(masked(&masked(text)), shown, "once is enough");
        }
    }

    #[test]
    fn what_is_said_of_an_address_repeats_nothing_of_its_user_and_password() {
        let value = "file://a:b c'%2Fd@e@h/x";
        assert_eq!(without("/etc/a:b c'%2Fd@e@h/x and a:b c'/d@e", value), "/etc/***@h/x and ***");
        assert_eq!(without("a@b", "a@b"), "a@b");
        assert_eq!(without("a bad one", "//a@b"), "a bad one");
        assert_eq!(shown(Path::new("/x/rtsp://u:a b'c@d/e@h/y")), "/x/rtsp://***@h/y");
        assert_eq!(shown(Path::new("/srv/me@home.png")), "/srv/me@home.png");
        assert_eq!(shown(Path::new("/srv//me@home.png")), "/srv//me@home.png");
        assert_eq!(shown(Path::new("admin:Zq7a@10.0.0.5/stream")), "***@10.0.0.5/stream");
        assert_eq!(shown(Path::new("/srv/rtsp:/admin:Zq7a@h/x")), "/srv/***@h/x");
        let folder = tempfile::tempdir().unwrap();
        for name in ["12:30@gate.png", "a//b@c.png"] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            assert_eq!(shown(&file), file.display().to_string());
        }
        assert_eq!(without("x@y//z", "x@y//z"), "x@y//z");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_address_keeps_its_user(text in "\\PC{0,40}", user in "[a-z:/?#@%]{1,12}") {
            let _ = (parse(&text), masked(&text), percent_decode(&text), without(&text, &text));
            remember_argument(&text);
            let _ = shown(Path::new(&text));
            let secret = format!("Zq7{user}Xk9");
            let shown = masked(&format!("x://{secret}@h {text}")).into_owned();
            proptest::prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
