//! Hugging Face `config.json` of CLIP, MetaCLIP 2, Chinese CLIP and SigLIP. In: the JSON; out: an [`Architecture`]. Fields that are
//! left out have the defaults of `CLIPConfig`, `ChineseCLIPConfig` and `SiglipConfig`, which every published model was written with.

use std::path::Path;

use serde_json::Value;

use super::fields::{Fields, unsupported};
use super::{
    Act, Architecture, ImportError, LayerKind, Projection, TextPooling, TextTower, Transformer, VisionPooling,
    VisionTower,
};
use crate::{Activation, LogitParameters};

/// Largest sizes that are taken for meant: several times those of the largest published models.
pub(super) mod most {
    pub(in super::super) const WIDTH: usize = 32_768;
    pub(in super::super) const MLP: usize = 131_072;
    pub(in super::super) const LAYERS: usize = 256;
    pub(in super::super) const HEADS: usize = 1024;
    pub(in super::super) const IMAGE: usize = 4096;
    pub(in super::super) const VOCAB: usize = 4_000_000;
    pub(in super::super) const CONTEXT: usize = 4096;
}

/// The families that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Also MetaCLIP 2, which differs in one word of its configuration.
    Clip,
    ChineseClip,
    Siglip,
}

/// Most tokens of a text that Chinese CLIP was trained with (Yang et al. 2022); its tables have rows for 512.
const CHINESE_CONTEXT: usize = 52;

/// What is left out of a tower's configuration.
struct Defaults {
    width: usize,
    mlp: usize,
    heads: usize,
    act: &'static str,
    eps: f64,
}

/// The family, or what the file describes instead.
///
/// # Errors
/// [`ImportError::Unsupported`] naming it.
pub(super) fn family(config: &Value, file: &Path) -> Result<Family, ImportError> {
    let fields = Fields::of(file, config)?;
    let kind = fields.text("model_type")?.unwrap_or("");
    match kind {
        "clip" | "metaclip_2" => Ok(Family::Clip),
        "chinese_clip" => Ok(Family::ChineseClip),
        "siglip" => Ok(Family::Siglip),
        "siglip2" => Err(fields.unsupported("model_type", "a naflex SigLIP2, which takes pictures of any shape")),
        "clip_text_model"
        | "chinese_clip_text_model"
        | "metaclip_2_text_model"
        | "siglip_text_model"
        | "siglip2_text_model"
        | "bert"
        | "xlm-roberta"
        | "roberta" => Err(fields.unsupported("model_type", format!("a text-only tower (`{kind}`)"))),
        "clip_vision_model"
        | "chinese_clip_vision_model"
        | "metaclip_2_vision_model"
        | "siglip_vision_model"
        | "siglip2_vision_model"
        | "vit" => Err(fields.unsupported("model_type", format!("an image-only tower (`{kind}`)"))),
        "" => Err(unsupported(file, "a model without a `model_type`")),
        other => Err(fields.unsupported("model_type", format!("a model of the type `{}`", super::bytes::shown(other)))),
    }
}

/// The architecture; `head` comes from the tensors.
///
/// # Errors
/// Fields that are wrong or ask for something that is not built.
pub(super) fn architecture(config: &Value, file: &Path, head: LogitParameters) -> Result<Architecture, ImportError> {
    let family = family(config, file)?;
    let whole = Fields::of(file, config)?;
    let (vision, text) = (tower(&whole, "vision_config")?, tower(&whole, "text_config")?);
    let (clip, bert) = (family != Family::Siglip, family == Family::ChineseClip);
    let vision_of_clip = Defaults { width: 768, mlp: 3072, heads: 12, act: "quick_gelu", eps: 1e-5 };
    let (v, t, patch, vocab, context) = match family {
        Family::Clip => {
            let text = Defaults { width: 512, mlp: 2048, heads: 8, act: "quick_gelu", eps: 1e-5 };
            (vision_of_clip, text, 32, 49_408, 77)
        }
        Family::ChineseClip => {
            let text = Defaults { width: 768, mlp: 3072, heads: 12, act: "gelu", eps: 1e-12 };
            (vision_of_clip, text, 32, 30_522, 512)
        }
        Family::Siglip => {
            let both = || Defaults { width: 768, mlp: 3072, heads: 12, act: "gelu_pytorch_tanh", eps: 1e-6 };
            (both(), both(), 16, 32_000, 64)
        }
    };
    if vision.size("num_channels", 3, 1024)? != 3 {
        return Err(vision.unsupported("num_channels", "an image tower for other than RGB pictures"));
    }
    let image_size = vision.size("image_size", 224, most::IMAGE)?;
    let patch = vision.size("patch_size", patch, image_size)?;
    let vision_body = body(&vision, &v)?;
    let kind = LayerKind { post_norm: bert, ..LayerKind::PLAIN };
    let text_body = Transformer { kind, ..body(&text, &t)? };
    let vocab = text.size("vocab_size", vocab, most::VOCAB)?;
    let context = text.size("max_position_embeddings", context, most::CONTEXT)?;
    let context = if bert { context.min(CHINESE_CONTEXT) } else { context };
    // Configurations of this kind are told apart by their name alone (`modeling_metaclip_2.py`).
    let newer = whole.text("model_type")? == Some("metaclip_2");
    let embed_dim = if clip {
        whole.size("projection_dim", 512, most::WIDTH)?
    } else {
        if !vision.flag("vision_use_head", true)? {
            return Err(vision.unsupported("vision_use_head", "a SigLIP without its pooling head"));
        }
        text.size("projection_size", text_body.width, most::WIDTH)?
    };
    if !clip && embed_dim != vision_body.width {
        let problem =
            format!("the text tower's projection has {embed_dim} values, the image tower {}", vision_body.width);
        return Err(ImportError::Mismatch { file: file.to_owned(), problems: vec![problem] });
    }
    let pooling = if clip {
        VisionPooling::ClassToken
    } else {
        VisionPooling::AttentionHead { heads: vision_body.heads, mlp: vision_body.mlp }
    };
    Ok(Architecture {
        vision: VisionTower {
            body: vision_body,
            image_size,
            patch,
            class_token: clip,
            pre_norm: clip,
            patch_bias: !clip,
            pooling,
            projection: if clip { Projection::Linear { bias: false } } else { Projection::None },
        },
        text: TextTower {
            body: text_body,
            vocab,
            context,
            causal: family == Family::Clip,
            // The id itself is the tokenizer's.
            padding: bert.then_some(0),
            pooling: match family {
                Family::Clip => clip_pooling(&text, vocab, newer)?,
                Family::ChineseClip => TextPooling::First,
                Family::Siglip => TextPooling::Last,
            },
            projection_bias: !clip,
        },
        embed_dim,
        logit_scale: head.scale,
        logit_bias: if clip { 0.0 } else { head.bias },
        activation: if clip { Activation::Softmax } else { Activation::Sigmoid },
    })
}

/// Rows of the tables of positions and segments in BERT's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BertRows {
    pub(super) positions: usize,
    pub(super) segments: usize,
}

/// How many there are in a Chinese CLIP's.
///
/// # Errors
/// Fields that are wrong.
pub(super) fn bert_rows(config: &Value, file: &Path) -> Result<BertRows, ImportError> {
    let text = tower(&Fields::of(file, config)?, "text_config")?;
    Ok(BertRows {
        positions: text.size("max_position_embeddings", 512, most::CONTEXT)?,
        segments: text.size("type_vocab_size", 2, most::CONTEXT)?,
    })
}

/// The object of a tower. Early files say it twice; then the one with `_dict` counts (`CLIPConfig.__init__`).
fn tower<'a>(whole: &Fields<'a>, name: &str) -> Result<Fields<'a>, ImportError> {
    let older = format!("{name}_dict");
    whole.inner(if whole.get(&older).is_some() { &older } else { name })
}

fn body(tower: &Fields<'_>, default: &Defaults) -> Result<Transformer, ImportError> {
    let width = tower.size("hidden_size", default.width, most::WIDTH)?;
    let heads = tower.size("num_attention_heads", default.heads, most::HEADS)?;
    if !width.is_multiple_of(heads) {
        let heads = Value::from(heads);
        return Err(tower.wrong("num_attention_heads", &format!("a divisor of the width {width}"), &heads));
    }
    Ok(Transformer {
        width,
        layers: tower.size("num_hidden_layers", 12, most::LAYERS)?,
        heads,
        mlp: tower.size("intermediate_size", default.mlp, most::MLP)?,
        eps: tower.number("layer_norm_eps", default.eps, 1e-12, 1e-2)? as f32,
        kind: LayerKind::PLAIN,
        act: match tower.text("hidden_act")?.unwrap_or(default.act) {
            "gelu" | "gelu_python" => Act::Gelu,
            "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_new" | "gelu_fast" | "gelu_accurate" => Act::GeluTanh,
            "quick_gelu" => Act::QuickGelu,
            other => {
                let what = format!("the activation `{}`", super::bytes::shown(other));
                return Err(tower.unsupported("hidden_act", what));
            }
        },
    })
}

/// Files written before the token of the end was known say 2 and mean the highest id (`CLIPTextTransformer.forward`); those of
/// `newer` models mean what they say.
fn clip_pooling(text: &Fields<'_>, vocab: usize, newer: bool) -> Result<TextPooling, ImportError> {
    const LEGACY: usize = 2;
    // Id 0 is possible, if unusual, so this is no `size`.
    let end = match text.get("eos_token_id") {
        None => 49_407,
        Some(value) => {
            let id = value.as_u64().and_then(|id| usize::try_from(id).ok());
            id.ok_or_else(|| text.wrong("eos_token_id", "the id of a token", value))?
        }
    };
    if end == LEGACY && !newer {
        return Ok(TextPooling::ArgmaxId);
    }
    let found = Value::from(end);
    let below = || text.wrong("eos_token_id", &format!("below the vocabulary's size, {vocab}"), &found);
    u32::try_from(end).ok().filter(|_| end < vocab).map(TextPooling::FirstId).ok_or_else(below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: LogitParameters = LogitParameters { scale: 10.0, bias: -1.0, activation: Activation::Softmax };

    fn read(config: &Value) -> Result<Architecture, ImportError> {
        architecture(config, Path::new("config.json"), HEAD)
    }

    #[test]
    fn what_a_clip_config_leaves_out_is_that_of_vit_b_32() {
        let model = read(&json!({"model_type": "clip", "text_config": {}, "vision_config": null})).unwrap();
        let (act, kind) = (Act::QuickGelu, LayerKind::PLAIN);
        let vision = Transformer { width: 768, layers: 12, heads: 12, mlp: 3072, eps: 1e-5, act, kind };
        let text = Transformer { width: 512, layers: 12, heads: 8, mlp: 2048, eps: 1e-5, act, kind };
        assert_eq!((&model.vision.body, &model.text.body), (&vision, &text));
        assert_eq!((model.vision.image_size, model.vision.patch, model.embed_dim), (224, 32, 512));
        assert_eq!((model.text.vocab, model.text.context), (49_408, 77));
        assert_eq!(model.text.pooling, TextPooling::FirstId(49_407));
        assert_eq!((model.logit_scale, model.logit_bias, model.activation), (10.0, 0.0, Activation::Softmax));
    }

    #[test]
    fn what_a_siglip_config_leaves_out_is_that_of_siglip_b_16() {
        let towers = json!({"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"}});
        let model = read(&towers).unwrap();
        let (act, kind) = (Act::GeluTanh, LayerKind::PLAIN);
        let body = Transformer { width: 768, layers: 12, heads: 12, mlp: 3072, eps: 1e-6, act, kind };
        assert_eq!((&model.vision.body, &model.text.body), (&body, &body));
        assert_eq!((model.vision.patch, model.text.vocab, model.text.context, model.embed_dim), (16, 32_000, 64, 768));
        assert_eq!(model.vision.pooling, VisionPooling::AttentionHead { heads: 12, mlp: 3072 });
        assert_eq!(
            (model.text.pooling, model.logit_bias, model.activation),
            (TextPooling::Last, -1.0, Activation::Sigmoid)
        );
        assert!(!model.text.causal && model.text.projection_bias && model.vision.patch_bias && !model.vision.pre_norm);
    }

    #[test]
    fn every_name_of_an_activation_is_known() {
        let act = |name: &str| {
            let config = json!({"model_type": "clip", "text_config": {"hidden_act": name}});
            read(&config).unwrap().text.body.act
        };
        for tanh in ["gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"] {
            assert_eq!(act(tanh), Act::GeluTanh);
        }
        assert_eq!((act("gelu_python"), act("quick_gelu")), (Act::Gelu, Act::QuickGelu));
    }

    #[test]
    fn a_chinese_clip_has_berts_text_tower() {
        let model = read(&json!({"model_type": "chinese_clip", "text_config": {"vocab_size": 21_128}})).unwrap();
        let (text, body) = (&model.text, &model.text.body);
        assert_eq!((body.width, body.heads, body.act, body.eps), (768, 12, Act::Gelu, 1e-12));
        assert!(body.kind.post_norm && !model.vision.body.kind.post_norm && !text.causal && text.padding.is_some());
        assert_eq!((text.vocab, text.context, text.pooling), (21_128, 52, TextPooling::First));
        assert_eq!(model.vision.body.act, Act::QuickGelu);
        let config = json!({"model_type": "chinese_clip", "text_config": {"max_position_embeddings": 40}});
        assert_eq!(read(&config).unwrap().text.context, 40);
        let rows = bert_rows(&config, Path::new("config.json")).unwrap();
        assert_eq!(rows, BertRows { positions: 40, segments: 2 });
    }

    #[test]
    fn the_older_nested_form_counts_where_it_is_there() {
        let config = json!({"model_type": "clip", "projection_dim": 768,
            "text_config": {"hidden_size": 1, "eos_token_id": 2}, "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
            "vision_config": {"hidden_size": 1024, "num_attention_heads": 16}, "vision_config_dict": null});
        let model = read(&config).unwrap();
        assert_eq!((model.text.body.width, model.text.pooling), (768, TextPooling::FirstId(49_407)));
        assert_eq!((model.vision.body.width, model.embed_dim), (1024, 768));
    }

    #[test]
    fn the_end_of_the_text_is_an_id_or_the_highest() {
        let pooling = |id: Value| {
            read(&json!({"model_type": "clip", "text_config": {"eos_token_id": id}})).map(|m| m.text.pooling)
        };
        assert_eq!(pooling(json!(2)).unwrap(), TextPooling::ArgmaxId);
        assert_eq!(pooling(json!(0)).unwrap(), TextPooling::FirstId(0));
        assert!(pooling(json!(49_408)).unwrap_err().to_string().contains("text_config.eos_token_id"));
        assert!(pooling(json!([1])).is_err());
        // MetaCLIP 2's vocabulary has the end of a text at 2, and means it.
        let newer = json!({"model_type": "metaclip_2", "text_config": {"eos_token_id": 2, "vocab_size": 901_629}});
        assert_eq!(read(&newer).unwrap().text.pooling, TextPooling::FirstId(2));
    }

    /// What the configurations of models that are said to be CLIPs have in them, as their makers publish them.
    #[test]
    fn plain_variants_are_read_as_they_are() {
        let tower = |width: usize, layers: usize, heads: usize, mlp: usize| json!({"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp});
        for (name, act, dim, (patch, image), vision, text) in [
            ("MetaCLIP B/16", "quick_gelu", 512, (16, 224), tower(768, 12, 12, 3072), tower(512, 12, 8, 2048)),
            ("MetaCLIP H/14", "quick_gelu", 1024, (14, 224), tower(1280, 32, 16, 5120), tower(1024, 24, 16, 4096)),
            ("DFN5B H/14 378", "quick_gelu", 1024, (14, 378), tower(1280, 32, 16, 5120), tower(1024, 24, 16, 4096)),
            ("DFN2B L/14", "quick_gelu", 768, (14, 224), tower(1024, 24, 16, 4096), tower(768, 12, 12, 3072)),
            ("TinyCLIP 8M/16 3M", "quick_gelu", 512, (16, 224), tower(256, 10, 4, 1024), tower(256, 3, 4, 1024)),
            ("TinyCLIP 40M/32 19M", "gelu", 512, (32, 224), tower(512, 12, 8, 2048), tower(512, 6, 8, 2048)),
            ("TinyCLIP auto 45M/32", "gelu", 512, (32, 224), tower(512, 12, 8, 2048), tower(512, 6, 8, 2048)),
        ] {
            let (mut vision, mut text) = (vision, text);
            vision.as_object_mut().unwrap().extend([
                ("hidden_act".to_owned(), json!(act)),
                ("patch_size".to_owned(), json!(patch)),
                ("image_size".to_owned(), json!(image)),
            ]);
            text.as_object_mut().unwrap().insert("hidden_act".into(), json!(act));
            let config =
                json!({"model_type": "clip", "projection_dim": dim, "vision_config": vision, "text_config": text});
            let model = read(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((model.embed_dim, model.vision.patch, model.vision.image_size), (dim, patch, image), "{name}");
            assert_eq!(model.vision.body.width, config["vision_config"]["hidden_size"], "{name}");
            assert_eq!(model.text.body.layers, config["text_config"]["num_hidden_layers"], "{name}");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (config, word) in [
            (json!({"model_type": "siglip2"}), "naflex"),
            (json!({"model_type": "clip_text_model"}), "text-only"),
            (json!({"model_type": "siglip_vision_model"}), "image-only"),
            (json!({"model_type": "altclip"}), "altclip"),
            (json!({"model_type": "chinese_clip_text_model"}), "text-only"),
            (json!({}), "model_type"),
            (json!({"model_type": "clip", "vision_config": {"hidden_act": "swish"}}), "swish"),
            (json!({"model_type": "clip", "vision_config": {"num_channels": 4}}), "RGB"),
            (json!({"model_type": "siglip", "vision_config": {"vision_use_head": false}}), "pooling head"),
        ] {
            let error = read(&config).unwrap_err();
            assert!(matches!(error, ImportError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused_by_the_name_of_their_field() {
        for (tower, field, value) in [
            ("vision_config", "hidden_size", json!(0)),
            ("vision_config", "hidden_size", json!(-768)),
            ("vision_config", "patch_size", json!(225)),
            ("vision_config", "image_size", json!(1e300)),
            ("vision_config", "num_attention_heads", json!(7)),
            ("text_config", "num_hidden_layers", json!(u64::MAX)),
            ("text_config", "layer_norm_eps", json!("small")),
            ("text_config", "vocab_size", json!([1])),
        ] {
            let error = read(&json!({"model_type": "clip", tower: {field: value}})).unwrap_err().to_string();
            assert!(error.contains(&format!("{tower}.{field}")), "{error}");
        }
    }
}
