//! Where Hugging Face CLIP, Chinese CLIP and SigLIP keep what the canonical names stand for (`modeling_clip.py`,
//! `modeling_chinese_clip.py`, `modeling_siglip.py`).

use super::config_hf::BertRows;
use super::layout::{Cut, Origin};

/// Whose names they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Clip,
    /// The text tower's are BERT's.
    ChineseClip(BertRows),
    Siglip,
}

/// The origin of a canonical tensor.
pub(super) fn origin(canonical: &str, layout: Layout) -> Origin {
    let (tower, rest) = canonical.split_once('.').unwrap_or(("", canonical));
    let siglip = layout == Layout::Siglip;
    if let (Layout::ChineseClip(rows), "text") = (layout, tower)
        && !rest.starts_with("projection.")
    {
        return bert(rest, rows);
    }
    let tower = if tower == "vision" { "vision_model" } else { "text_model" };
    if let Some(head) = rest.strip_prefix("head.") {
        return self::head(head);
    }
    let (part, tail) = rest.split_once('.').unwrap_or((rest, ""));
    Origin::whole(match (part, tower, siglip) {
        ("patch", ..) => format!("{tower}.embeddings.patch_embedding.{tail}"),
        ("class", ..) => format!("{tower}.embeddings.class_embedding"),
        ("position", ..) => format!("{tower}.embeddings.position_embedding.weight"),
        ("token", ..) => format!("{tower}.embeddings.token_embedding.weight"),
        // Misspelt in Transformers, and so in every checkpoint.
        ("pre_norm", ..) => format!("{tower}.pre_layrnorm.{tail}"),
        ("post_norm", "vision_model", _) => format!("{tower}.post_layernorm.{tail}"),
        ("post_norm", ..) => format!("{tower}.final_layer_norm.{tail}"),
        ("projection", "vision_model", _) => format!("visual_projection.{tail}"),
        ("projection", _, false) => format!("text_projection.{tail}"),
        ("projection", _, true) => format!("{tower}.head.{tail}"),
        ("layers", ..) => format!("{tower}.encoder.layers.{}", layer(tail)),
        _ => format!("{tower}.{rest}"),
    })
}

/// BERT's (`modeling_bert.py`): norms are called after the layer before them.
fn bert(rest: &str, rows: BertRows) -> Origin {
    let embedding = |name: &str| format!("text_model.embeddings.{name}");
    let first = |name: &str, of| Origin { name: embedding(name), cut: Cut::FirstOf(of) };
    let (part, tail) = rest.split_once('.').unwrap_or((rest, ""));
    match part {
        "token" => return Origin::whole(embedding("word_embeddings.weight")),
        "position" => return first("position_embeddings.weight", rows.positions),
        "segment" => return first("token_type_embeddings.weight", rows.segments),
        "embed_norm" => return Origin::whole(embedding(&format!("LayerNorm.{tail}"))),
        _ => {}
    }
    let (number, part) = tail.split_once('.').unwrap_or((tail, ""));
    let names = [
        ("attn.q.", "attention.self.query."),
        ("attn.k.", "attention.self.key."),
        ("attn.v.", "attention.self.value."),
        ("attn.out.", "attention.output.dense."),
        ("norm1.", "attention.output.LayerNorm."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
        ("norm2.", "output.LayerNorm."),
    ];
    let found = names.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    Origin::whole(format!("text_model.encoder.layer.{number}.{}", found.unwrap_or_else(|| part.to_owned())))
}

/// `3.norm1.weight` and the like.
fn layer(rest: &str) -> String {
    let (number, part) = rest.split_once('.').unwrap_or((rest, ""));
    let part = match part.split_once('.') {
        Some(("norm1", tail)) => format!("layer_norm1.{tail}"),
        Some(("norm2", tail)) => format!("layer_norm2.{tail}"),
        Some(("attn", tail)) => {
            let (projection, tail) = tail.split_once('.').unwrap_or((tail, ""));
            format!("self_attn.{projection}_proj.{tail}")
        }
        _ => part.to_owned(),
    };
    format!("{number}.{part}")
}

/// SigLIP's attention pooling, whose attention is one of PyTorch's own, with a fused projection.
fn head(rest: &str) -> Origin {
    let within = |name: &str| format!("vision_model.head.{name}");
    if let Some((projection, tail)) = rest.strip_prefix("attn.").and_then(|r| r.split_once('.'))
        && let Some(part) = ["q", "k", "v"].iter().position(|p| *p == projection)
    {
        return Origin { name: within(&format!("attention.in_proj_{tail}")), cut: Cut::Third(part) };
    }
    Origin::whole(match rest.split_once('.') {
        Some(("attn", tail)) => within(&format!("attention.{}", tail.replacen("out.", "out_proj.", 1))),
        Some(("norm", tail)) => within(&format!("layernorm.{tail}")),
        _ => within(rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_lead_to_transformers_names() {
        for (canonical, name) in [
            ("vision.patch.bias", "vision_model.embeddings.patch_embedding.bias"),
            ("vision.class", "vision_model.embeddings.class_embedding"),
            ("text.position", "text_model.embeddings.position_embedding.weight"),
            ("vision.pre_norm.bias", "vision_model.pre_layrnorm.bias"),
            ("vision.layers.11.attn.out.bias", "vision_model.encoder.layers.11.self_attn.out_proj.bias"),
            ("text.layers.0.mlp.fc1.weight", "text_model.encoder.layers.0.mlp.fc1.weight"),
            ("text.layers.0.norm2.weight", "text_model.encoder.layers.0.layer_norm2.weight"),
            ("text.post_norm.weight", "text_model.final_layer_norm.weight"),
            ("vision.projection.weight", "visual_projection.weight"),
            ("vision.head.probe", "vision_model.head.probe"),
            ("vision.head.mlp.fc2.bias", "vision_model.head.mlp.fc2.bias"),
            ("vision.head.norm.bias", "vision_model.head.layernorm.bias"),
            ("vision.head.attn.out.weight", "vision_model.head.attention.out_proj.weight"),
        ] {
            assert_eq!(origin(canonical, Layout::Siglip), Origin::whole(name.into()));
        }
        assert_eq!(origin("text.projection.bias", Layout::Siglip).name, "text_model.head.bias");
        assert_eq!(origin("text.projection.weight", Layout::Clip).name, "text_projection.weight");
        let chinese = |canonical| origin(canonical, Layout::ChineseClip(BertRows { positions: 512, segments: 2 }));
        for (canonical, name, cut) in [
            ("text.token", "text_model.embeddings.word_embeddings.weight", Cut::Whole),
            ("text.position", "text_model.embeddings.position_embeddings.weight", Cut::FirstOf(512)),
            ("text.segment", "text_model.embeddings.token_type_embeddings.weight", Cut::FirstOf(2)),
            ("text.embed_norm.bias", "text_model.embeddings.LayerNorm.bias", Cut::Whole),
            ("text.layers.3.norm1.bias", "text_model.encoder.layer.3.attention.output.LayerNorm.bias", Cut::Whole),
            ("text.layers.3.mlp.fc1.bias", "text_model.encoder.layer.3.intermediate.dense.bias", Cut::Whole),
            ("text.projection.weight", "text_projection.weight", Cut::Whole),
            ("vision.pre_norm.bias", "vision_model.pre_layrnorm.bias", Cut::Whole),
        ] {
            assert_eq!(chinese(canonical), Origin { name: name.into(), cut });
        }
        let value = Origin { name: "vision_model.head.attention.in_proj_bias".into(), cut: Cut::Third(2) };
        assert_eq!(origin("vision.head.attn.v.bias", Layout::Siglip), value);
    }
}
