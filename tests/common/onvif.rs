//! ONVIF cameras on loopback: a responder for WS-Discovery over real UDP, and the device's services over HTTP.
//!
//! [`Responder`] answers each probe with whatever the test wants, also nonsense. [`Device`] checks WS-Security digests by its own
//! clock, which may be far off, and writes down all it was sent.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

/// What stands between the tags of the first element called `name`, with any prefix.
pub fn between<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let named = |(at, word): &(usize, &str)| text[at + word.len()..].starts_with(['>', ' ']);
    let (at, word) = text.match_indices(&format!(":{name}")).find(named)?;
    let rest = &text[at + word.len()..];
    let rest = &rest[rest.find('>')? + 1..];
    Some(&rest[..rest.find("</")?])
}

/// Answers probes on a UDP socket.
pub struct Responder {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// One on a port of its own. `answers` gets the probe's message id and gives the datagrams to send back.
    pub fn start(answers: impl Fn(&str) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::on(UdpSocket::bind("127.0.0.1:0").unwrap(), answers)
    }

    pub fn on(socket: UdpSocket, answers: impl Fn(&str) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, sender)) = socket.recv_from(&mut buffer) else { continue };
                let probe = String::from_utf8(buffer[..length].to_vec()).unwrap();
                assert_eq!(between(&probe, "Action"), Some("http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe"));
                for answer in answers(between(&probe, "MessageID").unwrap()) {
                    socket.send_to(&answer, sender).unwrap();
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the responder has panicked");
    }
}

/// An answer of one camera to the probe `related`.
pub fn answer(related: &str, endpoint: &str, scopes: &str, xaddrs: &str) -> Vec<u8> {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\">\
         <s:Header><a:RelatesTo>{related}</a:RelatesTo></s:Header><s:Body><d:ProbeMatches><d:ProbeMatch>\
         <a:EndpointReference><a:Address>{endpoint}</a:Address></a:EndpointReference><d:Types>dn:NetworkVideoTransmitter</d:Types>\
         <d:Scopes>{scopes}</d:Scopes><d:XAddrs>{xaddrs}</d:XAddrs></d:ProbeMatch></d:ProbeMatches></s:Body></s:Envelope>"
    )
    .into_bytes()
}

/// Scopes of a camera called so; the name percent-encoded.
pub fn scopes(name: &str) -> String {
    format!(
        "onvif://www.onvif.org/name/{name} onvif://www.onvif.org/hardware/HW-1 onvif://www.onvif.org/location/city/x"
    )
}

/// How a [`Device`] behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// User and password; none: everybody may ask.
    pub login: Option<(&'static str, &'static str)>,
    /// It knows the newer media service too, and GetServices.
    pub new: bool,
    /// Seconds its clock is ahead.
    pub skew: i64,
    /// The host that it gives its media service; `None`: the right one.
    pub media_host: Option<String>,
    /// What its streams' addresses begin with, after the scheme.
    pub stream: String,
    /// Everything is answered with this instead.
    pub instead: Option<Instead>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { login: None, new: false, skew: 0, media_host: None, stream: "127.0.0.1:554/live".into(), instead: None }
    }
}

#[derive(Clone, Debug)]
pub enum Instead {
    Redirect(String),
    /// So many megabytes.
    Flood(usize),
    Body(String),
}

/// A device's web services.
pub struct Device {
    pub address: SocketAddr,
    /// Everything it was sent.
    pub heard: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, stop) = (Arc::<Mutex<String>>::default(), Arc::new(AtomicBool::new(false)));
        let (hear, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut nonces = HashSet::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away in the middle is its own affair.
                let _ = serve(&stream.unwrap(), &behaviour, address, &hear, &mut nonces);
            }
        });
        Self { address, heard, stop, thread: Some(thread) }
    }

    /// The address of its device service.
    pub fn xaddr(&self) -> String {
        format!("http://{}/onvif/device_service", self.address)
    }

    pub fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the device has panicked");
    }
}

fn serve(
    stream: &TcpStream,
    behaviour: &Behaviour,
    own: SocketAddr,
    heard: &Mutex<String>,
    nonces: &mut HashSet<String>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        heard.lock().unwrap().push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    heard.lock().unwrap().push_str(&body);
    let mut stream = stream;
    let mut send = |status: &str, more: &str, body: &str| {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/soap+xml\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n{body}"
        )
    };
    match &behaviour.instead {
        Some(Instead::Redirect(to)) => return send("302 Found", &format!("location: {to}\r\n"), ""),
        Some(Instead::Body(body)) => return send("200 OK", "", body),
        Some(Instead::Flood(megabytes)) => {
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            let block = vec![b'<'; 1 << 20];
            return (0..*megabytes).try_for_each(|_| stream.write_all(&block));
        }
        None => {}
    }
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(behaviour.skew);
    match respond(&body, behaviour, own, time, nonces) {
        Ok(inside) => send("200 OK", "", &envelope(&inside)),
        Err(code) => {
            let fault = format!(
                "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{code}</s:Value></s:Subcode></s:Code>\
                 <s:Reason><s:Text>no</s:Text></s:Reason></s:Fault>"
            );
            send("400 Bad Request", "", &envelope(&fault))
        }
    }
}

fn envelope(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:tds=\"http://www.onvif.org/ver10/device/wsdl\" xmlns:tt=\"http://www.onvif.org/ver10/schema\" \
         xmlns:trt=\"http://www.onvif.org/ver10/media/wsdl\"><s:Body>{inside}</s:Body></s:Envelope>"
    )
}

fn respond(
    body: &str,
    behaviour: &Behaviour,
    own: SocketAddr,
    time: jiff::Timestamp,
    nonces: &mut HashSet<String>,
) -> Result<String, &'static str> {
    let host = behaviour.media_host.clone().unwrap_or_else(|| own.to_string());
    if body.contains(":GetSystemDateAndTime>") {
        let t = time.to_zoned_datetime(jiff::tz::TimeZone::UTC);
        return Ok(format!(
            "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:UTCDateTime><tt:Time><tt:Hour>{}</tt:Hour><tt:Minute>{}</tt:Minute>\
             <tt:Second>{}</tt:Second></tt:Time><tt:Date><tt:Year>{}</tt:Year><tt:Month>{}</tt:Month><tt:Day>{}</tt:Day></tt:Date></tt:UTCDateTime>\
             </tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse>",
            t.hour(),
            t.minute(),
            t.second(),
            t.year(),
            t.month(),
            t.day()
        ));
    }
    if body.contains(":GetServices>") {
        if !behaviour.new {
            return Err("ter:ActionNotSupported");
        }
        let service = |version: u32| {
            format!(
                "<tds:Service><tds:Namespace>http://www.onvif.org/ver{version}0/media/wsdl</tds:Namespace>\
                 <tds:XAddr>http://{host}/onvif/media{version}</tds:XAddr></tds:Service>"
            )
        };
        return Ok(format!("<tds:GetServicesResponse>{}{}</tds:GetServicesResponse>", service(1), service(2)));
    }
    if body.contains(":GetCapabilities>") {
        return Ok(format!(
            "<tds:GetCapabilitiesResponse><tds:Capabilities><tt:Media><tt:XAddr>http://{host}/onvif/media1</tt:XAddr></tt:Media>\
             </tds:Capabilities></tds:GetCapabilitiesResponse>"
        ));
    }
    if let Some((user, password)) = behaviour.login {
        authorise(body, user, password, time, nonces)?;
    }
    let new = body.contains("ver20/media");
    if body.contains(":GetProfiles>") {
        let profile = |token: &str, name: &str, codec: &str, (width, height): (u32, u32), rate: u32| {
            let open = if new {
                "<trt:Configurations><trt:VideoEncoder token='e'>"
            } else {
                "<tt:VideoEncoderConfiguration token='e'>"
            };
            let close =
                if new { "</trt:VideoEncoder></trt:Configurations>" } else { "</tt:VideoEncoderConfiguration>" };
            format!(
                "<trt:Profiles token=\"{token}\" fixed=\"true\"><tt:Name>{name}</tt:Name>{open}<tt:Name>e</tt:Name><tt:Encoding>{codec}</tt:Encoding>\
                 <tt:Resolution><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height></tt:Resolution>\
                 <tt:RateControl><tt:FrameRateLimit>{rate}</tt:FrameRateLimit></tt:RateControl>{close}</trt:Profiles>"
            )
        };
        let main = profile("Profile_1", "mainStream", if new { "H265" } else { "H264" }, (1920, 1080), 25);
        let sub = profile("p&amp;2", "subStream", "JPEG", (640, 360), 5);
        return Ok(format!("<trt:GetProfilesResponse>{main}{sub}</trt:GetProfilesResponse>"));
    }
    if body.contains(":GetStreamUri>") {
        let channel = match between(body, "ProfileToken") {
            Some("Profile_1") => "1",
            Some("p&amp;2") => "2",
            _ => return Err("ter:NoProfile"),
        };
        let uri = format!("<tt:Uri>rtsp://{}/{channel}?unicast=1&amp;x=y</tt:Uri>", behaviour.stream);
        let uri = if new { uri } else { format!("<trt:MediaUri>{uri}<tt:Timeout>PT60S</tt:Timeout></trt:MediaUri>") };
        return Ok(format!("<trt:GetStreamUriResponse>{uri}</trt:GetStreamUriResponse>"));
    }
    Err("ter:ActionNotSupported")
}

/// As a camera does: the digest, a fresh nonce, and a time near its own.
fn authorise(
    body: &str,
    user: &str,
    password: &str,
    time: jiff::Timestamp,
    nonces: &mut HashSet<String>,
) -> Result<(), &'static str> {
    const REFUSED: &str = "ter:NotAuthorized";
    let part = |name| between(body, name).ok_or(REFUSED);
    let (nonce, created) = (part("Nonce")?, part("Created")?);
    let bytes = BASE64.decode(nonce).map_err(|_| REFUSED)?;
    let digest = Sha1::new().chain_update(bytes).chain_update(created).chain_update(password).finalize();
    let stamp: jiff::Timestamp = created.parse().map_err(|_| REFUSED)?;
    // A minute is what cameras usually allow; this machine may be busy.
    let near = stamp.duration_since(time).as_secs().abs() <= 60;
    let good = part("Username")? == user && part("Password")? == BASE64.encode(digest) && near;
    if good && nonces.insert(nonce.to_owned()) { Ok(()) } else { Err(REFUSED) }
}
