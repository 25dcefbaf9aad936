//! What `run` would open first, tried by `check`: the API's address, the outbox, files of events, the folder of pictures, the
//! certificates of sinks. Settings in, problems at the lines of the file out. Nothing is left behind, nobody is connected to, and a daemon
//! that runs already is not disturbed: its address and its outbox are not taken, and not in the way. On the caller's thread, as its user.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpSocket;

use crate::config::{JsonlTarget, Settings, SinkSettings};
use crate::platform::running_daemons;
use crate::platform::tls::{self, Trust};
use crate::platform::writable::{self, Unwritable};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, Place};

/// See the module. `document` is what the settings were read from.
pub fn problems(settings: &Settings, document: &Document) -> Vec<Problem> {
    let mut trial = Trial { document, problems: Vec::new() };
    let daemon = Daemon::find(settings);
    daemon.tell(settings, &mut trial);
    if let Some(api) = &settings.api {
        trial.listen(api.listen, &daemon);
    }
    if let Some(path) = &settings.outbox.path {
        let beside = ["-wal", "-shm", ".lock"].map(|end| format!("{}{end}", path.display()));
        let all = beside.iter().map(Path::new).filter(|path| path.exists()).chain([path.as_path()]);
        let tried = all.map(writable::file).find(Result::is_err).unwrap_or_else(|| writable::folder_of(path));
        trial.written("outbox.path", tried);
    }
    if let Some(snapshots) = &settings.snapshots {
        trial.written("snapshots.path", writable::folder(&snapshots.path));
    }
    if let Some(path) = settings.history.as_ref().and_then(|history| history.path.as_ref()) {
        trial.written("history.path", writable::folder(path));
    }
    for (index, sink) in settings.sinks.iter().enumerate() {
        let field = format!("sinks[{index}]");
        match sink {
            SinkSettings::Jsonl(JsonlTarget::Stdout) => {}
            SinkSettings::Jsonl(JsonlTarget::File { path, rotation }) => {
                let field = format!("{field}.path");
                trial.written(&field, writable::file(path));
                // A file that is turned over gets another name.
                if rotation.is_some() && path.exists() {
                    trial.written(&field, writable::folder_of(path));
                }
            }
            SinkSettings::Mqtt(mqtt) => trial.certificates(&field, &mqtt.trust, Severity::Error),
            SinkSettings::Webhook(webhook) => trial.certificates(&field, &webhook.trust, Severity::Error),
            SinkSettings::Nats(nats) => trial.certificates(&field, &nats.trust, Severity::Error),
            // Its client has a TLS of its own, which may know more.
            SinkSettings::Kafka(kafka) => {
                trial.certificates(&field, &kafka.tls.clone().unwrap_or_default(), Severity::Warning);
            }
        }
    }
    trial.problems
}

struct Trial<'d> {
    document: &'d Document,
    problems: Vec<Problem>,
}

impl Trial<'_> {
    fn report(&mut self, severity: Severity, field: &str, message: String, remedy: &str) {
        // One that is not in the file has no line.
        let place = self.document.find_exactly(field).map(|node| node.place);
        let mut problem = self.document.problem(severity, place.unwrap_or(Place::START), field, message, remedy);
        if place.is_none() {
            (problem.position, problem.snippet) = (None, String::new());
        }
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn written(&mut self, field: &str, tried: Result<(), Unwritable>) {
        let Err(error) = tried else { return };
        let remedy = match error.source.kind() {
            ErrorKind::PermissionDenied => {
                "let the daemon's user write there, or name a folder that it may write to, such as one below /var/lib/vtagd"
            }
            ErrorKind::ReadOnlyFilesystem => {
                "name a folder on a disk that can be written; a unit may need ReadWritePaths="
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there, or name another folder",
            _ => "name another place",
        };
        self.report(Severity::Error, field, error.to_string(), remedy);
    }

    fn listen(&mut self, address: SocketAddr, daemon: &Daemon) {
        let Err(error) = bind(address) else { return };
        let remedy = match error.kind() {
            ErrorKind::AddrInUse if matches!(daemon, Daemon::Own { .. }) => return,
            ErrorKind::AddrInUse => {
                "another program listens there, which `ss -ltnp` names: stop it, or choose another port"
            }
            ErrorKind::AddrNotAvailable => {
                "no interface of this machine has that address: choose one that `ip address` shows"
            }
            ErrorKind::PermissionDenied => "ports below 1024 are root's: choose one above, such as 8642",
            _ => "choose another address",
        };
        self.report(Severity::Error, "api.listen", format!("{address} cannot be listened on ({error})"), remedy);
    }

    fn certificates(&mut self, field: &str, trust: &Trust, severity: Severity) {
        let alone = Trust { ca: trust.ca.clone(), identity: None };
        let remedy = "name PEM files: certificates of authorities in `ca`; a chain, its own certificate first, in `cert`; that one's key in `key`";
        if trust.ca.is_some()
            && let Err(error) = tls::client(&alone)
        {
            self.report(severity, &format!("{field}.ca"), error, remedy);
        }
        // What is for another user was told.
        let readable = |key: &Path| !File::open(key).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        if let Some((cert, key)) = &trust.identity
            && readable(key)
            && let Err(error) = tls::server(cert, key)
        {
            self.report(severity, &format!("{field}.cert"), error, remedy);
        }
    }
}

/// Bound, and not listened on: whoever does listen is in the way, whoever only tries the same is not, and nobody can connect meanwhile.
fn bind(address: SocketAddr) -> std::io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// A daemon that runs here.
enum Daemon {
    None,
    /// Of this configuration.
    Own {
        process: Option<u32>,
    },
    /// Of another one, which has this one's outbox.
    Other {
        process: u32,
        file: String,
    },
}

impl Daemon {
    fn find(settings: &Settings) -> Self {
        let own = settings.file.canonicalize().unwrap_or_else(|_| settings.file.clone());
        let running = running_daemons::all();
        let lock = settings.outbox.path.as_deref().and_then(held);
        let Some(lock) = lock else {
            let found = running.iter().find(|(_, file)| *file == own);
            return found.map_or(Self::None, |(process, _)| Self::Own { process: Some(*process) });
        };
        let process = running_daemons::holder(&lock);
        match process.and_then(|process| running.into_iter().find(|(number, _)| *number == process)) {
            // Where it stands cannot be seen from everywhere.
            Some((process, file)) if file != own && file.is_absolute() => {
                Self::Other { process, file: file.display().to_string() }
            }
            _ => Self::Own { process },
        }
    }

    fn tell(&self, settings: &Settings, trial: &mut Trial<'_>) {
        match self {
            Self::None => {}
            Self::Own { process } => {
                let which = process.map_or(String::new(), |process| format!(" (process {process})"));
                let message = format!("a daemon runs already{which}: what it listens on was not tried");
                let at = if settings.outbox.path.is_some() { "outbox.path" } else { "api.listen" };
                trial.report(Severity::Notice, at, message, "it goes on as it is until it is reloaded or restarted");
            }
            Self::Other { process, file } => {
                let message = format!("is in use by another daemon (process {process}, of {file})");
                trial.report(Severity::Error, "outbox.path", message, "give each daemon an outbox of its own");
            }
        }
    }
}

/// The lock of the outbox at `path`, where a daemon holds it. A look, shared and over at once; whoever holds it notices nothing.
fn held(path: &Path) -> Option<File> {
    let lock = File::open(format!("{}.lock", path.display())).ok()?;
    let is_held = flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK);
    is_held.then_some(lock)
}
