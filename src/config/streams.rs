//! Checks `streams`: ids, views, how each is sampled, and which label sets it uses. Where its pictures come from: `stream_address.rs`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::StreamSettings;
use super::schema::{Reconnect as RawReconnect, Stream, Unchanged as RawUnchanged};
use super::stream_address;
use super::views;
use crate::frame::coded_size;
use crate::frame::thumbprint::Unchanged;
use crate::frame::view::Views;
use crate::label::LabelSet;
use crate::platform::backoff::Ladder;
use crate::sample::Interval;
use crate::source::{Decode, Decoder, Limits, Location, Pace, Reconnect, SourceSettings};
use crate::stream::StreamId;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::text_form::{self, LOOK_ALIKE};
use crate::yaml::{Place, secrets};

/// Longest id of a stream, and name of a region: it becomes a thread name, a metric label and a topic.
const MAX_ID: usize = 64;

/// Beyond this hardly anything counts as a change.
const MAX_TOLERANCE: f64 = 64.0;

/// What streams need to know of the rest of the configuration.
pub struct Surroundings<'a> {
    pub interval: Interval,
    pub unchanged: Option<Unchanged>,
    pub decode: Decode,
    pub reconnect: Reconnect,
    pub decoder: Decoder,
    pub max_pixels: Option<u64>,
    pub sets: &'a [LabelSet],
    /// Some set could not be read: unknown set names are not reported a second time.
    pub sets_incomplete: bool,
    pub templates: PathBuf,
}

/// Checks all streams; those with a problem are left out.
pub fn check(list: &[At<Stream>], around: &Surroundings<'_>, reader: &mut Reader<'_>) -> Vec<StreamSettings> {
    let mut ids: HashMap<String, Place> = HashMap::new();
    let mut streams = Vec::with_capacity(list.len());
    for stream in list {
        if let Some(id) = stream.value.id.given()
            && let Some(first) = ids.insert(id.value.clone(), id.place)
        {
            let message = format!("`{}` is used twice (first in {})", id.value, reader.line(first, id.place));
            reader.error(id, message, "give each stream its own id");
        }
        streams.extend(one(stream, around, reader));
    }
    streams
}

fn one(at: &At<Stream>, around: &Surroundings<'_>, reader: &mut Reader<'_>) -> Option<StreamSettings> {
    let raw = &at.value;
    // Everything is looked at before the first `?`, so that one mistake hides no other.
    let id = id(at, reader);
    let place = stream_address::place(at, reader);
    let way = place.as_ref().and_then(|(location, ..)| stream_address::way(raw, location, reader));
    let pace = raw.pace.value().unwrap_or_default();
    let looped = raw.looped.value().unwrap_or_default();
    if let Some((location, ..)) = &place
        && !matches!(location, Location::File(_))
    {
        if let Some(pace) = raw.pace.given().filter(|pace| pace.value == Pace::Fast) {
            reader.error(
                pace,
                "`fast` is only for files: a live source sets its own pace",
                "remove it, or use file://",
            );
        }
        if let Some(looped) = raw.looped.given().filter(|looped| looped.value) {
            reader.error(looped, "is only for files", "remove it, or use file://");
        }
    }
    let interval = interval(&raw.sampling.given().map(|sampling| &sampling.value.interval), reader);
    let interval = match (interval, pace) {
        (Some(Interval::Auto), Pace::Fast) => {
            if let Some(at) = raw.sampling.given().and_then(|sampling| sampling.value.interval.given()) {
                let remedy = "write a duration: it is read as fast as its samples are inferred, none is ever lost";
                reader.error(at, "`auto` has no meaning with `pace: fast`", remedy);
            }
            Interval::Auto
        }
        (Some(interval), _) => interval,
        // What adapts to the box is the others' business.
        (None, Pace::Fast) if around.interval == Interval::Auto => Interval::Every(super::validate::DEFAULT_INTERVAL),
        (None, _) => around.interval,
    };
    let unchanged = match raw.sampling.given() {
        Some(sampling) => unchanged(&sampling.value.unchanged, around.unchanged, reader),
        None => around.unchanged,
    };
    let decode = raw.sampling.given().and_then(|sampling| sampling.value.decode.value());
    let own = raw.reconnect.given().map(|reconnect| &reconnect.value);
    let reconnect = own.map_or_else(|| around.reconnect.clone(), |own| reconnect(own, &around.reconnect, reader));
    let decoder = raw.sampling.given().and_then(|sampling| sampling.value.decoder.value());
    let max_pixels = raw.sampling.given().and_then(|sampling| max_pixels(&sampling.value.max_pixels, reader));
    let views = raw.view.given().map_or_else(|| Some(Views::default()), |view| views::check(&view.value, reader));
    let label_sets = label_sets(&raw.labels, around, reader);
    if let Some(regions) = raw.view.given().and_then(|view| view.value.regions.given()) {
        views::tell_renamed(regions, label_sets.iter().filter_map(|set| around.sets.get(*set)), reader);
    }
    let ((location, username, password), way) = (place?, way?);
    let password_file = raw.password.given().and_then(|password| secrets::file(password, reader));
    Some(StreamSettings {
        source: SourceSettings {
            id: id?,
            location,
            username,
            password,
            password_file,
            pace,
            looped,
            decode: decode.unwrap_or(around.decode),
            decoder: decoder.unwrap_or(around.decoder),
            max_pixels: max_pixels.or(around.max_pixels),
            any_codec: max_pixels.is_some(),
            templates: around.templates.clone(),
            reconnect,
            transport: way.transport,
            tls: way.tls,
            push: way.push,
            host_alone: false,
        },
        views: views?,
        interval,
        unchanged,
        label_sets,
        enabled: raw.enabled.value().unwrap_or(true),
        history: raw.history.value().is_none_or(|kept| kept.0),
    })
}

fn id(at: &At<Stream>, reader: &mut Reader<'_>) -> Option<StreamId> {
    let id = reader.required(at, "id", &at.value.id, "name the stream, such as `id: dock-3`")?;
    is_name(id, "a stream id", "camera-1", reader).then(|| StreamId::from(id.value.as_str()))
}

/// Whether `name` is `what`, made of characters that fit everywhere; that it is not is reported, with a better one or `example`.
pub(super) fn is_name(name: &At<String>, what: &str, example: &str, reader: &mut Reader<'_>) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !name.value.is_empty() && name.value.len() <= MAX_ID && name.value.chars().all(fits) {
        return true;
    }
    let message = format!("is not {what} (lower-case letters, digits, `_` and `-`, at most {MAX_ID})");
    let better: String =
        name.value.to_lowercase().chars().take(MAX_ID).map(|c| if fits(c) { c } else { '-' }).collect();
    let better = if better.trim_matches('-').is_empty() { example } else { &better };
    reader.error(name, message, format!("write, for example, `{better}`"));
    false
}

/// A checked interval above zero. `None` also if it is left out.
pub fn interval(field: &Option<&Field<Interval>>, reader: &mut Reader<'_>) -> Option<Interval> {
    let interval = field.as_ref()?.given()?;
    let good = interval.value != Interval::Every(Duration::ZERO);
    reader.accept(interval, good, "must be above 0", "write, for example, 1s")
}

/// A checked number of pixels.
pub fn max_pixels(field: &Field<usize>, reader: &mut Reader<'_>) -> Option<u64> {
    let at = field.given()?;
    let (least, most) = (coded_size::Limits::LEAST_PIXELS, coded_size::Limits::MOST_PIXELS);
    let pixels = u64::try_from(at.value).unwrap_or(u64::MAX);
    if !(least..=most).contains(&pixels) {
        let message = format!("is outside {least} to {most}: it is a number of pixels");
        let eight_k = coded_size::Limits::MAX_PIXELS;
        return reader.refuse(at, message, format!("write, for example, {eight_k} for 8K, which is the default"));
    }
    Some(pixels)
}

/// Checks `unchanged`; what it leaves out comes from `default`, and where that is off, from what is sensible.
pub fn unchanged(
    field: &Field<RawUnchanged>,
    default: Option<Unchanged>,
    reader: &mut Reader<'_>,
) -> Option<Unchanged> {
    let raw = match field.given().map(|at| &at.value) {
        None => return default,
        Some(RawUnchanged::Off) => return None,
        Some(RawUnchanged::On(raw)) => raw,
    };
    let mut settings = default.unwrap_or_default();
    if let Some(at) = raw.tolerance.given() {
        if at.value > 0.0 && at.value <= MAX_TOLERANCE {
            settings.tolerance = at.value as f32;
        } else {
            reader.error(
                at,
                format!("is outside 0 to {MAX_TOLERANCE} levels"),
                "write, for example, 4, or `unchanged: off`",
            );
        }
    }
    if let Some(at) = raw.max_age.given() {
        if at.value.is_zero() {
            reader.error(at, "must be above 0", "write, for example, 10s, or `unchanged: off`");
        }
        settings.max_age = at.value;
    }
    Some(settings)
}

/// Checks `reconnect`; what it leaves out comes from `default`.
pub fn reconnect(raw: &RawReconnect, default: &Reconnect, reader: &mut Reader<'_>) -> Reconnect {
    let mut above_zero = |field: &Field<Duration>, example: &str| {
        let at = field.given()?;
        reader.accept(at, !at.value.is_zero(), "must be above 0", format!("write, for example, {example}"))
    };
    let (was, limits) = (&default.ladder, &default.limits);
    let bottom = was.steps.first().copied().unwrap_or_default();
    let top = was.steps.last().copied().unwrap_or_default();
    let (first, max) = (above_zero(&raw.first, "1s"), above_zero(&raw.max, "60s"));
    let limits = Limits {
        first_frame: above_zero(&raw.first_frame, "30s").unwrap_or(limits.first_frame),
        stall: above_zero(&raw.stall, "20s").unwrap_or(limits.stall),
        tear_down: limits.tear_down,
    };
    let stable = raw.stable.value().unwrap_or(was.stable);
    // One of the two alone moves the other: nobody has to say what they did not ask about.
    let (first, max) = match (first, max) {
        (Some(first), None) => (first, top.max(first)),
        (None, Some(max)) => (bottom.min(max), max),
        (first, max) => (first.unwrap_or(bottom), max.unwrap_or(top)),
    };
    if let Some(at) = raw.first.given().filter(|_| first > max) {
        reader.error(at, "is longer than `max`", "waits start at `first` and double up to `max`");
    }
    Reconnect { ladder: Ladder::doubling(first, max, stable), limits }
}

fn label_sets(field: &Field<Vec<At<String>>>, around: &Surroundings<'_>, reader: &mut Reader<'_>) -> Vec<usize> {
    let Some(names) = field.given() else { return (0..around.sets.len()).collect() };
    let mut chosen = Vec::with_capacity(names.value.len());
    if reader.document().find(&names.path).is_empty_list() {
        reader.warn(names, "is empty: the stream is watched for nothing", "remove the key to use every set");
    }
    for name in &names.value {
        match around.sets.iter().position(|set| set.name == name.value) {
            Some(index) if chosen.contains(&index) => {
                reader.warn(name, "is named twice", "keep one of them");
            }
            Some(index) => chosen.push(index),
            None if around.sets_incomplete => {}
            None => {
                let known: Vec<&str> = around.sets.iter().map(|set| set.name.as_str()).collect();
                let alike = text_form::alike(&name.value, &known);
                let remedy = match crate::yaml::nearest(&name.value, &known) {
                    _ if let Some(alike) = alike => format!("`{alike}` {LOOK_ALIKE}: copy it from its file"),
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "list its file under `labels`".to_owned(),
                    None => format!("known sets: {}", known.join(", ")),
                };
                reader.error(name, format!("no label set is named `{}`", name.value), remedy);
            }
        }
    }
    chosen
}
