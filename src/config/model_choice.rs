//! Which model: `model` of the configuration, checked. In: the section as written; out: a directory, a hub's repository, the starter model or
//! none, with the scale and bias that somebody would rather have. On the caller's thread; looks at the disk.

use std::path::Path;

use super::schema::Model;
use super::{ModelChoice, ModelSettings};
use crate::model::LogitOverride;
use crate::model::hub::Reference;
use crate::platform::missing;
use crate::yaml::field_reader::{At, Field, Reader};

/// Largest scale or bias that is taken for meant: published ones end at 120 and -17.
const MAX_LOGIT: f32 = 10_000.0;

pub fn check(field: &Field<Model>, reader: &mut Reader<'_>) -> Option<ModelSettings> {
    let model = match field {
        Field::Missing => return Some(ModelChoice::Starter.into()),
        Field::Wrong => return None,
        Field::Given(model) => &model.value,
    };
    let logits = LogitOverride { scale: logit(&model.logit_scale, reader), bias: logit(&model.logit_bias, reader) };
    if let Some(scale) = model.logit_scale.given()
        && scale.value as f32 <= 0.0
    {
        let message = format!("is {}, which turns every score round or makes all of them alike", scale.value);
        reader.error(scale, message, "write what the cosine is multiplied by, such as 100 (not its logarithm)");
    }
    let choice = match &model.path {
        Field::Missing => ModelChoice::Starter,
        Field::Wrong => return None,
        Field::Given(path) => model_choice(path, reader)?,
    };
    Some(ModelSettings { choice, logits })
}

/// A finite number of 32 bits.
fn logit(field: &Field<f64>, reader: &mut Reader<'_>) -> Option<f32> {
    let number = field.given()?;
    let value = number.value as f32;
    if !value.is_finite() || value.abs() > MAX_LOGIT {
        reader.error(
            number,
            format!("is {}, beyond {MAX_LOGIT}", number.value),
            "remove the key to use the model's own",
        );
        return None;
    }
    Some(value)
}

fn model_choice(path: &At<String>, reader: &mut Reader<'_>) -> Option<ModelChoice> {
    match Reference::read(&path.value) {
        Some(Ok(reference)) => return Some(ModelChoice::Hub(reference)),
        Some(Err(error)) => {
            reader.error(path, error.to_string(), "write hf:ORG/NAME or hf:ORG/NAME@REVISION");
            return None;
        }
        None => {}
    }
    match path.value.as_str() {
        "starter" => Some(ModelChoice::Starter),
        "none" => Some(ModelChoice::None),
        text => {
            let folder = reader.document().resolve(path.place, Path::new(text));
            if folder.is_dir() {
                return Some(ModelChoice::Path(folder));
            }
            let why = missing::why(&folder, "folder");
            let remedy = "name a model directory, write hf:ORG/NAME to have one pulled from a hub (`vtagd model pull ORG/NAME` \
                          does it now and prints its folder), or write starter or none";
            reader.refuse(path, format!("{} {why}", folder.display()), remedy)
        }
    }
}
