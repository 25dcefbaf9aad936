//! An RTMP server on loopback that plays an FLV file to whoever asks: as much of the protocol as a player needs.
//!
//! One thread a connection. It listens until the test's process ends.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

/// What is sent in one piece.
const CHUNK: usize = 60_000;
/// Kinds of messages.
const SET_CHUNK_SIZE: u8 = 1;
const COMMAND: u8 = 20;

/// Starts the server and gives its address.
pub fn start(flv: &Path) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("rtmp://{}/live/door", listener.local_addr().unwrap())).unwrap();
    let tags = Arc::new(tags(&std::fs::read(flv).unwrap()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tags) = (stream.unwrap(), Arc::clone(&tags));
            // A client that goes in the middle is no failure of the server's.
            std::thread::spawn(move || serve(stream, &tags));
        }
    });
    url
}

/// Kind, time in milliseconds, and payload.
type Tag = (u8, u32, Vec<u8>);

fn tags(flv: &[u8]) -> Vec<Tag> {
    assert!(flv.starts_with(b"FLV"));
    let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let (mut at, mut tags) = (9 + 4, Vec::new());
    while at + 11 <= flv.len() {
        let length = number(&flv[at + 1..at + 4]) as usize;
        let time = u32::from(flv[at + 7]) << 24 | number(&flv[at + 4..at + 7]);
        tags.push((flv[at], time, flv[at + 11..at + 11 + length].to_vec()));
        at += 11 + length + 4;
    }
    tags
}

fn serve(mut stream: TcpStream, tags: &[Tag]) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut hello = vec![0; 1 + 1536];
    reader.read_exact(&mut hello)?;
    // Its own greeting, and theirs back.
    stream.write_all(&[&[3_u8][..], &[0; 1536], &hello[1..]].concat())?;
    reader.read_exact(&mut vec![0; 1536])?;
    let mut chunks = Chunks { size: 128, known: HashMap::new() };
    send(&mut stream, SET_CHUNK_SIZE, 0, 0, &(CHUNK as u32).to_be_bytes())?;
    loop {
        let (kind, payload) = chunks.read(&mut reader)?;
        if kind == SET_CHUNK_SIZE {
            chunks.size = u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize;
        }
        if kind != COMMAND {
            continue;
        }
        let name_length = usize::from(u16::from_be_bytes([payload[1], payload[2]]));
        let name = String::from_utf8_lossy(&payload[3..3 + name_length]).into_owned();
        let transaction = f64::from_be_bytes(payload[4 + name_length..12 + name_length].try_into().unwrap());
        let status = |code: &str| object(&[("level", "status"), ("code", code), ("description", "x")]);
        match name.as_str() {
            "connect" => {
                let answer = [
                    text("_result"),
                    number(transaction),
                    object(&[("fmsVer", "FMS/3,0,1,123")]),
                    status("NetConnection.Connect.Success"),
                ];
                send(&mut stream, COMMAND, 0, 0, &answer.concat())?;
            }
            "createStream" => {
                let answer = [text("_result"), number(transaction), vec![5], number(1.0)];
                send(&mut stream, COMMAND, 0, 0, &answer.concat())?;
            }
            "play" => {
                let answer = [text("onStatus"), number(0.0), vec![5], status("NetStream.Play.Start")];
                send(&mut stream, COMMAND, 0, 1, &answer.concat())?;
                let begun = Instant::now();
                for (kind, time, payload) in tags {
                    let due = Duration::from_millis(u64::from(*time));
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                    send(&mut stream, *kind, *time, 1, payload)?;
                }
                return Ok(());
            }
            _ => {}
        }
    }
}

fn send(stream: &mut TcpStream, kind: u8, time: u32, id: u32, payload: &[u8]) -> io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let time = time.to_be_bytes();
    let mut bytes = [&[3_u8][..], &time[1..], &length[1..], &[kind], &id.to_le_bytes()].concat();
    for (n, piece) in payload.chunks(CHUNK).enumerate() {
        if n > 0 {
            bytes.push(0xc3);
        }
        bytes.extend(piece);
    }
    stream.write_all(&bytes)
}

/// What the client sends.
struct Chunks {
    size: usize,
    /// Of each chunk stream: length and kind of its message, and what of it has come.
    known: HashMap<u8, (usize, u8, Vec<u8>)>,
}

impl Chunks {
    /// The next whole message.
    fn read(&mut self, reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let mut first = [0];
            reader.read_exact(&mut first)?;
            let (format, id) = (first[0] >> 6, first[0] & 63);
            assert!(id > 1, "a player needs no more chunk streams than that");
            let mut header = vec![0; [11, 7, 3, 0][usize::from(format)]];
            reader.read_exact(&mut header)?;
            let (length, kind, message) = self.known.entry(id).or_default();
            if header.len() >= 7 {
                *length = header[3..6].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
                *kind = header[6];
            }
            let mut piece = vec![0; self.size.min(*length - message.len())];
            reader.read_exact(&mut piece)?;
            message.extend(piece);
            if message.len() == *length {
                return Ok((*kind, std::mem::take(message)));
            }
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&[2][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn number(number: f64) -> Vec<u8> {
    [&[0][..], &number.to_be_bytes()].concat()
}

fn object(fields: &[(&str, &str)]) -> Vec<u8> {
    let field = |(name, value): &(&str, &str)| [&text(name)[1..], &text(value)].concat();
    [vec![3], fields.iter().flat_map(field).collect(), vec![0, 0, 9]].concat()
}
