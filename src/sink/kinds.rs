//! The kinds of sink that there are, a line each: the word for `type` and the settings, which bring the rest with them ([`SinkConfig`]).

use super::config::{SinkConfig, SinkItem};
use super::jsonl::JsonlTarget;
use super::kafka::KafkaSettings;
use super::mqtt::MqttSettings;
use super::nats::NatsSettings;
use super::webhook::WebhookSettings;
use super::{Sink, SinkContext, SinkStartError};
use crate::yaml::field_reader::{At, MapReader, Reader, Section};
use crate::yaml::key_reference::Key;

macro_rules! sinks {
    ($($word:literal => $kind:ident($settings:ty)),* $(,)?) => {
        /// `type` of a sink.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SinkKind { $($kind),* }

        crate::words! { SinkKind { $($word => Self::$kind),* } }

        /// Where events go.
        #[derive(Clone, Debug, PartialEq)]
        pub enum SinkSettings { $($kind($settings)),* }

        /// The keys of a sink as written, beside those that every sink has.
        pub enum SinkKeys { $($kind(<$settings as SinkConfig>::Keys)),* }

        impl SinkKind {
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $word),* }
            }

            /// See [`Section`], as the next three.
            pub fn keys(self) -> &'static [&'static str] {
                match self { $(Self::$kind => <$settings as SinkConfig>::Keys::KEYS),* }
            }

            pub fn read(self, map: &mut MapReader<'_>, reader: &mut Reader<'_>) -> SinkKeys {
                match self { $(Self::$kind => SinkKeys::$kind(Section::read(map, reader))),* }
            }

            pub fn properties(self) -> serde_json::Map<String, serde_json::Value> {
                match self { $(Self::$kind => <$settings as SinkConfig>::Keys::properties()),* }
            }

            pub fn paths(self, path: &str, out: &mut Vec<Key>) {
                match self { $(Self::$kind => <$settings as SinkConfig>::Keys::paths(path, out)),* }
            }
        }

        impl SinkKeys {
            /// See [`SinkConfig::check`].
            pub fn check(&self, at: &At<SinkItem>, reader: &mut Reader<'_>) -> Option<SinkSettings> {
                match self {
                    $(Self::$kind(keys) => <$settings>::check(at, keys, reader).map(SinkSettings::$kind)),*
                }
            }
        }

        impl SinkSettings {
            pub fn kind(&self) -> SinkKind {
                match self { $(Self::$kind(_) => SinkKind::$kind),* }
            }

            /// Where it goes, without credentials.
            pub fn target(&self) -> String {
                match self { $(Self::$kind(settings) => settings.target()),* }
            }

            /// See [`SinkConfig::addresses`].
            pub fn addresses(&self) -> Vec<(String, u16)> {
                match self { $(Self::$kind(settings) => settings.addresses()),* }
            }

            /// See [`SinkConfig::former_target`].
            pub fn former_target(&self) -> Option<String> {
                match self { $(Self::$kind(settings) => settings.former_target()),* }
            }

            /// The sink, ready to run.
            ///
            /// # Errors
            /// When its file cannot be opened, or this binary has no client for it.
            pub fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError> {
                match self { $(Self::$kind(settings) => settings.open(context)),* }
            }
        }
    };
}

sinks! {
    "jsonl" => Jsonl(JsonlTarget),
    "mqtt" => Mqtt(MqttSettings),
    "webhook" => Webhook(WebhookSettings),
    "nats" => Nats(NatsSettings),
    "kafka" => Kafka(KafkaSettings),
}
