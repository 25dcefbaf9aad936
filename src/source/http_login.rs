//! How a web server is told who asks: basic and digest authentication (RFC 7617, RFC 7616). Pure.
//!
//! In: a challenge (`WWW-Authenticate`), the credentials, a request. Out: the header `Authorization`. Digests are what many cameras insist on; MD5 is what they
//! know, GLib has it.

use gstreamer::glib::{ChecksumType, compute_checksum_for_data};

/// What a server wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    Basic,
    Digest(Digest),
}

/// One nonce, and how often it has been used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    sha256: bool,
    /// The server knows `qop=auth`.
    counted: bool,
    count: u32,
}

/// Longer challenges are none.
const MAX_CHALLENGE: usize = 4096;

impl Login {
    /// The best that is understood of all challenges of an answer.
    pub fn of<'a>(challenges: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for challenge in challenges.filter(|challenge| challenge.len() <= MAX_CHALLENGE) {
            let (scheme, rest) = challenge.trim().split_once(' ').unwrap_or((challenge.trim(), ""));
            if scheme.eq_ignore_ascii_case("digest") {
                // Whatever it knows first.
                if !matches!(best, Some(Self::Digest(_))) {
                    best = Digest::of(rest).map(Self::Digest).or(best);
                }
            } else if scheme.eq_ignore_ascii_case("basic") && best.is_none() {
                best = Some(Self::Basic);
            }
        }
        best
    }

    /// The header for a GET of `path`.
    pub fn header(&mut self, user: &str, password: &str, path: &str, chance: &str) -> String {
        match self {
            Self::Basic => {
                use base64::prelude::{BASE64_STANDARD, Engine as _};
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
            }
            Self::Digest(digest) => digest.header(user, password, path, chance),
        }
    }
}

impl Digest {
    fn of(parameters: &str) -> Option<Self> {
        let all = parameters_of(parameters);
        let value =
            |name: &str| all.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let algorithm = value("algorithm").unwrap_or_else(|| "MD5".to_owned());
        let sha256 = algorithm.eq_ignore_ascii_case("SHA-256");
        if !sha256 && !algorithm.eq_ignore_ascii_case("MD5") {
            return None;
        }
        let counted = match value("qop") {
            Some(kinds) if kinds.split(',').any(|kind| kind.trim().eq_ignore_ascii_case("auth")) => true,
            Some(_) => return None,
            None => false,
        };
        let (realm, nonce, opaque) = (value("realm")?, value("nonce")?, value("opaque"));
        Some(Self { realm, nonce, opaque, sha256, counted, count: 0 })
    }

    fn hash(&self, text: &str) -> String {
        let kind = if self.sha256 { ChecksumType::Sha256 } else { ChecksumType::Md5 };
        compute_checksum_for_data(kind, text.as_bytes()).map(String::from).unwrap_or_default()
    }

    fn header(&mut self, user: &str, password: &str, path: &str, chance: &str) -> String {
        self.count = self.count.wrapping_add(1);
        let secret = self.hash(&format!("{user}:{}:{password}", self.realm));
        let request = self.hash(&format!("GET:{path}"));
        let (nonce, count) = (&self.nonce, format!("{:08x}", self.count));
        let response = self.hash(&match self.counted {
            true => format!("{secret}:{nonce}:{count}:{chance}:auth:{request}"),
            false => format!("{secret}:{nonce}:{request}"),
        });
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut header = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{path}\", response=\"{response}\", algorithm={}",
            quoted(user),
            quoted(&self.realm),
            quoted(nonce),
            if self.sha256 { "SHA-256" } else { "MD5" },
        );
        if self.counted {
            header += &format!(", qop=auth, nc={count}, cnonce=\"{chance}\"");
        }
        if let Some(opaque) = &self.opaque {
            header += &format!(", opaque=\"{}\"", quoted(opaque));
        }
        header
    }
}

/// `a="b", c=d` as pairs.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let (mut pairs, mut rest) = (Vec::new(), text);
    while let Some((name, behind)) = rest.split_once('=') {
        let name = name.trim_start_matches([',', ' ', '\t']).trim().to_owned();
        let behind = behind.trim_start();
        let value = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (mut value, mut escaped, mut end) = (String::new(), false, quoted.len());
                for (at, letter) in quoted.char_indices() {
                    match letter {
                        '\\' if !escaped => escaped = true,
                        '"' if !escaped => {
                            end = at + 1;
                            break;
                        }
                        _ => {
                            value.push(letter);
                            escaped = false;
                        }
                    }
                }
                rest = quoted.get(end..).unwrap_or_default();
                value
            }
            None => {
                let end = behind.find(',').unwrap_or(behind.len());
                rest = behind.get(end..).unwrap_or_default();
                behind.get(..end).unwrap_or_default().trim().to_owned()
            }
        };
        pairs.push((name, value));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7616, 3.9.1.
    #[test]
    fn the_examples_of_the_standard_come_out() {
        let parameters = "realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=ALGORITHM, \
                          nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
        let chance = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let challenge = format!("Digest {}", parameters.replace("ALGORITHM", algorithm));
            let mut login = Login::of([challenge.as_str()].into_iter()).unwrap();
            let header = login.header("Mufasa", "Circle of Life", "/dir/index.html", chance);
            assert!(header.contains(&format!("response=\"{response}\"")) && header.contains("nc=00000001"), "{header}");
        }
    }

    #[test]
    fn digest_is_better_than_basic_and_what_nobody_knows_is_left_out() {
        let of = |challenges: &[&str]| Login::of(challenges.iter().copied());
        assert_eq!(of(&["Basic realm=\"x\""]), Some(Login::Basic));
        assert!(matches!(of(&["Basic realm=\"x\"", "Digest realm=\"x\", nonce=\"y\""]), Some(Login::Digest(_))));
        assert_eq!(of(&["Digest realm=\"x\", nonce=\"y\", algorithm=TOKEN", "Basic realm=x"]), Some(Login::Basic));
        assert_eq!(of(&["Bearer x"]), None);
    }

    proptest! {
        #[test]
        fn no_challenge_makes_it_fail(text in "[a-z\"\\\\=, é]{0,60}") {
            let challenge = format!("Digest realm=x, nonce=y, {text}");
            if let Some(mut login) = Login::of([challenge.as_str()].into_iter()) {
                login.header("u", "p", "/", "c");
            }
        }
    }
}
