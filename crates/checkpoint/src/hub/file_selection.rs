//! Which files of a repository are worth fetching: those that our readers open, and one form of the weights. In: the names
//! of a [`Listing`] and what its `config.json` says; out: a [`Choice`]. Pure; the order of preference is the readers' own
//! ([`import`](crate::import), [`bundle`](crate::bundle)).

use std::collections::BTreeSet;

use serde_json::Value;

use super::HubError;
use super::listing::Listing;
use super::name::{is_plain_file, shown};
use crate::bundle::VARIANTS;
use crate::import::{HUGGING_FACE_WEIGHTS, MAX_SHARDS, OPEN_CLIP_WEIGHTS, is_other_weights_name};
use crate::json_text;

/// Most files that are fetched at once.
const MOST_FILES: usize = 1000;

/// Most names that a message lists.
const MAX_LISTED: usize = 20;

/// Beside the weights of Hugging Face's layout. Both: where there are two, the reader takes the image's part out of the newer one.
const PREPROCESSING: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// For people: which form was chosen.
    pub(super) what: String,
    pub(super) files: BTreeSet<String>,
    /// An index in `files` whose shards are still to be added.
    pub(super) index: Option<String>,
    /// The folder of the repository that is taken for the whole of it.
    pub(super) folder: Option<String>,
}

impl Choice {
    /// What was chosen among the names below `folder`, by the repository's names.
    pub(super) fn below(self, folder: &str) -> Self {
        Self {
            what: format!("{} in {}", self.what, shown(folder)),
            files: self.files.iter().map(|name| format!("{folder}/{name}")).collect(),
            index: self.index.map(|name| format!("{folder}/{name}")),
            folder: Some(folder.to_owned()),
        }
    }
}

/// Chooses. `served` tells whether `config.json` describes a model that the Hugging Face reader takes; it is only asked where
/// that decides something.
///
/// # Errors
/// [`HubError::Unusable`] when there is neither a checkpoint nor an export; [`HubError::SeveralWeights`] when nothing tells which file of
/// weights is meant; whatever `served` fails with.
pub(super) fn choose(
    listing: &Listing,
    sidecar: Option<&Value>,
    served: &mut dyn FnMut() -> Result<bool, HubError>,
) -> Result<Choice, HubError> {
    // Our own bundle says so itself.
    if listing.has("vtagd.json")
        && let Some(choice) = onnx(listing, sidecar)
    {
        return Ok(Choice { what: "a bundle of vtagd's".into(), ..choice });
    }
    if let Some(choice) = checkpoint(listing, served)? {
        return Ok(choice);
    }
    if let Some(choice) = onnx(listing, None) {
        return Ok(choice);
    }
    other_checkpoint(listing, served)?.ok_or_else(|| {
        let names: Vec<String> = listing.files.keys().take(MAX_LISTED).map(|name| shown(name)).collect();
        HubError::Unusable { names: if names.is_empty() { "no file".into() } else { names.join(", ") } }
    })
}

/// The one folder that holds a configuration and weights, as of sentence-transformers, where nothing at the top can be read.
///
/// # Errors
/// [`HubError::SeveralFolders`].
pub(super) fn model_folder(listing: &Listing) -> Result<Option<String>, HubError> {
    let layouts = [("config.json", HUGGING_FACE_WEIGHTS), ("open_clip_config.json", OPEN_CLIP_WEIGHTS)];
    let folder = |name: &String| {
        let (folder, file) = name.rsplit_once('/')?;
        let (_, weights) = layouts.iter().find(|(config, _)| *config == file)?;
        let holds = weights.iter().any(|weights| listing.has(&format!("{folder}/{weights}")));
        holds.then(|| folder.to_owned())
    };
    let folders: BTreeSet<String> = listing.files.keys().filter_map(folder).collect();
    if folders.len() > 1 {
        let names: Vec<String> = folders.iter().take(MAX_LISTED).map(|name| shown(name)).collect();
        return Err(HubError::SeveralFolders { first: names[0].clone(), names: names.join(", ") });
    }
    Ok(folders.into_iter().next())
}

fn checkpoint(
    listing: &Listing,
    served: &mut dyn FnMut() -> Result<bool, HubError>,
) -> Result<Option<Choice>, HubError> {
    // The lists hold a safe form, its index, a pickle, its index: safe forms of either family come first, and Hugging Face's
    // before OpenCLIP's, as the reader of a folder with both has it.
    let (hf, oc) = (HUGGING_FACE_WEIGHTS, OPEN_CLIP_WEIGHTS);
    let ranked = [(&hf[..2], true), (&oc[..2], false), (&hf[2..], true), (&oc[2..], false)];
    for (names, is_hf) in ranked {
        let config = if is_hf { "config.json" } else { "open_clip_config.json" };
        let Some(weights) = names.iter().find(|name| listing.has(name)).filter(|_| listing.has(config)) else {
            continue;
        };
        if is_hf && !served()? {
            continue;
        }
        let mut files = present(listing, &[config, weights]);
        files.extend(tokenizer(listing, ""));
        if is_hf {
            files.extend(present(listing, &PREPROCESSING));
        }
        let family = if is_hf { "Hugging Face" } else { "OpenCLIP" };
        let what = format!("the {family} checkpoint {weights}");
        return Ok(Some(Choice { what, files, index: index(weights), folder: None }));
    }
    Ok(None)
}

/// A checkpoint whose weights have another name than a layout has, where they are the only ones: the reader finds out whose they are.
fn other_checkpoint(
    listing: &Listing,
    served: &mut dyn FnMut() -> Result<bool, HubError>,
) -> Result<Option<Choice>, HubError> {
    // What lies in a folder of the repository is of another model, or another form of this one.
    let is_weights = |name: &&String| !name.contains('/') && is_other_weights_name(name);
    let names: Vec<&String> = listing.files.keys().filter(is_weights).collect();
    let Some(weights) = names.first() else { return Ok(None) };
    let is_hf = listing.has("config.json") && served()?;
    if !is_hf && !listing.has("open_clip_config.json") {
        return Ok(None);
    }
    if names.len() > 1 {
        let names: Vec<String> = names.iter().take(MAX_LISTED).map(|name| shown(name)).collect();
        return Err(HubError::SeveralWeights { first: names[0].clone(), names: names.join(", ") });
    }
    let mut files = present(listing, &["open_clip_config.json", weights.as_str()]);
    files.extend(tokenizer(listing, ""));
    if is_hf {
        files.extend(present(listing, &["config.json"]));
        files.extend(present(listing, &PREPROCESSING));
    }
    let what = format!("the checkpoint {}", shown(weights));
    Ok(Some(Choice { what, files, index: index(weights), folder: None }))
}

/// The weights themselves, where they are an index.
fn index(weights: &str) -> Option<String> {
    weights.ends_with(".index.json").then(|| weights.to_owned())
}

/// An export with its towers apart: Optimum's, transformers.js', ours or Immich's.
fn onnx(listing: &Listing, sidecar: Option<&Value>) -> Option<Choice> {
    let named = |key: &str| sidecar?.get(key)?.as_str().filter(|name| listing.has(name)).map(str::to_owned);
    let vision = named("vision_model").or_else(|| tower(listing, "vision_model", "visual/model.onnx"))?;
    let text = named("text_model").or_else(|| tower(listing, "text_model", "textual/model.onnx"))?;
    let mut files: BTreeSet<String> = [vision.clone(), text.clone()].into();
    for graph in [&vision, &text] {
        // ONNX keeps a large model's weights beside the graph, as `NAME_data`, `NAME.data`, `NAME_data_1`, ….
        let beside = listing.files.keys().filter(|name| {
            [format!("{graph}_data"), format!("{graph}.data")].iter().any(|start| name.starts_with(start.as_str()))
        });
        files.extend(beside.cloned());
    }
    files.extend(present(listing, &["config.json", "vtagd.json"]));
    let preprocessing = ["preprocessor_config.json", "preprocess_cfg.json", "visual/preprocess_cfg.json"];
    files.extend(first(listing, &preprocessing));
    let folder = if listing.has("tokenizer.json") { "" } else { "textual/" };
    files.extend(tokenizer(listing, folder));
    Some(Choice { what: format!("the ONNX export {vision}, {text}"), files, index: None, folder: None })
}

/// The best form, in the order of [`crate::bundle`].
fn tower(listing: &Listing, name: &str, immich: &str) -> Option<String> {
    let forms = VARIANTS.iter().flat_map(|form| ["", "onnx/"].map(|folder| format!("{folder}{name}{form}.onnx")));
    forms.chain([immich.to_owned()]).find(|name| listing.has(name))
}

fn tokenizer(listing: &Listing, folder: &str) -> BTreeSet<String> {
    let whole = format!("{folder}tokenizer.json");
    let parts = ["vocab.json", "merges.txt", "vocab.txt"].map(|name| format!("{folder}{name}"));
    let names = ["tokenizer_config.json", "special_tokens_map.json"].map(|name| format!("{folder}{name}"));
    let tokenizer = if listing.has(&whole) { vec![whole] } else { parts.to_vec() };
    tokenizer.into_iter().chain(names).filter(|name| listing.has(name)).collect()
}

fn present(listing: &Listing, names: &[&str]) -> BTreeSet<String> {
    names.iter().filter(|name| listing.has(name)).map(|name| (*name).to_owned()).collect()
}

fn first(listing: &Listing, names: &[&str]) -> Option<String> {
    names.iter().find(|name| listing.has(name)).map(|name| (*name).to_owned())
}

/// The shards that an index names, which lie beside it.
///
/// # Errors
/// [`HubError::BadAnswer`] for what is no index, or names files that the repository does not hold.
pub(super) fn shards(index: &str, content: &[u8], listing: &Listing) -> Result<BTreeSet<String>, HubError> {
    let bad = |message: String| HubError::BadAnswer { what: format!("`{index}`"), message };
    let json: Value = json_text::parse(content).map_err(bad)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("has no object `weight_map`".into()))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().unwrap_or_default();
        if name.contains('/') || !is_plain_file(name) {
            return Err(bad(format!("names the shard `{}`, which is no file beside it", shown(name))));
        }
        if !listing.has(name) {
            return Err(bad(format!("names the shard `{}`, which the repository does not hold", shown(name))));
        }
        names.insert(name.to_owned());
        if names.len() > MAX_SHARDS {
            return Err(bad(format!("names more than {MAX_SHARDS} shards")));
        }
    }
    if names.is_empty() { Err(bad("names no shard".into())) } else { Ok(names) }
}

/// The files that match one of the patterns, in place of a choice.
///
/// # Errors
/// [`HubError::NothingMatches`], also for more matches than a model has files.
pub(super) fn matching(listing: &Listing, patterns: &[String]) -> Result<Choice, HubError> {
    let matches = |name: &str| patterns.iter().any(|pattern| glob(pattern, name));
    let files: BTreeSet<String> = listing.files.keys().filter(|name| matches(name)).cloned().collect();
    if files.is_empty() || files.len() > MOST_FILES {
        return Err(HubError::NothingMatches { patterns: patterns.join(", "), found: files.len(), most: MOST_FILES });
    }
    Ok(Choice { what: format!("what {} matches", patterns.join(", ")), files, index: None, folder: None })
}

/// `*` stands for any text, slashes too, as in Hugging Face's tools; `?` for one character.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how much of the name it stands for: enough to try again, so that no pattern takes longer
    // than its length times the name's.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests;
