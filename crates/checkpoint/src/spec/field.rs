//! Typed, bounded access to the fields of an untrusted JSON object, for both dialects. `null` counts as absent.

use serde_json::{Map, Value};

use super::{MAX_SIDE, SpecError, UNNAMED};

pub(super) type Object = Map<String, Value>;

/// A refusal of `field`; the reader of the file puts its name in.
pub(super) fn bad(field: &str, reason: impl Into<String>) -> SpecError {
    SpecError::Field { file: UNNAMED.to_owned(), field: field.to_owned(), reason: reason.into() }
}

pub(super) fn object(value: &Value) -> Result<&Object, SpecError> {
    let refused = || SpecError::Syntax { file: UNNAMED.to_owned(), reason: format!("found {}", kind(value)) };
    value.as_object().ok_or_else(refused)
}

/// The kind of a value, for messages: the value itself may be long.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(s) => format!("{:?}", s.chars().take(40).collect::<String>()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

pub(super) fn get<'a>(map: &'a Object, name: &str) -> Option<&'a Value> {
    map.get(name).filter(|v| !v.is_null())
}

pub(super) fn flag(map: &Object, name: &str, default: bool) -> Result<bool, SpecError> {
    let Some(value) = get(map, name) else { return Ok(default) };
    value.as_bool().ok_or_else(|| bad(name, format!("expected true or false, found {}", kind(value))))
}

pub(super) fn text<'a>(map: &'a Object, name: &str) -> Result<Option<&'a str>, SpecError> {
    let Some(value) = get(map, name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| bad(name, format!("expected a string, found {}", kind(value))))
}

/// A side in pixels.
pub(super) fn side(value: &Value, name: &str) -> Result<u32, SpecError> {
    let refused = || bad(name, format!("expected a whole number from 1 to {MAX_SIDE}, found {}", kind(value)));
    let side = value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(refused)?;
    if (1..=MAX_SIDE).contains(&side) { Ok(side) } else { Err(refused()) }
}

/// `[height, width]`.
pub(super) fn pair(items: &[Value], name: &str) -> Result<(u32, u32), SpecError> {
    let [height, width] = items else {
        return Err(bad(name, format!("expected [height, width], found an array of {}", items.len())));
    };
    Ok((side(height, name)?, side(width, name)?))
}

/// A finite number within `low..=high`; wider values would leave f32 or make no sense as a colour.
pub(super) fn number(value: &Value, name: &str, low: f64, high: f64) -> Result<f64, SpecError> {
    let number = value.as_f64().filter(|n| (low..=high).contains(n));
    number.ok_or_else(|| bad(name, format!("expected a number from {low} to {high}, found {}", kind(value))))
}

/// One number a channel, or one for all.
pub(super) fn channels(map: &Object, name: &str, (low, high): (f64, f64)) -> Result<Option<[f64; 3]>, SpecError> {
    match get(map, name) {
        None => Ok(None),
        Some(Value::Array(items)) => {
            let [r, g, b] = items.as_slice() else {
                let count = items.len();
                return Err(bad(
                    name,
                    format!("expected 3 numbers (red, green, blue), found {count}; only RGB models are served"),
                ));
            };
            Ok(Some([number(r, name, low, high)?, number(g, name, low, high)?, number(b, name, low, high)?]))
        }
        Some(value) => Ok(Some([number(value, name, low, high)?; 3])),
    }
}

/// Bounds of means and of standard deviations: anything a colour can have, and a quotient that stays within f32.
pub(super) const MEAN: (f64, f64) = (-1e6, 1e6);
pub(super) const STD: (f64, f64) = (1e-6, 1e6);
