//! timm's image towers as OpenCLIP takes them in (`timm_model.py`). In: the tower's name and the shapes of its tensors; out: a
//! [`VisionTower`].
//!
//! OpenCLIP's configuration holds a name only, `vit_base_patch16_siglip_224`; what that means stands in timm's source
//! (`vision_transformer.py`, `eva.py`). From there come heads, activation and epsilon; widths and depths are those of the tensors, which
//! are held against one another as any checkpoint's.

use std::path::Path;

use serde_json::Value;

use super::bytes::shown;
use super::config_hf::most;
use super::fields::{Fields, damaged};
use super::raw::RawStore;
use super::{Act, ImportError, LayerKind, Projection, Rotary, Transformer, VisionPooling, VisionTower};

/// Before the names of the tower's own tensors.
pub(super) const TRUNK: &str = "visual.trunk.";

/// What the tensors say beside the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shapes {
    width: usize,
    patch: usize,
    layers: usize,
    mlp: usize,
    /// Of the pooling's MLP, where there is one.
    head_mlp: Option<usize>,
    class_token: bool,
    patch_bias: bool,
    pre_norm: bool,
    key_bias: bool,
    projection: Projection,
}

/// How the tensors are called that have two names in timm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Queries, keys and values are one matrix.
    pub(super) fused: bool,
    /// Their biases are vectors apart: EVA's, whose keys have none.
    pub(super) biases_apart: bool,
    /// The projection is OpenCLIP's own layer behind the tower, not the tower's classifier.
    pub(super) own_projection: bool,
}

/// Reads the shapes; `None` where the checkpoint has no tower of timm's kind of vision transformer.
pub(super) fn shapes(raw: &RawStore) -> Option<(Shapes, Names)> {
    let shape = |name: &str| raw.tensors.get(&format!("{TRUNK}{name}")).map(|tensor| tensor.shape.as_slice());
    let has = |name: &str| shape(name).is_some();
    let rows = |name: &str| shape(name)?.first().copied();
    let [width, _, patch, _] = *shape("patch_embed.proj.weight")? else { return None };
    let block = |name: &str| format!("blocks.0.{name}");
    let layers = (0..most::LAYERS).take_while(|n| has(&format!("blocks.{n}.norm1.weight"))).count();
    let mlp = rows(&block("mlp.fc1.weight")).or_else(|| rows(&block("mlp.fc1_x.weight")))?;
    let own = |name: &str| raw.tensors.contains_key(&format!("visual.head.proj.{name}"));
    let (own_projection, fused) = (own("weight"), has(&block("attn.qkv.weight")));
    let projection = match (own_projection, has("head.weight")) {
        (true, _) => Projection::Linear { bias: own("bias") },
        (false, true) => Projection::Linear { bias: has("head.bias") },
        (false, false) => Projection::None,
    };
    let shapes = Shapes {
        width,
        patch,
        layers,
        mlp,
        head_mlp: rows("attn_pool.mlp.fc1.weight"),
        class_token: has("cls_token"),
        patch_bias: has("patch_embed.proj.bias"),
        pre_norm: has("norm_pre.weight"),
        key_bias: if fused { has(&block("attn.qkv.bias")) } else { has(&block("attn.k_proj.bias")) },
        projection,
    };
    Some((shapes, Names { fused, biases_apart: has(&block("attn.q_bias")), own_projection }))
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Meaning {
    heads: usize,
    pool_heads: usize,
    act: Act,
    eps: f32,
    gated: bool,
    inner_norms: bool,
    rotary: Option<Rotary>,
}

/// Heads of the sizes that timm's names have.
const HEADS: [(&str, usize); 15] = [
    ("tiny", 3),
    ("xsmall", 4),
    ("small", 6),
    ("medium", 8),
    ("betwixt", 10),
    ("base", 12),
    ("large", 16),
    ("huge", 16),
    ("giant", 16),
    ("giantopt", 16),
    ("gigantic", 16),
    ("enormous", 16),
    ("so400m", 16),
    ("mediumd", 8),
    ("little", 5),
];

/// What timm's source says of the tower called `name`, for pictures of `side` patches a side; `None` for one that is not built.
fn meaning(name: &str) -> Option<Meaning> {
    let parts: Vec<&str> = name.split('_').collect();
    let heads_of = |size: &str| HEADS.iter().find(|(name, _)| *name == size).map(|(_, heads)| *heads);
    let plain = |heads: usize, act: Act, eps: f32| Meaning {
        heads,
        pool_heads: heads,
        act,
        eps,
        gated: false,
        inner_norms: false,
        rotary: None,
    };
    let patches = |part: &str| part.strip_prefix("patch").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        ["vit", size, patch, "siglip", image] if patches(patch) && number(image) => {
            // Which of them have the tanh form is timm's choice, whatever the model was trained with.
            let tanh = matches!((*size, *patch), ("giantopt", _) | ("base", "patch32") | ("so400m", "patch16"))
                || (*size, *image) == ("large", "512");
            Some(plain(heads_of(size)?, if tanh { Act::GeluTanh } else { Act::Gelu }, 1e-6))
        }
        ["vit", size, patch, image] if patches(patch) && number(image) => Some(plain(heads_of(size)?, Act::Gelu, 1e-6)),
        ["vit", size, patch, "clip", image] if patches(patch) && number(image) => {
            Some(plain(heads_of(size)?, Act::Gelu, 1e-5))
        }
        ["vit", size, patch, "clip", "quickgelu", image] if patches(patch) && number(image) => {
            Some(plain(heads_of(size)?, Act::QuickGelu, 1e-5))
        }
        ["eva", size @ "giant", patch, "clip", image] | ["eva", size @ "giant", patch, image]
            if patches(patch) && number(image) =>
        {
            Some(plain(heads_of(size)?, Act::Gelu, 1e-6))
        }
        ["eva02", size @ ("base" | "large"), patch, "clip", image] if patches(patch) && number(image) => {
            let rotary = Some(Rotary { reference: 16, offset: 0.0, column_first: false });
            Some(Meaning { gated: true, inner_norms: true, rotary, ..plain(heads_of(size)?, Act::Gelu, 1e-6) })
        }
        ["vit", "pe", "core", size, patch, image] if patches(patch) && number(image) => {
            // The grid that each was trained with is its own; only the largest one counts from zero.
            let pixels: usize = image.parse().ok()?;
            let reference = pixels / patch.strip_prefix("patch")?.parse::<usize>().ok().filter(|n| *n > 0)?;
            let offset = if *size == "gigantic" { 0.0 } else { 1.0 };
            let rotary = Some(Rotary { reference, offset, column_first: true });
            Some(Meaning { pool_heads: 8, rotary, ..plain(heads_of(size)?, Act::Gelu, 1e-5) })
        }
        _ => None,
    }
}

/// The image tower that `vision` (`vision_cfg`) names in `timm_model_name`.
///
/// # Errors
/// A tower, pooling or projection that is not built; tensors of another kind of tower.
pub(super) fn tower(
    vision: &Fields<'_>,
    image_size: usize,
    shapes: Option<&Shapes>,
    file: &Path,
) -> Result<VisionTower, ImportError> {
    let name = vision.text("timm_model_name")?.unwrap_or_default();
    // Behind the dot stands which training it was.
    let kind = name.split_once('.').map_or(name, |(kind, _)| kind);
    let refused = || vision.unsupported("timm_model_name", format!("a timm image tower (\"{}\")", shown(name)));
    let meaning = meaning(kind).ok_or_else(refused)?;
    let Some(shapes) = shapes else {
        let message = format!(
            "describes the tower `{}`, and the weights hold no tensor `{TRUNK}patch_embed.proj.weight`",
            shown(name)
        );
        return Err(damaged(file, message));
    };
    let sizes = [
        (shapes.width, most::WIDTH),
        (shapes.patch, image_size),
        (shapes.layers, most::LAYERS),
        (shapes.mlp, most::MLP),
        (shapes.head_mlp.unwrap_or(1), most::MLP),
    ];
    let within = sizes.iter().all(|(size, most)| (1..=*most).contains(size));
    let divides = |heads: usize| heads > 0 && shapes.width.is_multiple_of(heads);
    // Half a head turns by the row, half by the column, each in pairs.
    let pairs = meaning.rotary.is_none() || (shapes.width / meaning.heads).is_multiple_of(4);
    if !within || !divides(meaning.heads) || !pairs {
        let message = format!(
            "describes the tower `{}` with {} heads, and its tensors have the width {}, {} layers and patches of {}: it is another tower",
            shown(name),
            meaning.heads,
            shapes.width,
            shapes.layers,
            shapes.patch
        );
        return Err(damaged(file, message));
    }
    let pool = vision.text("timm_pool")?.unwrap_or_default();
    let pooling = match (pool, shapes.head_mlp) {
        ("" | "map", Some(mlp)) if divides(meaning.pool_heads) => {
            VisionPooling::AttentionHead { heads: meaning.pool_heads, mlp }
        }
        ("" | "token", None) if shapes.class_token => VisionPooling::ClassToken,
        _ => {
            let what = format!("a timm image tower with the pooling `{}`", shown(pool));
            return Err(vision.unsupported("timm_pool", what));
        }
    };
    if let Some(kind) = vision.text("timm_proj")?.filter(|kind| !matches!(*kind, "" | "none" | "linear")) {
        return Err(
            vision.unsupported("timm_proj", format!("a timm image tower with the projection `{}`", shown(kind)))
        );
    }
    Ok(VisionTower {
        body: Transformer {
            width: shapes.width,
            layers: shapes.layers,
            heads: meaning.heads,
            mlp: shapes.mlp,
            eps: meaning.eps,
            act: meaning.act,
            kind: LayerKind {
                post_norm: false,
                gated: meaning.gated,
                inner_norms: meaning.inner_norms,
                key_bias: shapes.key_bias,
                rotary: meaning.rotary,
            },
        },
        image_size,
        patch: shapes.patch,
        class_token: shapes.class_token,
        pre_norm: shapes.pre_norm,
        patch_bias: shapes.patch_bias,
        pooling,
        projection: shapes.projection,
    })
}

/// Whether a configuration's image tower is one of timm's.
pub(super) fn is_named(vision: &Fields<'_>) -> bool {
    vision.get("timm_model_name").and_then(Value::as_str).is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_mean_what_timms_source_says() {
        let plain = |name: &str| meaning(name).map(|m| (m.heads, m.act, m.eps));
        for (name, heads, act, eps) in [
            ("vit_base_patch16_siglip_224", 12, Act::Gelu, 1e-6),
            ("vit_base_patch32_siglip_256", 12, Act::GeluTanh, 1e-6),
            ("vit_large_patch16_siglip_384", 16, Act::Gelu, 1e-6),
            ("vit_large_patch16_siglip_512", 16, Act::GeluTanh, 1e-6),
            ("vit_so400m_patch14_siglip_378", 16, Act::Gelu, 1e-6),
            ("vit_so400m_patch16_siglip_256", 16, Act::GeluTanh, 1e-6),
            ("vit_giantopt_patch16_siglip_384", 16, Act::GeluTanh, 1e-6),
            ("vit_base_patch16_224", 12, Act::Gelu, 1e-6),
            ("vit_large_patch14_clip_224", 16, Act::Gelu, 1e-5),
            ("vit_base_patch16_clip_quickgelu_224", 12, Act::QuickGelu, 1e-5),
            ("eva_giant_patch14_224", 16, Act::Gelu, 1e-6),
            ("vit_pe_core_tiny_patch16_384", 3, Act::Gelu, 1e-5),
        ] {
            assert_eq!(plain(name), Some((heads, act, eps)), "{name}");
        }
        let eva = meaning("eva02_large_patch14_clip_336").unwrap();
        assert!(eva.gated && eva.inner_norms && eva.heads == 16);
        assert_eq!(eva.rotary, Some(Rotary { reference: 16, offset: 0.0, column_first: false }));
        let core = meaning("vit_pe_core_large_patch14_336").unwrap();
        assert_eq!((core.pool_heads, core.gated), (8, false));
        assert_eq!(core.rotary, Some(Rotary { reference: 24, offset: 1.0, column_first: true }));
        assert_eq!(meaning("vit_pe_core_gigantic_patch14_448").unwrap().rotary.unwrap().offset, 0.0);
        for other in
            ["convnext_base", "fastvit_mci2", "eva02_enormous_patch14_clip_224", "vit_base_mci_224", "resnet50", ""]
        {
            assert_eq!(meaning(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_built_is_named_and_tensors_of_another_tower_are_told() {
        let read = |vision: Value, shapes: Option<&Shapes>| {
            let file = Path::new("open_clip_config.json");
            tower(&Fields::of(file, &vision).unwrap(), 224, shapes, file).map_err(|error| error.to_string())
        };
        let shapes = Shapes {
            width: 768,
            patch: 16,
            layers: 12,
            mlp: 3072,
            head_mlp: Some(3072),
            class_token: false,
            patch_bias: true,
            pre_norm: false,
            key_bias: true,
            projection: Projection::None,
        };
        let siglip =
            json!({"timm_model_name": "vit_base_patch16_siglip_224.webli", "timm_pool": "map", "timm_proj": "none"});
        let found = read(siglip.clone(), Some(&shapes)).unwrap();
        assert_eq!((found.body.heads, found.pooling), (12, VisionPooling::AttentionHead { heads: 12, mlp: 3072 }));
        for (change, word) in [
            (json!({"timm_model_name": "convnext_base"}), "convnext_base"),
            (json!({"timm_pool": "avg"}), "`avg`"),
            (json!({"timm_proj": "mlp"}), "`mlp`"),
        ] {
            let mut config = siglip.clone();
            config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let error = read(config, Some(&shapes)).unwrap_err();
            assert!(error.contains(word) && error.contains("not supported"), "{word}: {error}");
        }
        assert!(read(siglip.clone(), None).unwrap_err().contains("patch_embed.proj.weight"));
        for strange in [
            Shapes { width: 770, ..shapes.clone() },
            Shapes { width: 0, ..shapes.clone() },
            Shapes { layers: 0, ..shapes },
        ] {
            assert!(read(siglip.clone(), Some(&strange)).unwrap_err().contains("another tower"));
        }
    }
}
