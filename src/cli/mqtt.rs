//! `vtagd mqtt`: whose a topic prefix at a broker is, and what older versions left below it. Reads the configuration and the outbox beside
//! a daemon that runs or not; everything at the broker is done in [`maintenance`]. On the main thread.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};

use super::{DEFAULT_CONFIG, check, complain, plain, plural, say};
use crate::config::{self, Absence, Settings, SinkSettings};
use crate::outbox::{identity, levels};
use crate::platform::secret::Secret;
use crate::sink::mqtt::leftovers::Stream;
use crate::sink::mqtt::maintenance::{self, Ownership};
use crate::sink::mqtt::{MqttSettings, Owner};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this configuration's daemon the owner of its topic prefix.
    ///
    /// For a box that takes the place of another one, or a prefix that is held to be another program's. Daemons that run notice at once.
    Claim {
        #[command(flatten)]
        which: Which,
    },
    /// Remove what versions without a record of their topics left below the prefix.
    ///
    /// States of streams and labels that the configuration does not have, and their devices in Home Assistant. What may be another program's
    /// is listed and left.
    Clear {
        #[command(flatten)]
        which: Which,
        /// Only list it.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which sink.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Configuration file.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Name of the sink, where there are several of type mqtt.
    #[arg(long)]
    sink: Option<String>,
}

/// Why it did not work, and the exit code.
type Failure = (String, u8);

/// Runs one of the commands; the exit code.
pub fn run(command: &Command) -> u8 {
    let (Command::Claim { which } | Command::Clear { which, .. }) = command;
    let settings = match config::load_for(&which.config, Absence::Passed) {
        Ok(settings) => settings,
        Err(problems) => {
            // With stderr closed there is nobody left to tell.
            let _ = check::report(&problems, &mut std::io::stderr());
            return 2;
        }
    };
    let done = which.sink(&settings).and_then(|sink| {
        if sink.password.as_ref().is_some_and(Secret::is_absent) {
            let remedy =
                "run this as the daemon's user, or with `systemd-run -P -p LoadCredential=NAME:PATH vtagd mqtt …`";
            return Err((format!("the broker's password is not here; {remedy}"), 2));
        }
        let owner = owner(&settings)?;
        match command {
            Command::Claim { .. } => claim(sink, &owner),
            Command::Clear { dry_run, .. } => clear(sink, &owner, &settings, *dry_run),
        }
    });
    match done {
        Ok(()) => 0,
        Err((why, code)) => {
            complain(&why);
            code
        }
    }
}

impl Which {
    fn sink<'s>(&self, settings: &'s Settings) -> Result<&'s MqttSettings, Failure> {
        let sinks = settings.sinks.iter().zip(&settings.routes).filter_map(|(sink, route)| match sink {
            SinkSettings::Mqtt(mqtt) => Some((route.name.as_str(), mqtt)),
            _ => None,
        });
        let sinks: Vec<_> = sinks.collect();
        let names = || sinks.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let file = self.config.display();
        match (&self.sink, &sinks[..]) {
            (_, []) => Err((format!("{file} has no sink of type mqtt"), 2)),
            (None, [(_, one)]) => Ok(one),
            (None, _) => {
                Err((format!("{file} has several sinks of type mqtt, choose one with --sink: {}", names()), 2))
            }
            (Some(wanted), _) => sinks
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, mqtt)| *mqtt)
                .ok_or_else(|| (format!("{file} has no sink {wanted} of type mqtt; it has: {}", names()), 2)),
        }
    }
}

/// Who the daemon of this configuration is.
fn owner(settings: &Settings) -> Result<Owner, Failure> {
    let id = match &settings.outbox.path {
        None => identity::of_machine(&settings.file, &settings.instance),
        Some(path) => {
            let known = identity::of_file(path).map_err(|error| (error.to_string(), error.exit_code()))?;
            known.ok_or_else(|| unknown(path))?
        }
    };
    Ok(Owner { id, instance: settings.instance.clone() })
}

fn unknown(path: &Path) -> Failure {
    let why = "says nothing of who this daemon is; start this version of vtagd once, then try again";
    (format!("the outbox {} {why}", path.display()), 1)
}

fn claim(sink: &MqttSettings, owner: &Owner) -> Result<(), Failure> {
    let (before, now) = maintenance::claim(sink, owner).map_err(|fault| (fault.to_string(), 1))?;
    let (prefix, url, instance) = (&sink.topic_prefix, &sink.url, &owner.instance);
    match now {
        Ownership::Theirs(who) => {
            let who = plain(&who);
            return Err((format!("the prefix {prefix} at {url} belongs to {who}, who took it at the same time"), 1));
        }
        Ownership::Unknown => {
            let why = "the broker does not show it; may this user read and write it?";
            return Err((format!("{prefix}/owner at {url} was published, but {why}"), 1));
        }
        Ownership::Ours => {}
    }
    let before = before.map_or_else(String::new, |who| format!("; it was of {}", plain(&who)));
    say(&format!("the prefix {prefix} at {url} belongs to {instance} ({}) now{before}", owner.id));
    Ok(())
}

fn clear(sink: &MqttSettings, owner: &Owner, settings: &Settings, dry_run: bool) -> Result<(), Failure> {
    let levels = settings.outbox.path.as_deref().map(|path| levels::of_file(path, &sink.place())).transpose();
    let levels = levels.map_err(|error| (error.to_string(), error.exit_code()))?.unwrap_or_default();
    let found = maintenance::clear(sink, owner, &streams(settings), &levels, dry_run);
    let found = found.map_err(|fault| (fault.to_string(), 1))?;
    let prefix = &sink.topic_prefix;
    let found = found.map_err(|who| {
        let who = plain(&who);
        (format!("the prefix {prefix} at {} belongs to {who}; `vtagd mqtt claim` takes it over", sink.url), 1)
    })?;
    let verb = if dry_run { "would remove" } else { "removed" };
    for (topic, what) in &found.ours {
        say(&format!("{verb} {} ({what})", plain(topic)));
    }
    for topic in &found.unsure {
        say(&format!("left {} (may be another program's)", plain(topic)));
    }
    say(&format!("{verb} {}", plural(found.ours.len(), "topic")));
    Ok(())
}

/// The streams of the configuration with their labels.
fn streams(settings: &Settings) -> Vec<Stream> {
    let one = |stream: &config::StreamSettings| {
        let sets = stream.label_sets.iter().filter_map(|set| settings.label_sets.get(*set));
        let labels = sets.flat_map(|set| set.labels.iter().map(|label| (set.name.clone(), label.name.clone())));
        (stream.source.id.to_string(), labels.collect())
    };
    settings.streams.iter().map(one).collect()
}
