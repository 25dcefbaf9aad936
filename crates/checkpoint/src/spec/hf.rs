//! Hugging Face `preprocessor_config.json`, with the defaults of the Transformers image processor that it names.

use serde_json::Value;

use super::field::{self, Object, bad, get, kind};
use super::{CropRounding, Parts, Resize, ResizeFilter, SpecError};

/// Mean and standard deviation of OpenAI's CLIP (`OPENAI_CLIP_MEAN`, `OPENAI_CLIP_STD` in Transformers).
pub(super) const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub(super) const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

const HALF: [f64; 3] = [0.5; 3];

/// What a processor takes for fields that the file leaves out.
struct Defaults {
    size: Option<Size>,
    /// A bare number as size means a square, not the shorter side.
    square: bool,
    crop: Option<u32>,
    center_crop: bool,
    filter: ResizeFilter,
    statistics: Option<([f64; 3], [f64; 3])>,
}

#[derive(Clone, Copy)]
enum Size {
    Shortest(u32),
    Exact(u32, u32),
}

/// Reads every field that matters and applies the defaults.
pub(super) fn parts(map: &Object) -> Result<Parts, SpecError> {
    let processor = processor(map)?;
    let defaults = defaults(processor, map)?;
    let missing = |name: &str| {
        let who = processor.unwrap_or("this processor");
        bad(name, format!("missing, and the default of {who} is not known; add it"))
    };

    let center_crop = field::flag(map, "do_center_crop", defaults.center_crop)?;
    let crop = match get(map, "crop_size") {
        Some(value) => Some(exact(value, "crop_size")?),
        None => defaults.crop.map(|side| (side, side)),
    };
    let crop = if center_crop { Some(crop.ok_or_else(|| missing("crop_size"))?) } else { None };

    let resize = if field::flag(map, "do_resize", true)? {
        let size = match get(map, "size") {
            Some(value) => size(value, field::flag(map, "default_to_square", defaults.square)?)?,
            None => defaults.size.ok_or_else(|| missing("size"))?,
        };
        match size {
            Size::Shortest(side) => Resize::Shortest(side),
            Size::Exact(height, width) => Resize::Exact(height, width),
        }
    } else {
        Resize::None
    };
    let size = match (crop, resize) {
        (Some(crop), _) => crop,
        (None, Resize::Exact(height, width)) => (height, width),
        (None, _) => {
            let reason = "without a centre crop the input has no fixed size; set `do_center_crop` and `crop_size`, \
                          or `size` to a height and a width with `do_resize`";
            return Err(bad("size", reason));
        }
    };

    let filter = match get(map, "resample") {
        Some(value) => filter(value)?,
        None => defaults.filter,
    };
    let rescale = if field::flag(map, "do_rescale", true)? {
        let factor = get(map, "rescale_factor").map(|v| field::number(v, "rescale_factor", 1e-9, 1e6)).transpose()?;
        Some(factor.unwrap_or(1.0 / 255.0))
    } else {
        None
    };
    let mean = field::channels(map, "image_mean", field::MEAN)?.or(defaults.statistics.map(|s| s.0));
    let std = field::channels(map, "image_std", field::STD)?.or(defaults.statistics.map(|s| s.1));
    let normalise = if field::flag(map, "do_normalize", true)? {
        Some((mean.ok_or_else(|| missing("image_mean"))?, std.ok_or_else(|| missing("image_std"))?))
    } else {
        None
    };
    // Done last, and only to pictures that are smaller than all others of a batch or than `pad_size`: ours are of one size.
    if field::flag(map, "do_pad", false)?
        && let Some(value) = get(map, "pad_size")
        && exact(value, "pad_size")? != size
    {
        return Err(bad(
            "pad_size",
            "padding to another size than the rest gives is not served; set `do_pad` to false",
        ));
    }
    // Pictures are always turned to RGB, whatever it says; a wrong kind of value is still a damaged file.
    field::flag(map, "do_convert_rgb", true)?;

    Ok(Parts {
        size,
        resize,
        crop_rounding: CropRounding::Floor,
        filter,
        rescale,
        normalise,
        mean: mean.unwrap_or(HALF),
        fill: 0.0,
    })
}

/// The processor's name without the ending that says what computes it.
fn processor(map: &Object) -> Result<Option<&str>, SpecError> {
    for name in ["image_processor_type", "feature_extractor_type", "processor_class"] {
        if let Some(text) = field::text(map, name)? {
            return Ok(Some(text.strip_suffix("Fast").or_else(|| text.strip_suffix("Pil")).unwrap_or(text)));
        }
    }
    Ok(None)
}

fn defaults(processor: Option<&str>, map: &Object) -> Result<Defaults, SpecError> {
    let clip = Some((CLIP_MEAN, CLIP_STD));
    let half = Some((HALF, HALF));
    let square = Some(Size::Exact(224, 224));
    Ok(match processor {
        None | Some("CLIPImageProcessor" | "CLIPFeatureExtractor" | "CLIPProcessor") => Defaults {
            size: Some(Size::Shortest(224)),
            square: false,
            crop: Some(224),
            center_crop: true,
            filter: ResizeFilter::Bicubic,
            statistics: clip,
        },
        Some("ChineseCLIPImageProcessor" | "ChineseCLIPFeatureExtractor" | "ChineseCLIPProcessor") => Defaults {
            size: square,
            square: true,
            crop: Some(224),
            center_crop: true,
            filter: ResizeFilter::Bicubic,
            statistics: clip,
        },
        Some("SiglipImageProcessor" | "SiglipProcessor") => Defaults {
            size: square,
            square: true,
            crop: None,
            center_crop: false,
            filter: ResizeFilter::Bicubic,
            statistics: half,
        },
        Some("ViTImageProcessor" | "ViTFeatureExtractor") => Defaults {
            size: square,
            square: true,
            crop: None,
            center_crop: false,
            filter: ResizeFilter::Bilinear,
            statistics: half,
        },
        Some(other) => {
            if get(map, "max_num_patches").is_some() {
                let reason = format!(
                    "{other} cuts pictures into a varying number of patches; use a model with a fixed input size"
                );
                return Err(bad("max_num_patches", reason));
            }
            // An unknown processor: everything that would change the numbers must be written down.
            let crop = get(map, "crop_size").is_some();
            Defaults {
                size: None,
                square: !crop,
                crop: None,
                center_crop: crop,
                filter: ResizeFilter::Bicubic,
                statistics: None,
            }
        }
    })
}

/// `size`: a number, `[height, width]`, `{shortest_edge}` or `{height, width}`.
fn size(value: &Value, square: bool) -> Result<Size, SpecError> {
    match value {
        Value::Number(_) if !square => Ok(Size::Shortest(field::side(value, "size")?)),
        Value::Object(map) if get(map, "shortest_edge").is_some() => {
            if get(map, "longest_edge").is_some() {
                return Err(bad("size.longest_edge", "a bound on the longer side is not served; leave it out"));
            }
            Ok(Size::Shortest(field::side(&map["shortest_edge"], "size.shortest_edge")?))
        }
        _ => exact(value, "size").map(|(height, width)| Size::Exact(height, width)),
    }
}

/// A number (square), `[height, width]` or `{height, width}`.
fn exact(value: &Value, name: &str) -> Result<(u32, u32), SpecError> {
    match value {
        Value::Number(_) => field::side(value, name).map(|side| (side, side)),
        Value::Array(items) => field::pair(items, name),
        Value::Object(map) => {
            let part = |key: &str| {
                let name = format!("{name}.{key}");
                let value = get(map, key).ok_or_else(|| bad(&name, "missing; expected `height` and `width`"))?;
                field::side(value, &name)
            };
            Ok((part("height")?, part("width")?))
        }
        _ => Err(bad(name, format!("expected a number or {{height, width}}, found {}", kind(value)))),
    }
}

/// Pillow's number of a filter.
fn filter(value: &Value) -> Result<ResizeFilter, SpecError> {
    Ok(match value.as_u64() {
        Some(0) => ResizeFilter::Nearest,
        Some(1) => ResizeFilter::Lanczos,
        Some(2) => ResizeFilter::Bilinear,
        Some(3) => ResizeFilter::Bicubic,
        Some(4) => ResizeFilter::Box,
        Some(5) => ResizeFilter::Hamming,
        _ => {
            let names = "0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (hamming)";
            return Err(bad("resample", format!("expected {names}, found {}", kind(value))));
        }
    })
}
