//! Prefixes that training puts in front of tensors' names: `module.` (DistributedDataParallel), `_orig_mod.` (torch.compile), `model.`
//! and `clip.` (a model within another one), also several in a row. In: tensors as the files name them; out: the same under the names
//! that a layout knows. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ImportError;
use super::bytes::shown;
use super::fields::damaged;
use super::raw::RawStore;

const PREFIXES: [&str; 4] = ["module.", "_orig_mod.", "model.", "clip."];

/// `name` cut behind all prefixes in front of it.
fn split(name: &str) -> (&str, &str) {
    let mut rest = name;
    while let Some(behind) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = behind;
    }
    name.split_at(name.len() - rest.len())
}

/// Takes the prefix of a model off. A model is where both an `image` and a `text` name are found under one prefix, or one of the two if
/// they never are; what lies under another prefix keeps its name, and is told as no part of the model.
///
/// # Errors
/// Two models under two prefixes, both named; a name that is there with the prefix and without.
pub(super) fn strip(
    raw: &mut RawStore,
    file: &Path,
    image: impl Fn(&str) -> bool,
    text: impl Fn(&str) -> bool,
) -> Result<(), ImportError> {
    let (mut images, mut texts) = (BTreeSet::new(), BTreeSet::new());
    for (prefix, rest) in raw.tensors.keys().map(|name| split(name)) {
        if image(rest) {
            images.insert(prefix.to_owned());
        }
        if text(rest) {
            texts.insert(prefix.to_owned());
        }
    }
    let whole: BTreeSet<&String> = images.intersection(&texts).collect();
    let found: Vec<&String> =
        if whole.is_empty() { images.union(&texts).collect() } else { whole.into_iter().collect() };
    let prefix = match found.as_slice() {
        [] => return Ok(()),
        [only] => (*only).clone(),
        [one, two, ..] => {
            let name = |prefix: &str| match prefix {
                "" => "without a prefix".to_owned(),
                prefix => format!("under `{}`", shown(prefix)),
            };
            let message = format!(
                "holds tensors of two models, one {} and one {}: save the one you mean alone",
                name(one),
                name(two)
            );
            return Err(damaged(file, message));
        }
    };
    if prefix.is_empty() {
        return Ok(());
    }
    tracing::info!(target: "vtagd::model::import::prefixes", file = %file.display(), prefix, "the tensors' names bear a prefix, which is taken off");
    let mut stripped = BTreeMap::new();
    for (name, tensor) in std::mem::take(&mut raw.tensors) {
        let plain = match split(&name) {
            (found, rest) if found == prefix => rest.to_owned(),
            _ => name,
        };
        if stripped.insert(plain.clone(), tensor).is_some() {
            let plain = shown(&plain);
            let message =
                format!("holds both `{plain}` and `{prefix}{plain}`, and which one counts cannot be told: remove one");
            return Err(damaged(file, message));
        }
    }
    raw.tensors = stripped;
    Ok(())
}

/// Whether any tensor's name begins as those of a model do, with one of `marks`.
///
/// # Errors
/// None does: the prefix that they have instead is named, or the first of them.
pub(super) fn known(raw: &RawStore, file: &Path, marks: &[&str]) -> Result<(), ImportError> {
    if raw.tensors.keys().any(|name| marks.iter().any(|mark| name.starts_with(mark))) {
        return Ok(());
    }
    let prefix = raw.tensors.keys().find_map(|name| {
        let cut = marks.iter().filter_map(|mark| name.find(&format!(".{mark}"))).min()?;
        name.get(..=cut)
    });
    let message = match (prefix, raw.tensors.keys().next()) {
        (Some(prefix), _) => format!(
            "holds its tensors under the prefix `{}`, which is none of those that training puts there ({}): save the model itself, \
             or rename the tensors",
            shown(prefix),
            PREFIXES.join(", ")
        ),
        (None, first) => format!(
            "holds no tensor of `{}*`, but such as `{}`: its configuration describes another model",
            marks.join("*` or `"),
            shown(first.map_or("", String::as_str))
        ),
    };
    Err(damaged(file, message))
}

#[cfg(test)]
mod tests {
    use super::super::raw::{Element, RawTensor};
    use super::*;

    fn stripped(names: &[&str]) -> Result<Vec<String>, String> {
        let tensor = |_| RawTensor {
            part: 0,
            element: Element::F32,
            shape: vec![],
            at: 0,
            storage: 1,
            offset: 0,
            strides: None,
        };
        let tensors = names.iter().map(|name| ((*name).to_owned(), tensor(name))).collect();
        let mut raw = RawStore { parts: Vec::new(), tensors };
        strip(&mut raw, Path::new("m"), |n| n.starts_with("visual."), |n| n == "token").map_err(|e| e.to_string())?;
        Ok(raw.tensors.into_keys().collect())
    }

    #[test]
    fn one_prefix_is_taken_off_and_others_stay() {
        for prefix in ["", "module.", "_orig_mod.", "model.", "clip.", "module._orig_mod.model.clip.", "module.module."]
        {
            let names = ["visual.proj", "token", "logit_scale"].map(|name| format!("{prefix}{name}"));
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(stripped(&names).unwrap(), ["logit_scale", "token", "visual.proj"], "{prefix}");
        }
        assert_eq!(stripped(&["clip.visual.proj", "clip.token", "logit_scale"]).unwrap()[0], "logit_scale");
        assert_eq!(stripped(&["clip.visual.proj", "clip.token", "model.head"]).unwrap()[0], "model.head");
        assert_eq!(stripped(&["visual.proj", "token", "model.visual.x"]).unwrap()[0], "model.visual.x");
        assert_eq!(stripped(&["unknown.visual.proj"]).unwrap(), ["unknown.visual.proj"]);
    }

    #[test]
    fn what_could_be_meant_twice_is_refused_with_both_names() {
        let error = stripped(&["clip.visual.proj", "clip.token", "module.visual.proj", "module.token"]).unwrap_err();
        assert!(error.contains("`clip.`") && error.contains("`module.`"), "{error}");
        let error = stripped(&["visual.proj", "token", "model.visual.proj", "model.token"]).unwrap_err();
        assert!(error.contains("without a prefix") && error.contains("`model.`"), "{error}");
        let error = stripped(&["clip.visual.proj", "clip.token", "clip.x", "x"]).unwrap_err();
        assert!(error.contains("`x`") && error.contains("`clip.x`"), "{error}");
    }
}
