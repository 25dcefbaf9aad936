//! Where timm's vision transformers keep what the canonical names stand for (`vision_transformer.py`, `eva.py`), below
//! `visual.trunk.` of an OpenCLIP state dict.

use super::config_timm::{Names, TRUNK};
use super::layout::{Cut, Origin};

/// The origin of a canonical tensor of the image tower.
pub(super) fn origin(canonical: &str, names: Names) -> Origin {
    let rest = canonical.strip_prefix("vision.").unwrap_or(canonical);
    let (part, tail) = rest.split_once('.').unwrap_or((rest, ""));
    let boxed = |name: &str, ones| Origin { name: format!("{TRUNK}{name}"), cut: Cut::Boxed(ones) };
    match part {
        "class" => return boxed("cls_token", 2),
        "position" => return boxed("pos_embed", 1),
        "layers" => return layer(tail, names),
        "head" => return head(tail),
        "projection" if names.own_projection => return Origin::whole(format!("visual.head.proj.{tail}")),
        _ => {}
    }
    Origin::whole(match part {
        "patch" => format!("{TRUNK}patch_embed.proj.{tail}"),
        "pre_norm" => format!("{TRUNK}norm_pre.{tail}"),
        "post_norm" => format!("{TRUNK}norm.{tail}"),
        "projection" => format!("{TRUNK}head.{tail}"),
        _ => format!("{TRUNK}{rest}"),
    })
}

/// `3.attn.q.weight` and the like.
fn layer(rest: &str, names: Names) -> Origin {
    let (number, part) = rest.split_once('.').unwrap_or((rest, ""));
    let within = |name: &str| format!("{TRUNK}blocks.{number}.{name}");
    if let Some((which, tail)) = part.strip_prefix("attn.").and_then(|part| part.split_once('.'))
        && let Some(index) = ["q", "k", "v"].iter().position(|name| *name == which)
    {
        return match (names.fused, names.biases_apart && tail == "bias") {
            (_, true) => Origin::whole(within(&format!("attn.{which}_bias"))),
            (true, _) => Origin { name: within(&format!("attn.qkv.{tail}")), cut: Cut::Third(index) },
            (false, _) => Origin::whole(within(&format!("attn.{which}_proj.{tail}"))),
        };
    }
    let gated = !names.fused;
    let found = [("attn.out.", "attn.proj."), ("mlp.gate.", "mlp.fc1_g.")]
        .into_iter()
        .chain(gated.then_some(("mlp.fc1.", "mlp.fc1_x.")))
        .find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    Origin::whole(within(found.as_deref().unwrap_or(part)))
}

/// The attention pooling (`AttentionPoolLatent`), whose keys and values are one matrix.
fn head(rest: &str) -> Origin {
    let within = |name: &str| format!("{TRUNK}attn_pool.{name}");
    let half = |tail: &str, part| Origin { name: within(&format!("kv.{tail}")), cut: Cut::Half(part) };
    match rest.strip_prefix("attn.").and_then(|part| part.split_once('.')) {
        Some(("k", tail)) => half(tail, 0),
        Some(("v", tail)) => half(tail, 1),
        Some(("out", tail)) => Origin::whole(within(&format!("proj.{tail}"))),
        Some((other, tail)) => Origin::whole(within(&format!("{other}.{tail}"))),
        None if rest == "probe" => Origin::whole(within("latent")),
        None => Origin::whole(within(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSED: Names = Names { fused: true, biases_apart: false, own_projection: false };
    const EVA02: Names = Names { fused: false, ..FUSED };

    #[test]
    fn canonical_names_lead_to_timms_names() {
        for (canonical, names, name, cut) in [
            ("vision.patch.bias", FUSED, "patch_embed.proj.bias", Cut::Whole),
            ("vision.class", FUSED, "cls_token", Cut::Boxed(2)),
            ("vision.position", FUSED, "pos_embed", Cut::Boxed(1)),
            ("vision.layers.2.attn.k.bias", FUSED, "blocks.2.attn.qkv.bias", Cut::Third(1)),
            ("vision.layers.2.attn.out.bias", FUSED, "blocks.2.attn.proj.bias", Cut::Whole),
            ("vision.layers.0.mlp.fc1.weight", FUSED, "blocks.0.mlp.fc1.weight", Cut::Whole),
            ("vision.layers.0.mlp.fc1.weight", EVA02, "blocks.0.mlp.fc1_x.weight", Cut::Whole),
            ("vision.layers.0.mlp.gate.bias", EVA02, "blocks.0.mlp.fc1_g.bias", Cut::Whole),
            ("vision.layers.0.mlp.norm.bias", EVA02, "blocks.0.mlp.norm.bias", Cut::Whole),
            ("vision.layers.0.attn.v.bias", EVA02, "blocks.0.attn.v_proj.bias", Cut::Whole),
            ("vision.layers.0.attn.norm.weight", EVA02, "blocks.0.attn.norm.weight", Cut::Whole),
            ("vision.head.probe", FUSED, "attn_pool.latent", Cut::Whole),
            ("vision.head.attn.v.weight", FUSED, "attn_pool.kv.weight", Cut::Half(1)),
            ("vision.head.attn.q.bias", FUSED, "attn_pool.q.bias", Cut::Whole),
            ("vision.head.mlp.fc2.bias", FUSED, "attn_pool.mlp.fc2.bias", Cut::Whole),
            ("vision.post_norm.weight", FUSED, "norm.weight", Cut::Whole),
            ("vision.projection.bias", EVA02, "head.bias", Cut::Whole),
        ] {
            assert_eq!(origin(canonical, names), Origin { name: format!("{TRUNK}{name}"), cut }, "{canonical}");
        }
        let apart = Names { biases_apart: true, ..FUSED };
        assert_eq!(origin("vision.layers.1.attn.q.bias", apart).name, "visual.trunk.blocks.1.attn.q_bias");
        assert_eq!(origin("vision.layers.1.attn.q.weight", apart).cut, Cut::Third(0));
        let own = Names { own_projection: true, ..FUSED };
        assert_eq!(origin("vision.projection.weight", own), Origin::whole("visual.head.proj.weight".into()));
    }
}
