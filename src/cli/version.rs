//! `vtagd version`: which program this is and what it stands on, for people and for whoever looks after many boxes. Nothing is connected to; ONNX
//! Runtime is loaded to be asked. On the caller's thread.

use serde::Serialize;

use super::say;
use crate::infer::runtime;
use crate::source::abilities;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON: an object, to which fields may be added.
    #[arg(long)]
    json: bool,
}

/// What is installed here. Stable; fields may be added.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// Of this program.
    pub version: &'static str,
    pub architecture: &'static str,
    /// Whether it has sinks of `type: kafka`.
    pub kafka: bool,
    /// Such as `GStreamer 1.22.0`; nothing where it does not start.
    pub gstreamer: Option<String>,
    pub onnx_runtime: Option<OnnxRuntime>,
    /// Why there is no `onnx_runtime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_onnx_runtime: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct OnnxRuntime {
    /// What the library says of itself.
    pub build: &'static str,
    /// The file.
    pub library: String,
}

impl Installed {
    pub fn look() -> Self {
        let (onnx_runtime, no_onnx_runtime) = match runtime::load(None) {
            Ok(found) => {
                (Some(OnnxRuntime { build: runtime::version(), library: found.library().display().to_string() }), None)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            kafka: cfg!(feature = "kafka"),
            gstreamer: abilities::version().ok(),
            onnx_runtime,
            no_onnx_runtime,
        }
    }

    /// The same in lines.
    fn lines(&self) -> String {
        let kafka = if self.kafka { "with" } else { "without" };
        let gstreamer = self.gstreamer.as_deref().unwrap_or("GStreamer does not start");
        let runtime = match (&self.onnx_runtime, &self.no_onnx_runtime) {
            (Some(found), _) => format!("ONNX Runtime: {}\n  {}", found.build, found.library),
            (None, why) => format!("no ONNX Runtime: {}", why.as_deref().unwrap_or_default()),
        };
        format!("vtagd {} ({}), {kafka} Kafka\n{gstreamer}\n{runtime}", self.version, self.architecture)
    }
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    let installed = Installed::look();
    let told = if args.json {
        serde_json::to_string_pretty(&installed).map_err(|e| e.to_string())
    } else {
        Ok(installed.lines())
    };
    match told {
        Ok(text) => {
            say(&text);
            0
        }
        Err(error) => {
            super::complain(&error);
            1
        }
    }
}
