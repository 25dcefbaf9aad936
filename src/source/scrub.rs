//! Addresses without credentials: how a place is written in messages, and what is taken out of GStreamer's own texts.
//!
//! Pure. In: a source's location and credentials. Out: text that may be logged (invariant 4).

use super::{Location, SourceSettings};
use crate::platform::secret::is_secret_key;
use crate::platform::secret::{self, Secret};
use crate::platform::userinfo::{self, percent_decode};
use crate::platform::zoned_url::ZonedUrl;

/// Takes a source's secrets out of text that libraries wrote.
#[derive(Clone, Debug, Default)]
pub(super) struct Scrubber {
    secrets: Vec<Secret>,
}

impl Scrubber {
    /// Scrubs the source's password and what its URL itself might carry: userinfo and the query (`?user=…&pwd=…`).
    pub fn new(settings: &SourceSettings) -> Self {
        let mut secrets: Vec<Secret> = credentials(settings).1.into_iter().collect();
        if let Some(url) = settings.location.url() {
            secrets.extend(url.password().map(Secret::new));
            secrets.extend(url.query().map(Secret::new));
            let pairs = url.query_pairs().filter(|(key, _)| is_secret_key(key));
            secrets.extend(pairs.map(|(_, value)| Secret::new(&*value)));
            secrets.extend(secret::in_path(url).map(Secret::new));
        }
        Self { secrets }
    }

    #[cfg(test)]
    pub fn of<const N: usize>(secrets: [Secret; N]) -> Self {
        Self { secrets: secrets.to_vec() }
    }

    /// `text` with `***` in place of every secret, and of what an address in it has before its host: a user's own pipeline may have one.
    pub fn scrub(&self, text: &str) -> String {
        let text = self.secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(&text));
        userinfo::masked(&text).into_owned()
    }
}

/// User and password: the settings' own, else those that the URL still carries (the configuration splits them off).
pub(super) fn credentials(settings: &SourceSettings) -> (Option<String>, Option<Secret>) {
    let (mut user, mut password) = (settings.username.clone(), settings.password.clone());
    if let Some(url) = settings.location.url() {
        if user.is_none() && !url.username().is_empty() {
            user = Some(percent_decode(url.username()));
        }
        password = password.or_else(|| url.password().map(|p| Secret::new(percent_decode(p))));
    }
    if let (Some(user), Some(password)) = (&user, &password) {
        secret::goes_with(user, password);
    }
    (user, password)
}

/// `url` without userinfo, query, fragment and path segments that carry a credential.
fn bare_url(url: &ZonedUrl) -> String {
    let bare = without_userinfo(url).map(|url| {
        let mut url = secret::without_path(url);
        url.set_query(None);
        url.set_fragment(None);
        url
    });
    bare.to_string()
}

/// `url` as it is given to the source element, whose own properties carry the credentials.
pub(super) fn without_userinfo(url: &ZonedUrl) -> ZonedUrl {
    url.map(|url| {
        let mut url = url.clone();
        // Both fail only for URLs that cannot have userinfo in the first place.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url
    })
}

/// How a location is named in messages.
pub(super) fn place(settings: &SourceSettings) -> String {
    match &settings.location {
        Location::Rtsp(url) | Location::Http(url) | Location::Rtmp(url) | Location::Srt(url) | Location::Udp(url)
            if settings.host_alone =>
        {
            bare_url(&url.map(|url| {
                let mut url = url.clone();
                url.set_path("");
                url
            }))
        }
        Location::Rtsp(url) | Location::Http(url) | Location::Rtmp(url) | Location::Srt(url) | Location::Udp(url) => {
            bare_url(url)
        }
        Location::Push(name) => format!("push://{name}"),
        Location::File(path) | Location::V4l2(path) | Location::Template(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_shows_no_userinfo_and_no_query() {
        let url = ZonedUrl::parse("rtsp://admin:hunter2@10.0.0.1:8554/cam?user=admin&pwd=hunter3#x").unwrap();
        let of = |url| SourceSettings { location: Location::Rtsp(url), ..settings("http://a", None) };
        assert_eq!(place(&of(url.clone())), "rtsp://10.0.0.1:8554/cam");
        let alone = SourceSettings { host_alone: true, ..of(url) };
        assert_eq!(place(&alone), "rtsp://10.0.0.1:8554");
        let url = ZonedUrl::parse("rtsp://10.0.0.1/user=admin_password=hunter2_channel=1.sdp").unwrap();
        assert_eq!(place(&of(url)), "rtsp://10.0.0.1/***");
    }

    fn settings(url: &str, password: Option<&str>) -> SourceSettings {
        SourceSettings {
            id: "a".into(),
            location: Location::Http(ZonedUrl::parse(url).unwrap()),
            username: None,
            password: password.map(Secret::new),
            password_file: None,
            pace: crate::source::Pace::Live,
            looped: false,
            decode: crate::source::Decode::Auto,
            decoder: crate::source::Decoder::Auto,
            max_pixels: None,
            any_codec: false,
            templates: "pipelines".into(),
            reconnect: crate::source::Reconnect::default(),
            transport: crate::source::Transport::default(),
            tls: crate::source::CameraTls::default(),
            push: None,
            host_alone: false,
        }
    }

    #[test]
    fn library_texts_lose_the_password_and_the_query() {
        let scrubber = Scrubber::new(&settings("http://h/cam?pwd=hunter3", Some("hunter2")));
        assert_eq!(scrubber.scrub("http://h/cam?pwd=hunter3 with hunter2"), "http://h/cam?*** with ***");
    }

    #[test]
    fn credentials_in_a_url_are_used_and_scrubbed_in_both_spellings() {
        let settings = settings("http://viewer:p%40s+s&word@h/cam", None);
        let (user, password) = credentials(&settings);
        assert_eq!((user.as_deref(), password.as_ref().map(Secret::expose)), (Some("viewer"), Some("p@s+s&word")));
        let text = Scrubber::new(&settings).scrub("p@s+s&word and p%40s+s&word");
        assert_eq!(text, "*** and ***");
    }
}
