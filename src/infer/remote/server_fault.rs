//! What a server's refusal comes to. In: a status of HTTP or gRPC with its words, or what broke; out: a [`RemoteError`], by one table for both ways.
//! Pure.
//!
//! A proxy in front of a gRPC server answers in HTTP what it does not pass on: that it is too large, or that nobody is there. tonic tells of
//! that in words alone.

use std::io;

use hyper::StatusCode;
use tonic::{Code, Status};

use super::{RemoteError, told};

/// What a connector says that has no connection any more: the one that it gave away was closed, and nothing went out over it.
pub const NO_MORE: io::ErrorKind = io::ErrorKind::NotConnected;

/// By the status of an answer in HTTP.
pub fn of_http(status: u16, why: String) -> RemoteError {
    match status {
        413 => RemoteError::TooMuch(why),
        400 if is_about_size(&why) => RemoteError::TooMuch(why),
        429 | 502 | 503 => RemoteError::Busy(why),
        408 | 504 => RemoteError::Slow(why),
        _ => RemoteError::Refused(why),
    }
}

/// By the status of gRPC, of the server called `server`.
pub fn of_grpc(server: &str, status: &Status) -> RemoteError {
    let code = status.code();
    // A source is the transport's: the server itself has only words.
    if let Some(source) = std::error::Error::source(status) {
        // It counts the time of a request too, and may be a moment quicker.
        if causes(source).any(|error| error.is::<tonic::TimeoutExpired>()) {
            return RemoteError::Slow("no answer within its time".to_owned());
        }
        let why = format!("{server}: {}", told(&chain(source)));
        let closed = |error: &io::Error| error.kind() == NO_MORE;
        return if causes(source).any(|error| error.downcast_ref().is_some_and(closed)) {
            RemoteError::Idle(why)
        } else {
            RemoteError::Away(why)
        };
    }
    if let Some(proxy) = http_status(status) {
        let why = format!("what stands before the server says {proxy}, in HTTP instead of gRPC");
        return of_http(proxy.as_u16(), why);
    }
    let why = format!("the server says {code:?}: {}", told(status.message()));
    match code {
        Code::ResourceExhausted => RemoteError::TooMuch(why),
        Code::InvalidArgument if is_about_size(&why) => RemoteError::TooMuch(why),
        // Of this side: the answer is longer than it may be.
        Code::OutOfRange => RemoteError::Wrong(why),
        Code::DeadlineExceeded | Code::Cancelled => RemoteError::Slow(why),
        Code::Unavailable => RemoteError::Busy(why),
        _ => RemoteError::Refused(why),
    }
}

/// By what broke on an HTTP connection to the server called `server`.
pub fn of_transport(server: &str, error: &hyper::Error) -> RemoteError {
    let why = format!("{server}: {}", told(&chain(error)));
    // Either way the request has not gone out.
    if error.is_closed() || error.is_canceled() { RemoteError::Idle(why) } else { RemoteError::Away(why) }
}

/// The status that was in the place of gRPC's, as tonic 0.14 words it: for a page as body, and for none.
fn http_status(status: &Status) -> Option<StatusCode> {
    if !matches!(status.code(), Code::Internal | Code::Unknown | Code::Unavailable) {
        return None;
    }
    let words = ["while receiving response with status: ", "grpc-status header missing, mapped from HTTP status code "];
    let number = words.iter().find_map(|words| status.message().split_once(words)?.1.split(' ').next())?;
    StatusCode::from_bytes(number.as_bytes()).ok().filter(|status| !status.is_success())
}

/// Whether a server refuses so many pictures at once, of which the protocol has no word. Triton: `batch-size must be <= 4`.
fn is_about_size(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    ["batch-size", "batch size", "too large", "larger than max"].iter().any(|sign| why.contains(sign))
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// An error with what lies behind it, which tonic and hyper leave out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words: Vec<String> = causes(error).take(6).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_status_is_found_in_tonics_words_and_is_the_same_decision_as_over_http() {
        let page = |status: &str| {
            let flag = "protocol error: received message with invalid compression flag: 60 (valid flags are 0 and 1)";
            Status::internal(format!("{flag} while receiving response with status: {status}"))
        };
        let empty = |status: &str| format!("grpc-status header missing, mapped from HTTP status code {status}");
        let kind = |status: Status| of_grpc("grpc://gpu", &status).kind();
        for (status, number, kinds) in [
            ("413 Payload Too Large", 413, "full"),
            ("429 Too Many Requests", 429, "full"),
            ("502 Bad Gateway", 502, "full"),
            ("503 Service Unavailable", 503, "full"),
            ("504 Gateway Timeout", 504, "slow"),
            ("408 Request Timeout", 408, "slow"),
            ("500 Internal Server Error", 500, "refused"),
            ("302 Found", 302, "refused"),
            ("200 OK", 200, "refused"),
        ] {
            assert_eq!(kind(page(status)), kinds, "{status}");
            assert_eq!(of_http(number, String::new()).kind(), kinds, "{status}");
        }
        assert_eq!(kind(Status::unavailable(empty("504"))), "slow");
        assert!(
            matches!(of_grpc("", &Status::unknown(empty("413"))), RemoteError::TooMuch(why) if why.contains("413"))
        );
        assert_eq!(kind(Status::unavailable("the queue is full")), "full");
        assert_eq!(kind(Status::internal("status code 413")), "refused", "the model's own words");
    }

    #[test]
    fn so_many_pictures_at_once_are_refused_in_words() {
        let triton = "inference request batch-size must be <= 4 for 'm'";
        for fault in [of_http(400, triton.into()), of_grpc("", &Status::invalid_argument(triton))] {
            assert!(matches!(fault, RemoteError::TooMuch(_)), "{fault}");
        }
        assert_eq!(of_http(400, "unexpected shape".into()).kind(), "refused");
    }
}
