//! What `run` would open first, tried by `check`: the API's address, the state directory, the outbox, files of events, the folder of pictures, the
//! certificates of sinks. Settings in, problems at the lines of the file out. Nothing is left behind, nobody is connected to, and a daemon
//! that runs already is not disturbed: its address and its locks are not taken, and not in the way. On the caller's thread, as its user.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpSocket;

use crate::config::{self, Absence, JsonlTarget, Settings, SinkSettings};
use crate::platform::running_daemons;
use crate::platform::tls::{self, Trust};
use crate::platform::writable::{self, Unwritable};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, Place};

/// See the module. `document` is what the settings were read from; a daemon of the configuration `in_force`, the same file or the one that it is to
/// replace, is not in its way.
pub fn problems(settings: &Settings, in_force: &Path, document: &Document) -> Vec<Problem> {
    let mut trial = Trial { document, problems: Vec::new() };
    let running = Running::find(settings, in_force);
    running.tell(settings, &mut trial);
    if let Some(api) = &settings.api {
        trial.listen(api.listen, running.own.is_some() && is_held_by(in_force, settings, api.listen));
    }
    let state = settings.state.try_out();
    // The default one, which nobody has asked for, is done without.
    let state_is_wrong = state.is_err() && settings.state.is_given();
    if state_is_wrong {
        trial.written("state.path", state);
    }
    // What lies below it is wrong for the same reason.
    let told = |path: &Path| state_is_wrong && path.starts_with(settings.state.path());
    if let Some(path) = settings.outbox.path.as_deref().filter(|path| !told(path)) {
        let beside = ["-wal", "-shm", ".lock"].map(|end| format!("{}{end}", path.display()));
        let all = beside.iter().map(Path::new).filter(|path| path.exists()).chain([path]);
        let tried = all.map(writable::file).find(Result::is_err).unwrap_or_else(|| writable::folder_of(path));
        trial.written("outbox.path", tried);
    }
    if let Some(snapshots) = settings.snapshots.as_ref().filter(|snapshots| !told(&snapshots.path)) {
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

/// Whether a daemon of the configuration `in_force` listens on `address`; one that cannot be read may.
fn is_held_by(in_force: &Path, settings: &Settings, address: SocketAddr) -> bool {
    if in_force == settings.file {
        return true;
    }
    let other = config::load_with_document(in_force, Absence::Told);
    other.map_or(true, |(other, _)| other.api.is_some_and(|api| api.listen == address))
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

    fn listen(&mut self, address: SocketAddr, runs: bool) {
        let Err(error) = bind(address) else { return };
        let remedy = match error.kind() {
            ErrorKind::AddrInUse if runs => return,
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

/// Daemons that run here.
struct Running {
    /// Of this configuration; its process, if that can be told.
    own: Option<Option<u32>>,
    /// Of other configurations, which have this one's place: its key, process and file.
    others: Vec<(&'static str, u32, String)>,
}

impl Running {
    fn find(settings: &Settings, in_force: &Path) -> Self {
        let own_file = in_force.canonicalize().unwrap_or_else(|_| in_force.to_owned());
        let all = running_daemons::all();
        // The default one is done without where it cannot be written, whoever holds it.
        let state = settings.state.is_given() || settings.state.try_out().is_ok();
        let locks = [
            ("state.path", state.then(|| settings.state.held_lock()).flatten()),
            ("outbox.path", settings.outbox.path.as_deref().and_then(held)),
        ];
        let mut running = Self { own: None, others: Vec::new() };
        for (field, lock) in locks.into_iter().filter_map(|(field, lock)| Some((field, lock?))) {
            let process = running_daemons::holder(&lock);
            match all.iter().find(|(number, _)| Some(*number) == process) {
                // Where it stands cannot be seen from everywhere.
                Some((number, file)) if *file != own_file && file.is_absolute() => {
                    running.others.push((field, *number, file.display().to_string()));
                }
                _ => running.own = Some(process),
            }
        }
        if running.own.is_none() && running.others.is_empty() {
            let found = all.iter().find(|(_, file)| *file == own_file);
            running.own = found.map(|(process, _)| Some(*process));
        }
        running
    }

    fn tell(&self, settings: &Settings, trial: &mut Trial<'_>) {
        if let Some(process) = self.own {
            let which = process.map_or(String::new(), |process| format!(" (process {process})"));
            let message = format!("a daemon runs already{which}: what it listens on was not tried");
            let at = if settings.outbox.path.is_some() { "outbox.path" } else { "api.listen" };
            trial.report(Severity::Notice, at, message, "it goes on as it is until it is reloaded or restarted");
        }
        for (field, process, file) in &self.others {
            let message = format!("is in use by another daemon (process {process}, of {file})");
            let remedy = match *field {
                "state.path" => "give each daemon a state directory of its own",
                _ => "give each daemon an outbox of its own",
            };
            trial.report(Severity::Error, field, message, remedy);
        }
    }
}

/// The lock of the outbox at `path`, where a daemon holds it. A look, shared and over at once; whoever holds it notices nothing.
fn held(path: &Path) -> Option<File> {
    let lock = File::open(format!("{}.lock", path.display())).ok()?;
    let is_held = flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK);
    is_held.then_some(lock)
}
