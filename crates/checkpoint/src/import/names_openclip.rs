//! Where OpenCLIP keeps what the canonical names stand for (`open_clip/transformer.py`), in plain state dicts and in those of
//! `CustomTextCLIP`, whose text tower lies under `text.`.

use super::layout::{Cut, Origin};

/// What differs between state dicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Before the names of the text tower.
    pub(super) text: &'static str,
    /// The text projection is a linear layer, not a bare `[width, embed]` matrix.
    pub(super) linear_projection: bool,
}

/// The origin of a canonical tensor.
pub(super) fn origin(canonical: &str, style: Style) -> Origin {
    let (tower, rest) = canonical.split_once('.').unwrap_or(("", canonical));
    let within = if tower == "vision" { "visual." } else { style.text };
    let found = part(tower == "vision", rest, style.linear_projection);
    Origin { name: format!("{within}{}", found.name), cut: found.cut }
}

/// Whether a name in a state dict is of the image tower.
pub(super) fn is_image(name: &str) -> bool {
    name.starts_with("visual.")
}

/// Whether a name in a state dict is of the text tower.
pub(super) fn is_text(name: &str) -> bool {
    name.starts_with("text.") || name == "token_embedding.weight"
}

fn part(vision: bool, rest: &str, linear: bool) -> Origin {
    let (part, tail) = rest.split_once('.').unwrap_or((rest, ""));
    if part == "projection" {
        return match (vision, linear) {
            (true, _) => Origin { name: "proj".into(), cut: Cut::Transposed },
            (false, false) => Origin { name: "text_projection".into(), cut: Cut::Transposed },
            (false, true) => Origin::whole(format!("text_projection.{tail}")),
        };
    }
    if part == "layers" {
        return layer(tail);
    }
    Origin::whole(match (part, vision) {
        ("patch", _) => format!("conv1.{tail}"),
        ("class", _) => "class_embedding".into(),
        ("position", _) => "positional_embedding".into(),
        ("token", _) => "token_embedding.weight".into(),
        ("pre_norm", _) => format!("ln_pre.{tail}"),
        ("post_norm", true) => format!("ln_post.{tail}"),
        ("post_norm", false) => format!("ln_final.{tail}"),
        _ => rest.to_owned(),
    })
}

/// `3.norm1.weight` and the like; queries, keys and values are one matrix.
fn layer(rest: &str) -> Origin {
    let (number, part) = rest.split_once('.').unwrap_or((rest, ""));
    let within = |name: String| format!("transformer.resblocks.{number}.{name}");
    if let Some((projection, tail)) = part.strip_prefix("attn.").and_then(|r| r.split_once('.')) {
        return match ["q", "k", "v"].iter().position(|p| *p == projection) {
            Some(part) => Origin { name: within(format!("attn.in_proj_{tail}")), cut: Cut::Third(part) },
            None => Origin::whole(within(format!("attn.out_proj.{tail}"))),
        };
    }
    let names = [("norm1.", "ln_1."), ("norm2.", "ln_2."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj.")];
    let found = names.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    Origin::whole(within(found.unwrap_or_else(|| part.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_lead_to_openclip_names() {
        let plain = Style { text: "", linear_projection: false };
        let custom = Style { text: "text.", linear_projection: true };
        for (canonical, name, cut) in [
            ("vision.patch.weight", "visual.conv1.weight", Cut::Whole),
            ("vision.projection.weight", "visual.proj", Cut::Transposed),
            ("vision.layers.2.attn.k.bias", "visual.transformer.resblocks.2.attn.in_proj_bias", Cut::Third(1)),
            ("vision.post_norm.bias", "visual.ln_post.bias", Cut::Whole),
            ("text.token", "token_embedding.weight", Cut::Whole),
            ("text.layers.0.attn.out.weight", "transformer.resblocks.0.attn.out_proj.weight", Cut::Whole),
            ("text.layers.0.mlp.fc2.bias", "transformer.resblocks.0.mlp.c_proj.bias", Cut::Whole),
            ("text.projection.weight", "text_projection", Cut::Transposed),
        ] {
            assert_eq!(origin(canonical, plain), Origin { name: name.into(), cut });
        }
        assert_eq!(origin("text.position", custom).name, "text.positional_embedding");
        assert_eq!(origin("text.projection.bias", custom), Origin::whole("text.text_projection.bias".into()));
    }
}
