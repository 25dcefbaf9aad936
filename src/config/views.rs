//! Checks `streams[].view`: one part of the picture, or several named ones.

use std::collections::HashMap;
use std::sync::Arc;

use super::StreamSettings;
use super::schema::{View as RawView, ViewRegion};
use super::streams::is_name;
use crate::frame::view::{NamedView, Polygon, Region, View, ViewMode, Views};
use crate::history::moment_search::ViewsInForce;
use crate::label::LabelSet;
use crate::sink::mqtt::label_levels;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::Severity;
use crate::yaml::{Place, Value};

/// Corners of a polygon, at least and at most: a mask is drawn by hand, and drawn again for every sample.
const CORNERS: std::ops::RangeInclusive<usize> = 3..=64;

const POLYGON_REMEDY: &str =
    "write three corners or more as [[x, y], …], parts of the picture: [[0, 1], [0.5, 0.4], [1, 1]]";

/// Numbers of a list, with its length as it is written: items that are no numbers have been reported one by one.
type Numbers = Vec<At<f64>>;

/// What the history's rows are held against: each stream's views as they are now.
pub fn in_force(streams: &[StreamSettings]) -> ViewsInForce {
    let of = |stream: &StreamSettings, view: &NamedView| {
        (stream.source.id.to_string(), view.name.as_deref().unwrap_or_default().to_owned(), view.digest())
    };
    streams.iter().flat_map(|stream| stream.views.iter().map(move |view| of(stream, view))).collect()
}

/// `None` where there is a problem, which has been reported.
pub(super) fn check(raw: &RawView, reader: &mut Reader<'_>) -> Option<Views> {
    let mode = raw.mode.value().unwrap_or_default();
    let Some(regions) = raw.regions.given() else {
        let region = raw.region.checked(Region::FULL, |region| self::region(region, reader))?;
        return (!matches!(raw.regions, Field::Wrong)).then(|| View { mode, region }.into());
    };
    let views = named(regions, mode, reader);
    if let Some(region) = raw.region.given() {
        let remedy = "keep one of them: give this part a name of its own in `regions`, or remove them";
        return reader.refuse(region, "cannot stand beside `regions`", remedy);
    }
    let views = views?;
    if views.len() > 1 {
        let message = format!("each sample of the stream is inferred {} times, once for each region", views.len());
        let remedy = "one decoder serves all of them; `vtagd bench` says how many pictures a second this box infers";
        reader.report(Severity::Notice, regions.place, &regions.path, message, remedy);
    }
    Views::new(views)
}

/// Says which labels are told over MQTT under another name below a region, because two topics would be one.
pub(super) fn tell_renamed<'s>(
    regions: &At<Vec<At<ViewRegion>>>,
    sets: impl Iterator<Item = &'s LabelSet>,
    reader: &mut Reader<'_>,
) {
    let labels = sets.flat_map(|set| set.labels.iter().map(|label| (&set.name, &label.name)));
    for (set, label) in labels {
        let slug = label_levels::alone(set, label, true);
        if label_levels::alone(set, label, false) == slug {
            continue;
        }
        let message = format!(
            "over MQTT, `{label}` of the set {set} is told below a region as `{slug}`: the topic of its name could be that of another label's \
             attributes, picture or switch"
        );
        let remedy = "listen to that topic, or call the label something else";
        reader.report(Severity::Notice, regions.place, &regions.path, message, remedy);
    }
}

fn named(regions: &At<Vec<At<ViewRegion>>>, mode: ViewMode, reader: &mut Reader<'_>) -> Option<Vec<NamedView>> {
    // As it is written: items that could not be read have been reported.
    let written = match &reader.document().find(&regions.path).value {
        Value::List(items) => items.len(),
        _ => 0,
    };
    if written == 0 {
        return reader.refuse(regions, "names no region", "remove the key to look at the whole picture");
    }
    if written > Views::MOST {
        let message = format!("has {written} regions, {} are the most", Views::MOST);
        return reader.refuse(regions, message, "each is inferred by itself: choose the parts that matter");
    }
    let mut names: HashMap<&str, Place> = HashMap::new();
    let mut views = Vec::with_capacity(written);
    for at in &regions.value {
        if let Some(name) = at.value.name.given()
            && let Some(first) = names.insert(&name.value, name.place)
        {
            let message =
                format!("`{}` is used twice in this stream (first in {})", name.value, reader.line(first, name.place));
            reader.error(name, message, "give each region of a stream its own name");
        }
        views.extend(one(at, mode, reader));
    }
    (views.len() == written).then_some(views)
}

fn one(at: &At<ViewRegion>, mode: ViewMode, reader: &mut Reader<'_>) -> Option<NamedView> {
    let raw = &at.value;
    // Everything is looked at before the first `?`, so that one mistake hides no other.
    let name = reader.required(at, "name", &raw.name, "name the region, such as `name: door`");
    let name = name.filter(|name| is_name(name, "a region's name", "door", reader));
    let mode = match &raw.mode {
        Field::Missing => Some(mode),
        given => given.value(),
    };
    let part = match (&raw.region, &raw.polygon) {
        (Field::Missing, Field::Missing) => {
            reader.missing(
                at,
                "region",
                "write [x, y, w, h], or corners with `polygon`; the whole picture is [0, 0, 1, 1]",
            );
            None
        }
        (Field::Given(_), Field::Given(polygon)) => reader.refuse(
            polygon,
            "cannot stand beside `region`",
            "keep one of them: the rectangle around it is found by itself",
        ),
        (Field::Given(given), Field::Missing) => region(given, reader).map(|region| (region, None)),
        (_, Field::Given(given)) => polygon(given, reader).map(|polygon| (polygon.bounds(), Some(polygon))),
        _ => None,
    };
    let (region, mask) = part?;
    Some(NamedView { name: Some(Arc::from(name?.value.as_str())), view: View { mode: mode?, region }, mask })
}

fn polygon(at: &At<Vec<At<Numbers>>>, reader: &mut Reader<'_>) -> Option<Polygon> {
    let written = length(at, reader);
    if !CORNERS.contains(&written) {
        let message = format!("has {written} corners, {} to {} are possible", CORNERS.start(), CORNERS.end());
        return reader.refuse(at, message, POLYGON_REMEDY);
    }
    let corners: Vec<[f64; 2]> = at.value.iter().filter_map(|corner| self::corner(corner, reader)).collect();
    if corners.len() < written {
        return None;
    }
    let polygon = Polygon::new(&corners);
    if polygon.is_none() {
        reader.error(
            at,
            "has no area",
            format!("its corners go round nothing, or as much one way as the other; {POLYGON_REMEDY}"),
        );
    }
    polygon
}

fn corner(at: &At<Numbers>, reader: &mut Reader<'_>) -> Option<[f64; 2]> {
    let [x, y] = at.value.as_slice() else {
        if length(at, reader) == 2 {
            return None;
        }
        return reader.refuse(at, format!("needs two numbers, has {}", at.value.len()), POLYGON_REMEDY);
    };
    if !(0.0..=1.0).contains(&x.value) || !(0.0..=1.0).contains(&y.value) {
        return reader.refuse(at, "lies outside the picture", format!("both numbers are 0 to 1; {POLYGON_REMEDY}"));
    }
    Some([x.value, y.value])
}

/// Items of a list as it is written.
fn length<T>(at: &At<Vec<At<T>>>, reader: &Reader<'_>) -> usize {
    match &reader.document().find(&at.path).value {
        Value::List(items) => items.len(),
        _ => at.value.len(),
    }
}

fn region(at: &At<Numbers>, reader: &mut Reader<'_>) -> Option<Region> {
    const REMEDY: &str = "write [x, y, w, h] as parts of the picture: [0.5, 0, 0.5, 1] is its right half";
    let [x, y, w, h] = at.value.as_slice() else {
        if length(at, reader) == 4 {
            return None;
        }
        return reader.refuse(at, format!("needs four numbers, has {}", at.value.len()), REMEDY);
    };
    let (x, y, w, h) = (x.value, y.value, w.value, h.value);
    if !(0.0..1.0).contains(&x) || !(0.0..1.0).contains(&y) {
        return reader.refuse(at, "has its corner outside the picture", REMEDY);
    }
    if w <= 0.0 || h <= 0.0 {
        return reader.refuse(at, "has no area", REMEDY);
    }
    // People write thirds: 0.333 + 0.667 may exceed 1 by rounding.
    const SLACK: f64 = 1e-6;
    if x + w > 1.0 + SLACK || y + h > 1.0 + SLACK {
        return reader.refuse(at, "reaches beyond the picture", format!("x + w and y + h may be 1 at most; {REMEDY}"));
    }
    Some(Region { x, y, w: w.min(1.0 - x), h: h.min(1.0 - y) })
}
