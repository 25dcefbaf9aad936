//! A client of the API's live stream, over a plain socket: server-sent events one by one, and how the answer ends.
#![allow(dead_code)] // every scenario uses a part of it

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::daemon::DEADLINE;

/// One event.
#[derive(Clone, Debug)]
pub struct Message {
    pub event: String,
    pub id: Option<String>,
    pub data: Value,
}

/// An answer that goes on.
pub struct Sse {
    stream: BufReader<TcpStream>,
    /// The lines before the body.
    pub head: String,
    text: String,
    /// It has ended as an answer ends, and did not break off.
    pub ended_well: bool,
}

impl Sse {
    /// Asks the API at `url` (`http://…`) for `path`, with more header lines, each with its end.
    pub fn open(url: &str, path: &str, headers: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        Self { stream, head, text: String::new(), ended_well: false }
    }

    /// The next event; `None` at the end of the answer.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let Some((block, rest)) = self.text.split_once("\n\n") else {
                self.read_chunk()?;
                continue;
            };
            let (block, rest) = (block.to_owned(), rest.to_owned());
            self.text = rest;
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(event) = field("event: ") {
                let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                return Some(Message { event, id: field("id: "), data });
            }
        }
    }

    /// The next one of this kind for which `wanted` holds.
    pub fn find(&mut self, event: &str, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("it has ended without {event}"));
            if message.event == event && wanted(&message) {
                return message;
            }
        }
    }

    fn read_chunk(&mut self) -> Option<()> {
        let mut size = String::new();
        self.stream.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).ok()?;
        chunk.truncate(size);
        if size == 0 {
            self.ended_well = true;
            return None;
        }
        self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        Some(())
    }
}
