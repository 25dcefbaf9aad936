//! Requests to the API, and what of an answer others depend on.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::super::common::daemon::DEADLINE;
use super::shape::shape;

/// An answer as it came.
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order of the alphabet.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Status, headers, and the body's shape.
    pub fn told(&self) -> String {
        let mut told = format!("status {}\n", self.status);
        for (name, value) in &self.headers {
            let varies = ["content-length", "date", "retry-after"].contains(&name.as_str());
            let value = match value.split_once('=').zip(value.split_once(';')) {
                // A random number.
                Some(((cookie, _), (_, rest))) if name == "set-cookie" => format!("{cookie}=…;{rest}"),
                _ => value.clone(),
            };
            told += &format!("{name}: {}\n", if varies { "…" } else { &value });
        }
        if self.header("content-type").starts_with("application/json") {
            told += &shape([&self.json()]);
        }
        told
    }
}

/// Says `head` (the request line and headers but `Host` and `Connection`) to `address`.
pub fn say(address: &str, head: &str) -> Answer {
    send(address, head, "")
}

/// The same with a body, whose length `head` tells.
pub fn send(address: &str, head: &str, body: &str) -> Answer {
    let host = if head.contains("Host: ") { String::new() } else { format!("Host: {address}\r\n") };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{head}\r\n{host}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes[end + 4..].to_vec());
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    let mut headers: Vec<(String, String)> = lines.filter_map(pair).filter(|(n, _)| n != "connection").collect();
    headers.sort();
    Answer { status, headers, body }
}

/// A request with a token.
pub fn ask(address: &str, method: &str, path: &str, token: &str) -> Answer {
    say(address, &format!("{method} {path} HTTP/1.1\r\nAuthorization: Bearer {token}"))
}
