//! Why a camera cannot be reached, in words: GStreamer says "generic error" to a wrong name, a closed port and a dead network.
//!
//! In: the address that a connection has just failed for. Out: a more telling [`SourceError`], or the one there was. The name is
//! looked up and the port is knocked at once, on a thread of its own and in bounded time; nothing is sent, so nothing is logged by the camera.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::error::{At, SourceError};
use super::run_with_timeout::run_with_timeout;
use super::web_proxy;
use super::{CameraTls, Location};
use crate::platform::shutdown::Shutdown;
use crate::platform::tls;
use crate::platform::zoned_url::ZonedUrl;

/// How long the port may stay silent.
const KNOCK: Duration = Duration::from_secs(2);
/// How long all of it may take: resolvers try several servers.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(6);

/// Said of an address with a zone, which no name server is asked for.
const NO_ZONE: &str =
    "this machine has no such interface as stands behind the `%` of its address (`ip link` names those it has)";

/// What looking showed.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Unresolved(String),
    Closed(&'static str),
    Open,
}

/// `error`, or what is found to be behind it if it only says that there was no connection.
pub(super) fn explain(
    error: SourceError,
    location: &Location,
    trusted: &CameraTls,
    shutdown: &Shutdown,
) -> SourceError {
    let Some(url) = location.url().filter(|_| !matches!(location, Location::Udp(_) | Location::Srt(_))) else {
        return error;
    };
    let port = url.port().unwrap_or(match url.scheme() {
        "rtsp" => 554,
        "rtsps" => 322,
        "https" => 443,
        "rtmp" => 1935,
        // As its reader has it.
        "rtmps" => 443,
        _ => 80,
    });
    if let (SourceError::Stalled { at, .. }, Location::Http(url)) = (&error, location) {
        // A web source does not say whether it is connected, and is as patient as we are.
        return silent(at, url, port, shutdown).unwrap_or(error);
    }
    let (at, detail) = match &error {
        SourceError::Connection { at, detail } => (at, detail),
        // It cannot be pinned.
        SourceError::Certificate { .. } if url.scheme() == "rtmps" => return error,
        SourceError::Certificate { at, detail } => {
            return certificate(at, Some(detail), url, port, trusted, shutdown).unwrap_or(error);
        }
        _ => return error,
    };
    if let (Location::Http(url), Some(proxy)) = (location, web_proxy::of(url)) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let detail = format!(
            "{detail}; it goes through the proxy {proxy} (`http_proxy`): is that there, and does it reach the camera? `no_proxy={host}` goes to it directly"
        );
        return SourceError::Connection { at: at.clone(), detail };
    }
    if url.scheme() == "https"
        && let Some(untrusted) = certificate(at, None, url, port, trusted, shutdown)
    {
        return untrusted;
    }
    let vague = detail.contains("Failed to connect") || detail.contains("cannot connect");
    let Some(host) = url.resolvable_host().filter(|_| vague) else { return error };
    let at = At { element: String::new(), ..at.clone() };
    let name = host.clone();
    match run_with_timeout("reach", DIAGNOSIS_TIMEOUT, Some(shutdown), move || look(&name, port)) {
        Ok(Finding::Unresolved(_)) if url.zone().is_some() => SourceError::Unreachable { at, why: NO_ZONE },
        Ok(Finding::Unresolved(why)) => SourceError::Unresolved { at, host, why },
        Ok(Finding::Closed(why)) => SourceError::Unreachable { at, why },
        Ok(Finding::Open) | Err(_) => error,
    }
}

/// That nobody can be reached at `url`, from which nothing came.
fn silent(at: &At, url: &ZonedUrl, port: u16, shutdown: &Shutdown) -> Option<SourceError> {
    // What a proxy does with it cannot be found out from here.
    let host = url.resolvable_host().filter(|_| web_proxy::of(url).is_none())?;
    match run_with_timeout("reach", DIAGNOSIS_TIMEOUT, Some(shutdown), move || look(&host, port)) {
        Ok(Finding::Closed(why)) => Some(SourceError::Unreachable { at: at.clone(), why }),
        _ => None,
    }
}

/// That the certificate there is not trusted, for the reason that is `known`, or that is found; with its fingerprint.
fn certificate(
    at: &At,
    known: Option<&str>,
    url: &ZonedUrl,
    port: u16,
    trusted: &CameraTls,
    shutdown: &Shutdown,
) -> Option<SourceError> {
    let (host, trusted, known) = (url.resolvable_host()?, trusted.clone(), known.map(str::to_owned));
    let work = move || {
        let why = known.or_else(|| tls::refused_at(trusted.client()?, &host, port, KNOCK))?;
        let shown = tls::shown_at(&host, port, KNOCK)?;
        Some(format!(
            "{why}; what it shows can be pinned, if it is the camera's own: `tls: {{ fingerprint: \"{shown}\" }}`"
        ))
    };
    let detail = run_with_timeout("reach", DIAGNOSIS_TIMEOUT * 2, Some(shutdown), work).ok()??;
    Some(SourceError::Certificate { at: at.clone(), detail })
}

fn look(host: &str, port: u16) -> Finding {
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Finding::Unresolved(resolver_text(&error.to_string())),
    };
    let mut finding = Finding::Unresolved("it has no address".to_owned());
    // Two addresses, IPv6 and IPv4, are what hosts have.
    for address in addresses.take(2) {
        finding = match TcpStream::connect_timeout(&address, KNOCK).map_err(|e| e.kind()) {
            Ok(_) => return Finding::Open,
            Err(ErrorKind::ConnectionRefused) => {
                Finding::Closed("nobody listens on its port; is the port right, and has the camera started?")
            }
            Err(ErrorKind::TimedOut) => {
                Finding::Closed("it does not answer; check its address, its power and the network")
            }
            Err(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
                Finding::Closed("there is no way to it; check its address and the network")
            }
            Err(_) => Finding::Open,
        };
    }
    finding
}

/// The resolver's own words without what the library put before them.
fn resolver_text(text: &str) -> String {
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn failed(url: &str) -> SourceError {
        let at = At { stream: "cam".into(), place: url.into(), element: "source".into() };
        let error = SourceError::Connection { at, detail: "Failed to connect. (Generic error)".into() };
        let (_trigger, shutdown) = crate::platform::shutdown::channel();
        explain(error, &Location::Rtsp(url.parse().unwrap()), &CameraTls::System, &shutdown)
    }

    #[test]
    fn a_name_that_does_not_exist_is_called_that() {
        let error = failed("rtsp://no-such-host.invalid/x").to_string();
        assert!(error.contains("no-such-host.invalid cannot be resolved") && error.contains("DNS"), "{error}");
    }

    #[test]
    fn a_closed_port_is_told_apart_from_an_open_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("rtsp://{}/x", listener.local_addr().unwrap());
        assert!(matches!(failed(&url), SourceError::Connection { .. }));
        drop(listener);
        let error = failed(&url).to_string();
        assert!(error.contains("cannot connect") && error.contains("nobody listens"), "{error}");
    }

    #[test]
    fn a_web_server_that_is_silent_is_told_apart_from_one_that_is_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let location = Location::Http(format!("http://{}/x", listener.local_addr().unwrap()).parse().unwrap());
        let (_trigger, shutdown) = crate::platform::shutdown::channel();
        let explained = || {
            let at = At { stream: "cam".into(), place: "there".into(), element: String::new() };
            let error = SourceError::Stalled { at, silence: Duration::from_secs(30) };
            explain(error, &location, &CameraTls::System, &shutdown)
        };
        assert!(matches!(explained(), SourceError::Stalled { .. }));
        drop(listener);
        let error = explained().to_string();
        assert!(error.contains("nobody listens"), "{error}");
    }
}
