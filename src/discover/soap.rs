//! What is said to devices and what they say: SOAP 1.2 envelopes out, answers read. Pure, any thread.
//!
//! WS-Discovery is the version of April 2005 that ONVIF's core specification asks for, user and password go as WS-Security's
//! `UsernameToken` with a digest. Answers come from strangers: they are read within [`DATAGRAM`] or [`BODY`], their lists within the
//! constants here, and every text in them is cleaned before it leaves this file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};
use url::Url;
use uuid::Uuid;

use super::plain_text::{clean, decoded};
use super::xml::{Element, Limits, Tree, Unreadable};
use crate::platform::secret::Secret;
use crate::platform::userinfo::{self, Unfit};

/// An answer to a probe: 64 KiB are some thousand elements.
pub(super) const DATAGRAM: Limits = Limits { nodes: 4096, depth: 32 };
/// An answer to a question; recorders list dozens of profiles with some hundred elements each.
pub(super) const BODY: Limits = Limits { nodes: 60_000, depth: 64 };
/// Devices in one answer. One is usual; recorders answer for their channels.
const MOST_MATCHES: usize = 64;
/// Addresses and scopes of a device.
const MOST_WORDS: usize = 64;
/// Profiles of a device that are asked about.
pub(super) const MOST_PROFILES: usize = 32;
/// A profile's token; ONVIF allows 64 characters.
const MAX_TOKEN_CHARS: usize = 256;

/// The kinds of device that are asked for: the one that cameras have always had, and the newer one of ONVIF's later profiles.
pub(super) const KINDS: [&str; 2] = ["dn:NetworkVideoTransmitter", "tds:Device"];

/// One device in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// What stays the same when the device moves; empty where it does not say.
    pub endpoint: String,
    /// Web addresses of its device service, without credentials.
    pub xaddrs: Vec<Url>,
    pub scopes: Vec<String>,
}

/// The probe for devices of `kind`.
pub(super) fn probe(id: Uuid, kind: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:w=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\" \
         xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\" xmlns:tds=\"http://www.onvif.org/ver10/device/wsdl\">\
         <e:Header><w:MessageID>uuid:{id}</w:MessageID>\
         <w:To e:mustUnderstand=\"true\">urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To>\
         <w:Action e:mustUnderstand=\"true\">http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</w:Action></e:Header>\
         <e:Body><d:Probe><d:Types>{kind}</d:Types></d:Probe></e:Body></e:Envelope>"
    )
}

/// The cameras in an answer to one of the probes `asked`; none in anything else.
///
/// # Errors
/// Bytes that are no answer at all.
pub(super) fn matches(bytes: &[u8], asked: &[Uuid]) -> Result<Vec<Match>, Unreadable> {
    let tree = Tree::parse(bytes, DATAGRAM)?;
    // Devices write `uuid:`, `urn:uuid:` or nothing before what they were asked with.
    let related = tree.first("Header").and_then(|header| header.find(&["RelatesTo"]));
    let related = related.and_then(|r| r.text().rsplit(':').next()?.trim().parse::<Uuid>().ok());
    if !related.is_some_and(|related| asked.contains(&related)) {
        return Ok(Vec::new());
    }
    Ok(tree.all("ProbeMatch").take(MOST_MATCHES).filter_map(one_match).collect())
}

fn one_match(element: Element<'_>) -> Option<Match> {
    let text = |name| element.descendants(name).next().map(Element::text).unwrap_or_default();
    let scopes: Vec<String> = text("Scopes").split_whitespace().take(MOST_WORDS).map(clean).collect();
    // Printers and computers answer probes that were not meant for them.
    let kinds = text("Types");
    let camera = kinds.contains("NetworkVideoTransmitter") || scopes.iter().any(|s| scope(s).is_some());
    let xaddrs = text("XAddrs").split_whitespace().take(MOST_WORDS).filter_map(web_address).collect();
    let endpoint = clean(element.find(&["EndpointReference", "Address"]).map(Element::text).unwrap_or_default());
    camera.then_some(Match { endpoint, xaddrs, scopes })
}

/// An address that a device says. One that may hold a password where none belongs is told and left out.
fn address(text: &str) -> Option<Url> {
    match userinfo::parse(text.get(..text.len().min(1024))?) {
        Ok(url) => Some(url),
        Err(error) => {
            if error == Unfit::Unclear {
                tracing::warn!(
                    "an address that a camera says of itself {error}; it is left out, add the camera by hand"
                );
            }
            None
        }
    }
}

/// An address for HTTP, without credentials; `None` for everything else.
pub(super) fn web_address(text: &str) -> Option<Url> {
    let mut url = address(text)?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return None;
    }
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    url.set_fragment(None);
    Some(url)
}

/// What stands behind `onvif://www.onvif.org/`.
fn scope(scope: &str) -> Option<&str> {
    const PREFIX: &str = "onvif://www.onvif.org/";
    let start = scope.get(..PREFIX.len())?;
    start.eq_ignore_ascii_case(PREFIX).then(|| &scope[PREFIX.len()..])
}

/// What the scopes of a device say under `key` (`name`, `hardware`, `location`), all of it.
pub(super) fn said(scopes: &[String], key: &str) -> Option<String> {
    let values = scopes.iter().filter_map(|s| scope(s)?.strip_prefix(key)?.strip_prefix('/'));
    let mut all: Vec<String> = values.map(|value| clean(&decoded(value))).filter(|value| !value.is_empty()).collect();
    all.dedup();
    (!all.is_empty()).then(|| clean(&all.join(", ")))
}

/// User and password, ready to be proven.
#[derive(Clone, Debug)]
pub struct OnvifLogin {
    pub username: String,
    /// Left out: an empty one, as some cameras come.
    pub password: Option<Secret>,
}

impl OnvifLogin {
    /// WS-Security 1.0, UsernameToken profile, 3.1: base64(SHA-1(nonce + created + password)).
    fn digest(&self, nonce: &[u8], created: &str) -> String {
        let password = self.password.as_ref().map(Secret::expose).unwrap_or_default();
        let digest = Sha1::new().chain_update(nonce).chain_update(created).chain_update(password).finalize();
        BASE64.encode(digest)
    }

    fn header(&self, nonce: &[u8; 16], created: &str) -> String {
        format!(
            "<e:Header><s:Security xmlns:s=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd\" \
             e:mustUnderstand=\"1\"><s:UsernameToken><s:Username>{}</s:Username>\
             <s:Password Type=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest\">{}</s:Password>\
             <s:Nonce EncodingType=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary\">{}</s:Nonce>\
             <u:Created xmlns:u=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd\">{created}</u:Created>\
             </s:UsernameToken></s:Security></e:Header>",
            escape(&self.username),
            self.digest(nonce, created),
            BASE64.encode(nonce),
        )
    }
}

fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

/// A question to a device. Each is one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    Clock,
    Services,
    Capabilities,
    Profiles(Media),
    StreamUri(Media, &'a str),
}

/// The two media services. The second is the one that knows H.265.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    One,
    Two,
}

impl Media {
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::One => "http://www.onvif.org/ver10/media/wsdl",
            Self::Two => "http://www.onvif.org/ver20/media/wsdl",
        }
    }
}

impl Question<'_> {
    fn service(self) -> &'static str {
        match self {
            Self::Clock | Self::Services | Self::Capabilities => "http://www.onvif.org/ver10/device/wsdl",
            Self::Profiles(media) | Self::StreamUri(media, _) => media.namespace(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Clock => "GetSystemDateAndTime",
            Self::Services => "GetServices",
            Self::Capabilities => "GetCapabilities",
            Self::Profiles(_) => "GetProfiles",
            Self::StreamUri(..) => "GetStreamUri",
        }
    }

    /// The request's media type, which carries the action.
    pub fn content_type(self) -> String {
        format!("application/soap+xml; charset=utf-8; action=\"{}/{}\"", self.service(), self.name())
    }

    /// The request. With `login`, signed with `nonce` for the time `created`.
    pub fn envelope(self, login: Option<(&OnvifLogin, &[u8; 16], &str)>) -> String {
        let header = login.map(|(login, nonce, created)| login.header(nonce, created)).unwrap_or_default();
        let inside = match self {
            Self::Clock => String::new(),
            Self::Services => "<q:IncludeCapability>false</q:IncludeCapability>".to_owned(),
            Self::Capabilities => "<q:Category>Media</q:Category>".to_owned(),
            Self::Profiles(Media::One) => String::new(),
            Self::Profiles(Media::Two) => "<q:Type>VideoEncoder</q:Type>".to_owned(),
            Self::StreamUri(Media::One, token) => format!(
                "<q:StreamSetup><t:Stream>RTP-Unicast</t:Stream><t:Transport><t:Protocol>RTSP</t:Protocol></t:Transport>\
                 </q:StreamSetup><q:ProfileToken>{}</q:ProfileToken>",
                escape(token)
            ),
            Self::StreamUri(Media::Two, token) => {
                format!("<q:Protocol>RTSP</q:Protocol><q:ProfileToken>{}</q:ProfileToken>", escape(token))
            }
        };
        let (service, name) = (self.service(), self.name());
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:q=\"{service}\" \
             xmlns:t=\"http://www.onvif.org/ver10/schema\">{header}<e:Body><q:{name}>{inside}</q:{name}></e:Body></e:Envelope>"
        )
    }
}

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SoapFault {
    /// It wants other credentials, or any.
    Refused,
    Other(String),
}

/// The fault in an answer, if it is one.
pub(super) fn fault(tree: &Tree) -> Option<SoapFault> {
    let fault = tree.first("Body")?.children("Fault").next()?;
    // SOAP 1.2 and 1.1 name them differently.
    let codes = ["Value", "faultcode"].into_iter().flat_map(|name| fault.descendants(name));
    let words = ["NotAuthorized", "FailedAuthentication", "InvalidSecurity"];
    let reason = ["Text", "faultstring"].into_iter().find_map(|name| fault.descendants(name).next());
    let reason = clean(reason.map(Element::text).unwrap_or("without a reason"));
    let refused = codes.map(Element::text).any(|code| words.iter().any(|word| code.ends_with(word)));
    // Some name no code but say it in words.
    let said = reason.to_lowercase().contains("not authorized");
    Some(if refused || said { SoapFault::Refused } else { SoapFault::Other(reason) })
}

/// The device's own time: a request that is signed for another one is refused.
pub(super) fn clock(tree: &Tree) -> Option<jiff::Timestamp> {
    let utc = tree.first("UTCDateTime")?;
    let number = |path: &[&'static str; 2]| utc.find(path)?.text().parse::<i16>().ok();
    let small = |path| i8::try_from(number(path)?).ok();
    let date = jiff::civil::Date::new(number(&["Date", "Year"])?, small(&["Date", "Month"])?, small(&["Date", "Day"])?);
    let (hour, minute, second) = (small(&["Time", "Hour"])?, small(&["Time", "Minute"])?, small(&["Time", "Second"])?);
    let time = jiff::civil::Time::new(hour, minute, second, 0).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(date.ok()?.to_datetime(time)).ok()
}

/// The address of a media service among a device's services.
pub(super) fn service(tree: &Tree, media: Media) -> Option<Url> {
    let service = tree.all("Service").find(|service| {
        service.children("Namespace").next().is_some_and(|namespace| namespace.text() == media.namespace())
    })?;
    web_address(service.children("XAddr").next()?.text())
}

/// The address of the first media service among a device's capabilities.
pub(super) fn capability(tree: &Tree) -> Option<Url> {
    web_address(tree.first("Capabilities")?.find(&["Media", "XAddr"])?.text())
}

/// One profile of a camera: a stream and how it is coded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Profile {
    /// As the device wrote it: it is sent back and never shown.
    pub token: String,
    pub name: String,
    /// Such as `h264`.
    pub codec: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub frame_rate: Option<f64>,
}

/// The profiles that carry video.
pub(super) fn profiles(tree: &Tree) -> Vec<Profile> {
    let profile = |element: Element<'_>| {
        let token = element.token().filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN_CHARS)?;
        let encoder = ["VideoEncoderConfiguration", "VideoEncoder"];
        let encoder = encoder.into_iter().find_map(|name| element.descendants(name).next())?;
        let number = |path: &[&'static str]| encoder.find(path)?.text().parse::<f64>().ok();
        let side = |name| number(&["Resolution", name]).filter(|n| (1.0..=65_536.0).contains(n)).map(|n| n as u32);
        let codec = encoder.children("Encoding").next().map(|encoding| clean(encoding.text()).to_lowercase());
        Some(Profile {
            token: token.to_owned(),
            name: clean(element.children("Name").next().map(Element::text).unwrap_or_default()),
            codec: codec.filter(|codec| !codec.is_empty()),
            width: side("Width"),
            height: side("Height"),
            frame_rate: number(&["RateControl", "FrameRateLimit"]).filter(|n| (0.001..=1000.0).contains(n)),
        })
    };
    tree.all("Profiles").filter_map(profile).take(MOST_PROFILES).collect()
}

/// The address of a stream.
pub(super) fn stream_uri(tree: &Tree) -> Option<Url> {
    let text = tree.first("GetStreamUriResponse")?.find(&["Uri"])?.text();
    let url = address(text)?;
    (matches!(url.scheme(), "rtsp" | "rtsps") && url.host_str().is_some_and(|host| !host.is_empty())).then_some(url)
}

/// Reads `data` as every answer there is.
pub(super) fn fuzz(data: &[u8]) {
    let id = Uuid::from_u128(1);
    for found in matches(data, &[id]).into_iter().flatten() {
        let _ = (said(&found.scopes, "name"), said(&found.scopes, "location"));
    }
    let Ok(tree) = Tree::parse(data, BODY) else { return };
    let _ = (fault(&tree), clock(&tree), capability(&tree), stream_uri(&tree), profiles(&tree));
    let _ = (service(&tree, Media::One), service(&tree, Media::Two));
}

#[cfg(test)]
mod tests;
