//! OpenCLIP's `open_clip_config.json`. In: the JSON; out: an [`Architecture`]. Fields that are left out have the defaults of
//! `CLIPVisionCfg` and `CLIPTextCfg`. Every field that changes the arithmetic is read; those that ask for something that is
//! not built are refused by name.

use std::path::Path;

use serde_json::Value;

use super::bytes::shown;
use super::config_hf::most;
use super::fields::Fields;
use super::{
    Act, Architecture, ImportError, LayerKind, Projection, TextPooling, TextTower, Transformer, VisionPooling,
    VisionTower, config_timm,
};
use crate::LogitParameters;

/// Fields that change the arithmetic of a tower when they are set to anything but null, false, zero or nothing.
const REFUSED_IN_EITHER: [&str; 11] = [
    "ls_init_value",
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "input_patchnorm",
    "embed_cls",
    "use_pad_mask",
];

/// What the tensors and the folder say beside the configuration.
#[derive(Clone, Debug)]
pub(super) struct Hints {
    pub(super) head: LogitParameters,
    /// The text projection has a bias.
    pub(super) projection_bias: bool,
    /// Of a timm image tower.
    pub(super) timm: Option<config_timm::Shapes>,
}

/// The architecture.
///
/// # Errors
/// Fields that are wrong or ask for something that is not built.
pub(super) fn architecture(config: &Value, file: &Path, hints: Hints) -> Result<Architecture, ImportError> {
    let whole = Fields::of(file, config)?;
    // The file in a model's folder has `model_cfg`; those of the library itself are what is in it.
    let model = if whole.get("model_cfg").is_some() { whole.inner("model_cfg")? } else { whole.clone() };
    if let Some(missing) = ["vision_cfg", "text_cfg"].into_iter().find(|name| model.get(name).is_none()) {
        return Err(super::fields::damaged(file, format!("lacks the object `model_cfg.{missing}`")));
    }
    let (vision, text) = (model.inner("vision_cfg")?, model.inner("text_cfg")?);
    refuse_vision(&vision)?;
    refuse_text(&text)?;
    if model.get("multimodal_cfg").is_some() {
        return Err(model.unsupported("multimodal_cfg", "a CoCa model"));
    }
    let quick = match model.get("quick_gelu") {
        Some(_) => model.flag("quick_gelu", false)?,
        None => named_quick_gelu(&whole)? || named_quick_gelu(&model)?,
    };
    let image_size = image_size(&vision)?;
    let image_tower = match config_timm::is_named(&vision) {
        true => config_timm::tower(&vision, image_size, hints.timm.as_ref(), file)?,
        false => own_tower(&vision, image_size, quick)?,
    };
    let embed_dim = model.size("embed_dim", 512, most::WIDTH)?;
    if image_tower.projection == Projection::None && image_tower.body.width != embed_dim {
        let width = image_tower.body.width;
        let problem = format!("the image tower gives {width} values, and `embed_dim` says {embed_dim}");
        return Err(ImportError::Mismatch { file: file.to_owned(), problems: vec![problem] });
    }
    let text_width = text.size("width", 512, most::WIDTH)?;
    let heads = text.size("heads", 8, most::HEADS)?;
    if !text_width.is_multiple_of(heads) {
        let found = Value::from(heads);
        return Err(text.wrong("heads", &format!("a divisor of the width {text_width}"), &found));
    }
    let vocab = text.size("vocab_size", 49_408, most::VOCAB)?;
    Ok(Architecture {
        vision: image_tower,
        text: TextTower {
            body: body(&text, text_width, heads, quick)?,
            vocab,
            context: text.size("context_length", 77, most::CONTEXT)?,
            causal: !text.flag("no_causal_mask", false)?,
            padding: None,
            pooling: pooling(&text, vocab)?,
            projection_bias: hints.projection_bias,
        },
        embed_dim,
        logit_scale: hints.head.scale,
        logit_bias: hints.head.bias,
        activation: hints.head.activation,
    })
}

/// The library's own vision transformer.
fn own_tower(vision: &Fields<'_>, image_size: usize, quick: bool) -> Result<VisionTower, ImportError> {
    let width = vision.size("width", 768, most::WIDTH)?;
    let head_width = vision.size("head_width", 64, most::WIDTH)?;
    // Divided and cut off, as there.
    let heads = width / head_width;
    if heads == 0 || !width.is_multiple_of(heads) {
        let found = Value::from(head_width);
        return Err(vision.wrong("head_width", &format!("one that cuts the width {width} into equal heads"), &found));
    }
    Ok(VisionTower {
        body: body(vision, width, heads, quick)?,
        image_size,
        patch: patch(vision, image_size)?,
        class_token: true,
        pre_norm: !vision.flag("no_ln_pre", false)?,
        patch_bias: false,
        pooling: VisionPooling::ClassToken,
        projection: Projection::Linear { bias: false },
    })
}

/// Whether a name in the configuration ends as OpenCLIP's models with this activation do.
fn named_quick_gelu(fields: &Fields<'_>) -> Result<bool, ImportError> {
    let mut found = false;
    for name in ["model_name", "name", "architecture"] {
        found |= fields.text(name)?.is_some_and(is_quick_gelu);
    }
    Ok(found)
}

/// `ViT-B-32-quickgelu` and the like.
pub(super) fn is_quick_gelu(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("-quickgelu")
}

/// Whether a field asks for something: null, false, 0, "" and empty objects do not.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn refuse_either(tower: &Fields<'_>) -> Result<(), ImportError> {
    let found = REFUSED_IN_EITHER.iter().find(|name| tower.get(name).is_some_and(asks));
    match found {
        Some(name) => Err(tower.unsupported(name, "a transformer of an uncommon kind")),
        None => Ok(()),
    }
}

fn refuse_vision(vision: &Fields<'_>) -> Result<(), ImportError> {
    if let Some(name) = vision.get("timm_model_name").filter(|v| asks(v) && !v.is_string()) {
        return Err(vision.wrong("timm_model_name", "a string", name));
    }
    if vision.get("layers").is_some_and(Value::is_array) {
        return Err(vision.unsupported("layers", "a ResNet image tower"));
    }
    if vision.get("attentional_pool").is_some_and(asks) {
        return Err(vision.unsupported("attentional_pool", "an image tower with attentional pooling"));
    }
    if vision.flag("global_average_pool", false)? {
        return Err(vision.unsupported("global_average_pool", "an image tower with average pooling"));
    }
    if let Some(pool) = vision.text("pool_type")?.filter(|pool| *pool != "tok") {
        return Err(vision.unsupported("pool_type", format!("an image tower with the pooling `{}`", shown(pool))));
    }
    refuse_either(vision)
}

fn refuse_text(text: &Fields<'_>) -> Result<(), ImportError> {
    if let Some(name) = text.get("hf_model_name").filter(|v| asks(v)) {
        let what = format!("a text tower of Transformers ({})", shown(&name.to_string()));
        return Err(text.unsupported("hf_model_name", what));
    }
    if let Some(kind) = text.text("proj_type")?.filter(|kind| *kind != "linear") {
        return Err(text.unsupported("proj_type", format!("a text tower with the projection `{}`", shown(kind))));
    }
    refuse_either(text)
}

fn body(tower: &Fields<'_>, width: usize, heads: usize, quick: bool) -> Result<Transformer, ImportError> {
    // An image tower's `layers` is a number here: lists were refused.
    let layers = tower.size("layers", 12, most::LAYERS)?;
    let mlp = (width as f64 * tower.number("mlp_ratio", 4.0, 0.01, 64.0)?) as usize;
    // `nn.LayerNorm`'s default, 1e-5, unless the model says otherwise.
    let eps = tower.inner("norm_kwargs")?.number("eps", 1e-5, 1e-12, 1e-2)? as f32;
    let approximate = tower.inner("act_kwargs")?.text("approximate")?;
    let act = match (quick, approximate) {
        (true, _) => Act::QuickGelu,
        (false, Some("tanh")) => Act::GeluTanh,
        (false, None | Some("none")) => Act::Gelu,
        (false, Some(other)) => {
            return Err(tower.unsupported("act_kwargs", format!("the approximation `{}` of GELU", shown(other))));
        }
    };
    Ok(Transformer { width, layers, heads, mlp, eps, act, kind: LayerKind::PLAIN })
}

/// A number or `[height, width]`.
fn square(tower: &Fields<'_>, name: &str, default: usize, max: usize) -> Result<usize, ImportError> {
    let Some(Value::Array(sides)) = tower.get(name) else { return tower.size(name, default, max) };
    match sides.as_slice() {
        [a, b] if a == b => {
            let side = a.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
            side.ok_or_else(|| tower.wrong(name, &format!("from 1 to {max}"), a))
        }
        _ => Err(tower.unsupported(name, "an image tower for pictures that are not square")),
    }
}

fn image_size(vision: &Fields<'_>) -> Result<usize, ImportError> {
    square(vision, "image_size", 224, most::IMAGE)
}

fn patch(vision: &Fields<'_>, image_size: usize) -> Result<usize, ImportError> {
    square(vision, "patch_size", 16, image_size)
}

fn pooling(text: &Fields<'_>, vocab: usize) -> Result<TextPooling, ImportError> {
    Ok(match text.text("pool_type")? {
        None | Some("argmax") => TextPooling::ArgmaxId,
        Some("last") => TextPooling::Last,
        Some("eos") => {
            let id = text.size("eos_id", 2, vocab.saturating_sub(1).max(1))?;
            TextPooling::FirstId(u32::try_from(id).unwrap_or(u32::MAX))
        }
        Some(other) => {
            return Err(text.unsupported("pool_type", format!("a text tower with the pooling `{}`", shown(other))));
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Activation;

    fn read(config: &Value) -> Result<Architecture, ImportError> {
        let head = LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax };
        let hints = Hints { head, projection_bias: false, timm: None };
        architecture(config, Path::new("open_clip_config.json"), hints)
    }

    #[test]
    fn what_is_left_out_is_openclips_default() {
        let model = read(&json!({"model_cfg": {"embed_dim": 640, "vision_cfg": {}, "text_cfg": {}}})).unwrap();
        let kind = LayerKind::PLAIN;
        let vision = Transformer { width: 768, layers: 12, heads: 12, mlp: 3072, eps: 1e-5, act: Act::Gelu, kind };
        let text = Transformer { width: 512, layers: 12, heads: 8, mlp: 2048, eps: 1e-5, act: Act::Gelu, kind };
        assert_eq!((&model.vision.body, &model.text.body), (&vision, &text));
        assert_eq!((model.vision.image_size, model.vision.patch, model.embed_dim), (224, 16, 640));
        assert_eq!((model.text.vocab, model.text.context, model.text.pooling), (49_408, 77, TextPooling::ArgmaxId));
        assert!(model.text.causal && model.vision.pre_norm && model.vision.class_token);
    }

    #[test]
    fn every_field_that_changes_the_arithmetic_is_read() {
        let model = read(&json!({"vision_cfg": {"image_size": [240, 240], "patch_size": [15, 15], "width": 96, "head_width": 32,
            "mlp_ratio": 2.5, "no_ln_pre": true, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
            "ls_init_value": null, "attentional_pool": false, "timm_model_name": "", "pool_type": "tok"},
            "text_cfg": {"pool_type": "eos", "eos_id": 7, "no_causal_mask": true, "proj_type": "linear", "mlp_ratio": 3}}))
        .unwrap();
        let (act, kind) = (Act::GeluTanh, LayerKind::PLAIN);
        let vision = Transformer { width: 96, layers: 12, heads: 3, mlp: 240, eps: 1e-6, act, kind };
        assert_eq!((&model.vision.body, model.vision.image_size, model.vision.patch), (&vision, 240, 15));
        assert!(!model.vision.pre_norm && !model.text.causal);
        assert_eq!((model.text.pooling, model.text.body.mlp), (TextPooling::FirstId(7), 1536));
    }

    #[test]
    fn heads_are_those_that_fit_into_the_width() {
        let heads = |width: usize, head: usize| {
            let config = json!({"vision_cfg": {"width": width, "head_width": head}, "text_cfg": {}});
            read(&config).map(|model| model.vision.body.heads)
        };
        assert_eq!(heads(768, 64).unwrap(), 12);
        assert_eq!(heads(48, 20).unwrap(), 2);
        assert!(heads(50, 20).is_ok() && heads(50, 16).unwrap_err().to_string().contains("head_width"));
        assert!(heads(48, 64).is_err());
    }

    #[test]
    fn quick_gelu_comes_from_the_flag_or_else_from_the_name() {
        let act = |extra: Value| {
            let mut config = json!({"model_cfg": {"vision_cfg": {}, "text_cfg": {}}});
            config["model_cfg"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let model = read(&config).unwrap();
            assert_eq!(model.vision.body.act, model.text.body.act);
            model.text.body.act
        };
        assert_eq!(act(json!({"quick_gelu": true})), Act::QuickGelu);
        assert_eq!(act(json!({"name": "ViT-B-32-quickgelu"})), Act::QuickGelu);
        assert_eq!(act(json!({"name": "ViT-B-32-quickgelu", "quick_gelu": false})), Act::Gelu);
        assert_eq!(act(json!({"name": "ViT-B-32"})), Act::Gelu);
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (vision, text, word) in [
            (json!({"timm_model_name": "convnext_base_w"}), json!({}), "convnext_base_w"),
            (json!({"layers": [3, 4, 6, 3]}), json!({}), "ResNet"),
            (json!({"pool_type": "avg"}), json!({}), "`avg`"),
            (json!({"global_average_pool": true}), json!({}), "average"),
            (json!({"attentional_pool": true}), json!({}), "attentional"),
            (json!({"ls_init_value": 1e-5}), json!({}), "ls_init_value"),
            (json!({"input_patchnorm": true}), json!({}), "input_patchnorm"),
            (json!({"image_size": [224, 288]}), json!({}), "square"),
            (json!({}), json!({"hf_model_name": "xlm-roberta-base"}), "xlm-roberta-base"),
            (json!({}), json!({"pool_type": "first"}), "`first`"),
            (json!({}), json!({"embed_cls": true}), "embed_cls"),
            (json!({}), json!({"proj_type": "mlp"}), "`mlp`"),
        ] {
            let error = read(&json!({"vision_cfg": vision, "text_cfg": text})).unwrap_err();
            assert!(matches!(error, ImportError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        let coca = read(&json!({"vision_cfg": {}, "text_cfg": {}, "multimodal_cfg": {"width": 1}})).unwrap_err();
        assert!(coca.to_string().contains("CoCa"), "{coca}");
        assert!(read(&json!({"model_cfg": {"text_cfg": {}}})).unwrap_err().to_string().contains("vision_cfg"));
    }
}
