//! `vtagd discover`: finds ONVIF cameras and prints a block of `streams:` for the configuration, or JSON.
//!
//! Exit code 0 also when no camera answered, which is said on stderr: a script that looks every day should not fail on a network
//! without cameras. 1: nobody could be asked; 2: wrong input. The password comes from a variable or file, never as an argument,
//! and the block says the same.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{self, PathBuf};
use std::time::Duration;

use super::{complain, say};
use crate::discover::{self, Device, DiscoverOptions, OnvifLogin, PORT, PasswordFrom, ProbeError, ProbeTarget};
use crate::platform::secret::Secret;
use crate::yaml::units;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to wait for answers, up to 5m.
    #[arg(long, default_value = "3s", value_parser = parse_time)]
    timeout: Duration,
    /// Ask on the interface with this address alone [default: all with multicast].
    #[arg(long, value_name = "ADDR")]
    interface: Option<IpAddr>,
    /// Ask this address instead of everybody; the port is 3702 if left out.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = parse_target)]
    target: Option<SocketAddr>,
    /// User at the cameras, for those that do not tell their streams to everybody.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Environment variable with the password.
    #[arg(long, value_name = "NAME", requires = "username", conflicts_with = "password_file")]
    password_env: Option<String>,
    /// File with the password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// A JSON list of the devices instead.
    #[arg(long)]
    json: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let fits = |time: &Duration| !time.is_zero() && *time <= Duration::from_mins(5);
    units::duration(text).filter(fits).ok_or_else(|| "write a duration such as 500ms, 3s or 1m, up to 5m".to_owned())
}

fn parse_target(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().or_else(|_| text.parse().map(|address| SocketAddr::new(address, PORT)));
    with_port.map_err(|_| "write an address, such as 10.0.0.12 or 10.0.0.12:3702".to_owned())
}

/// A name as the configuration takes it. Not clap's business: its messages repeat what was written, which may be the password itself.
fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.len() <= 128 && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Does it; the exit code.
pub fn run(args: &Args) -> u8 {
    let (from, password) = match password(args) {
        Ok(found) => found,
        Err(error) => {
            complain(&error);
            return 2;
        }
    };
    let login = args.username.clone().map(|username| OnvifLogin { username, password });
    let place = ProbeTarget { interface: args.interface, target: args.target };
    let devices = match discover::discover(&DiscoverOptions { place, time: args.timeout, login, until: None }) {
        Ok(devices) => devices,
        Err(error) => {
            complain(&error);
            return if matches!(error, ProbeError::NotOurs { .. }) { 2 } else { 1 };
        }
    };
    if devices.is_empty() {
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "no camera answered");
    }
    show(args, &devices, from.as_ref());
    0
}

fn show(args: &Args, devices: &[Device], from: Option<&PasswordFrom>) {
    if args.json {
        match serde_json::to_string_pretty(devices) {
            Ok(json) => say(&json),
            Err(error) => complain(&error),
        }
    } else if !devices.is_empty() {
        say(discover::block(devices, args.username.as_deref(), from).trim_end());
    }
}

type Password = (Option<PasswordFrom>, Option<Secret>);

/// Where the password is, and what it is.
fn password(args: &Args) -> Result<Password, String> {
    if let Some(name) = &args.password_env {
        if !is_variable(name) {
            return Err("--password-env takes the name of an environment variable: letters, digits and `_`".to_owned());
        }
        return match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok((Some(PasswordFrom::Env(name.clone())), Some(Secret::new(value)))),
            Ok(_) => Err(format!("environment variable {name} is empty; give it the password")),
            Err(std::env::VarError::NotPresent) => Err(format!("environment variable {name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("environment variable {name} is not UTF-8")),
        };
    }
    let Some(file) = &args.password_file else { return Ok((None, None)) };
    let secret = Secret::read(file).map_err(|error| format!("{} {error}", file.display()))?;
    // The configuration may lie elsewhere.
    let whole = path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok((Some(PasswordFrom::File(whole)), Some(secret)))
}
