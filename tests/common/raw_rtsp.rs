//! An RTSP camera that does as a test says, down to the single packet: what no real server would send.
//!
//! One thread a connection; video is sent interleaved on the same connection. It listens until the test's process ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use url::Url;

/// Says to the client with this sequence number what it likes.
type Describe = Box<dyn Fn(&mut TcpStream, &str) -> io::Result<()> + Send + Sync>;
/// Sends packets on the connection of this number, the first being 0.
type Play = Box<dyn Fn(&mut Packets, usize) -> io::Result<()> + Send + Sync>;

/// What the camera does beside answering as it should.
pub enum Behaviour {
    /// Answers DESCRIBE so, instead of with a description.
    Describes(Describe),
    Plays(Play),
    Odd(Odd),
}

/// A camera that answers in ways of its own, and counts what it is asked. It reads on while it plays.
pub struct Odd {
    /// What it says that it can do; empty: it does not say.
    pub public: &'static str,
    pub session: &'static str,
    /// What it answers GET_PARAMETER; empty: nothing.
    pub get_parameter: &'static str,
    /// What the transport it is asked for becomes in its answer; empty: it does not say.
    pub transport: fn(&str) -> String,
    /// Sent in Latin-1.
    pub description: fn(String) -> String,
    pub play: Play,
    /// Hangs up if no request has come for so long.
    pub timeout: Option<Duration>,
    /// The requests of all connections.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Odd {
    /// One that is not odd yet.
    pub fn camera() -> Self {
        Self {
            public: "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER",
            session: "1",
            get_parameter: "200 OK",
            transport: str::to_owned,
            description: |text| text,
            play: Box::new(|packets, _| {
                loop {
                    frames().iter().try_for_each(|frame| packets.frame(frame))?;
                }
            }),
            timeout: None,
            requests: Arc::default(),
        }
    }
}

/// Starts the camera and gives its address.
pub fn start(behaviour: Behaviour) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("rtsp://{}/stream", listener.local_addr().unwrap())).unwrap();
    let behaviour = Arc::new(behaviour);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (stream, behaviour) = (stream.unwrap(), Arc::clone(&behaviour));
            // A client that goes in the middle is what these tests are about.
            std::thread::spawn(move || serve(stream, &behaviour, number));
        }
    });
    url
}

/// With the parameter sets of [`frames`], as cameras have them.
fn description() -> String {
    let frames = frames();
    let set = |kind| frames[0].iter().find(|nal| nal[0] & 31 == kind).map(|nal| BASE64_STANDARD.encode(nal)).unwrap();
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=range:npt=0-3600.5\r\n\
         m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
         a=fmtp:96 packetization-mode=1;sprop-parameter-sets={},{}\r\na=control:trackID=0\r\n",
        set(7),
        set(8)
    )
}

fn serve(stream: TcpStream, behaviour: &Arc<Behaviour>, number: usize) -> io::Result<()> {
    let end = stream.try_clone()?;
    let result = converse(stream, behaviour, number);
    // Also for who still sends.
    let _ = end.shutdown(std::net::Shutdown::Both);
    result
}

fn converse(mut stream: TcpStream, behaviour: &Arc<Behaviour>, number: usize) -> io::Result<()> {
    let whole = Arc::new(Mutex::new(()));
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut asked = Instant::now();
    loop {
        let mut first = [0];
        reader.read_exact(&mut first)?;
        if first == *b"$" {
            let mut rest = [0; 3];
            reader.read_exact(&mut rest)?;
            io::copy(&mut (&mut reader).take(u64::from(u16::from_be_bytes([rest[1], rest[2]]))), &mut io::sink())?;
            // Reports are no requests.
            if matches!(&**behaviour, Behaviour::Odd(odd) if odd.timeout.is_some_and(|timeout| asked.elapsed() > timeout))
            {
                return Ok(());
            }
            continue;
        }
        asked = Instant::now();
        let mut request = String::from(char::from(first[0]));
        while !request.ends_with("\r\n\r\n") {
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        let header = |name: &str| {
            let line = request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        let method = request.split(' ').next().unwrap_or_default();
        if let Behaviour::Odd(odd) = &**behaviour {
            odd.requests.lock().unwrap().push(method.to_owned());
            stream.set_read_timeout(odd.timeout)?;
            if method == "GET_PARAMETER" && odd.get_parameter.is_empty() {
                continue;
            }
            let (mut status, mut more) = ("200 OK", String::new());
            let transport = (odd.transport)(&header("Transport"));
            match method {
                "OPTIONS" if !odd.public.is_empty() => more = format!("Public: {}\r\n", odd.public),
                "GET_PARAMETER" => status = odd.get_parameter,
                "SETUP" if !transport.is_empty() => more = format!("Transport: {transport}\r\n"),
                "DESCRIBE" => {
                    let text = (odd.description)(description());
                    let length = text.chars().count();
                    more = format!("Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{text}");
                }
                _ => {}
            }
            let end = if method == "DESCRIBE" { "" } else { "\r\n" };
            let session = if method == "OPTIONS" { String::new() } else { format!("Session: {}\r\n", odd.session) };
            let text = format!("RTSP/1.0 {status}\r\nCSeq: {}\r\n{session}{more}{end}", header("CSeq"));
            {
                let _whole = whole.lock().unwrap();
                stream.write_all(&text.chars().map(|letter| letter as u8).collect::<Vec<_>>())?;
            }
            if method == "PLAY" {
                let (mut packets, behaviour) = (Packets::new(stream.try_clone()?), Arc::clone(behaviour));
                packets.whole = Arc::clone(&whole);
                std::thread::spawn(move || {
                    if let Behaviour::Odd(odd) = &*behaviour {
                        // A client that goes is no failure of the camera's.
                        let _ = (odd.play)(&mut packets, number);
                    }
                });
            }
            continue;
        }
        let answer = |stream: &mut TcpStream, more: &str| {
            write!(stream, "RTSP/1.0 200 OK\r\nCSeq: {}\r\nSession: 1\r\n{more}", header("CSeq"))
        };
        match (method, &**behaviour) {
            ("DESCRIBE", Behaviour::Describes(describe)) => return describe(&mut stream, &header("CSeq")),
            ("DESCRIBE", _) => {
                let text = description();
                let headers = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n", text.len());
                answer(&mut stream, &format!("{headers}{text}"))?;
            }
            ("SETUP", _) => answer(&mut stream, &format!("Transport: {}\r\n\r\n", header("Transport")))?,
            ("PLAY", Behaviour::Plays(play)) => {
                answer(&mut stream, "\r\n")?;
                let mut packets = Packets::new(stream.try_clone()?);
                return play(&mut packets, number);
            }
            _ => answer(&mut stream, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n")?,
        }
    }
}

/// RTP on its way to the client.
pub struct Packets {
    stream: TcpStream,
    sequence: u16,
    /// Of the next packet, 90,000 a second.
    pub time: u32,
    pub ssrc: u32,
    /// Of the next packet, fifteen at most.
    pub contributors: Vec<u32>,
    /// How often each packet is sent.
    pub copies: usize,
    /// Held while something is sent that may not be cut in two.
    whole: Arc<Mutex<()>>,
}

/// The longest payload of a packet.
const MTU: usize = 1200;

impl Packets {
    fn new(stream: TcpStream) -> Self {
        Self { stream, sequence: 0, time: 0, ssrc: 7, contributors: Vec::new(), copies: 1, whole: Arc::default() }
    }

    pub fn packet(&mut self, payload: &[u8], last: bool) -> io::Result<()> {
        let mut bytes = vec![b'$', 0];
        let contributors = self.contributors.len();
        bytes.extend(u16::try_from(payload.len() + 12 + 4 * contributors).unwrap().to_be_bytes());
        bytes.extend([0x80 | u8::try_from(contributors).unwrap(), if last { 0x80 | 96 } else { 96 }]);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.time.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(self.contributors.iter().flat_map(|number| number.to_be_bytes()));
        bytes.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        let _whole = self.whole.lock().unwrap();
        self.stream.write_all(&bytes.repeat(self.copies))
    }

    /// A NAL unit, in fragments if need be.
    pub fn nal(&mut self, nal: &[u8], last: bool) -> io::Result<()> {
        if nal.len() <= MTU {
            return self.packet(nal, last);
        }
        let count = (nal.len() - 1).div_ceil(MTU);
        for (n, piece) in nal[1..].chunks(MTU).enumerate() {
            self.fragment(nal[0], n == 0, n + 1 == count, piece, last)?;
        }
        Ok(())
    }

    /// A fragment (FU-A) of a NAL unit with this first byte.
    pub fn fragment(&mut self, first: u8, begins: bool, ends: bool, piece: &[u8], last: bool) -> io::Result<()> {
        let bits = u8::from(begins) << 7 | u8::from(ends) << 6;
        let mut payload = vec![first & 0xe0 | 28, bits | first & 0x1f];
        payload.extend(piece);
        self.packet(&payload, last && ends)
    }

    /// Another sender from now on, which counts from where it likes.
    pub fn begin_anew(&mut self) {
        self.ssrc = self.ssrc.wrapping_mul(2_654_435_761).wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(20_000);
        self.time = self.time.wrapping_add(1_000_000_000);
    }

    /// An RTCP goodbye: the sender has no more.
    pub fn goodbye(&mut self) -> io::Result<()> {
        let ssrc = self.ssrc.to_be_bytes();
        self.rtcp(&[&[0x81, 203, 0, 1], ssrc.as_slice()].concat())
    }

    /// RTCP packets as they are.
    pub fn rtcp(&mut self, packets: &[u8]) -> io::Result<()> {
        let length = u16::try_from(packets.len()).unwrap().to_be_bytes();
        let _whole = self.whole.lock().unwrap();
        self.stream.write_all(&[&[b'$', 1], length.as_slice(), packets].concat())
    }

    /// A frame in NAL units, and the time until the next one, 25 a second.
    pub fn frame<N: AsRef<[u8]>>(&mut self, nals: &[N]) -> io::Result<()> {
        for (n, nal) in nals.iter().enumerate() {
            self.nal(nal.as_ref(), n + 1 == nals.len())?;
        }
        self.time = self.time.wrapping_add(3600);
        std::thread::sleep(Duration::from_millis(40));
        Ok(())
    }

    /// A frame that is lost on the way, and the time until the next one.
    pub fn lose(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        self.time = self.time.wrapping_add(3600);
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// Frames of a test picture, each in NAL units; every tenth is a keyframe and has its parameter sets with it.
pub fn frames() -> Vec<Vec<Vec<u8>>> {
    static FRAMES: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    FRAMES.get_or_init(encode).clone()
}

fn encode() -> Vec<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.h264");
    write_h264(&path);
    let bytes = std::fs::read(&path).unwrap();
    let starts: Vec<usize> =
        bytes.windows(3).enumerate().filter(|(_, w)| w == b"\0\0\x01").map(|(n, _)| n + 3).collect();
    let ends = starts.iter().skip(1).map(|next| next - 3).chain([bytes.len()]);
    let (mut frames, mut frame) = (Vec::new(), Vec::new());
    for (start, end) in starts.iter().zip(ends) {
        let nal = bytes[*start..end].to_vec();
        let slice = [1, 5].contains(&(nal[0] & 31));
        // The zero before a start code of four bytes.
        frame.push(nal.strip_suffix(b"\0").filter(|_| !slice).map_or(nal.clone(), <[u8]>::to_vec));
        if slice {
            frames.push(std::mem::take(&mut frame));
        }
    }
    frames
}

fn write_h264(path: &Path) {
    let status = std::process::Command::new("gst-launch-1.0")
        .args(["-q", "videotestsrc", "num-buffers=50", "pattern=ball", "!"])
        .args(["video/x-raw,format=I420,width=160,height=120,framerate=25/1", "!"])
        .args(["x264enc", "threads=1", "sliced-threads=false", "bframes=0", "key-int-max=10", "aud=false", "!"])
        .args(["video/x-h264,stream-format=byte-stream,alignment=au", "!", "filesink"])
        .arg(format!("location={}", path.display()))
        .status()
        .unwrap();
    assert!(status.success());
}

/// Numbers that look random and are the same every time.
pub struct Noise(pub u64);

impl Noise {
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                self.0 as u8
            })
            .collect()
    }
}
