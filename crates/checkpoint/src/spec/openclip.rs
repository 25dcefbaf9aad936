//! OpenCLIP's `preprocess_cfg` object, and Immich's file of the same fields.

use serde_json::Value;

use super::field::{self, Object, bad, get, kind};
use super::hf::{CLIP_MEAN, CLIP_STD};
use super::{CropRounding, Parts, Resize, ResizeFilter, SpecError};

/// Reads every field that matters with OpenCLIP's defaults (`PreprocessCfg`).
pub(super) fn parts(map: &Object, image_size: Option<&Value>) -> Result<Parts, SpecError> {
    let (height, width) = match (get(map, "size"), image_size) {
        (Some(value), _) => size(value, "size")?,
        (None, Some(value)) => size(value, "image_size")?,
        (None, None) => return Err(bad("size", "missing; expected a number or [height, width]")),
    };
    if let Some(mode) = field::text(map, "mode")?.filter(|&mode| mode != "RGB") {
        return Err(bad("mode", format!("expected \"RGB\", found {mode:?}; only RGB models are served")));
    }
    let filter = match field::text(map, "interpolation")? {
        None | Some("bicubic" | "random") => ResizeFilter::Bicubic,
        Some("bilinear") => ResizeFilter::Bilinear,
        Some("nearest") => ResizeFilter::Nearest,
        Some("lanczos") => ResizeFilter::Lanczos,
        Some(other) => return Err(bad("interpolation", format!("expected bicubic or bilinear, found {other:?}"))),
    };
    let resize = match field::text(map, "resize_mode")? {
        None | Some("shortest") if height == width => Resize::Shortest(height),
        None | Some("shortest") => Resize::Cover(height, width),
        Some("longest") => Resize::Inside(height, width),
        Some("squash") => Resize::Exact(height, width),
        Some(other) => {
            return Err(bad("resize_mode", format!("expected shortest, longest or squash, found {other:?}")));
        }
    };
    let mean = field::channels(map, "mean", field::MEAN)?.unwrap_or(CLIP_MEAN);
    let std = field::channels(map, "std", field::STD)?.unwrap_or(CLIP_STD);
    let fill = get(map, "fill_color").map(|v| field::number(v, "fill_color", 0.0, 255.0)).transpose()?;
    Ok(Parts {
        size: (height, width),
        resize,
        crop_rounding: CropRounding::HalfEven,
        filter,
        rescale: Some(1.0 / 255.0),
        normalise: Some((mean, std)),
        mean,
        fill: fill.unwrap_or(0.0),
    })
}

fn size(value: &Value, name: &str) -> Result<(u32, u32), SpecError> {
    match value {
        Value::Number(_) => field::side(value, name).map(|side| (side, side)),
        Value::Array(items) => field::pair(items, name),
        _ => Err(bad(name, format!("expected a number or [height, width], found {}", kind(value)))),
    }
}
