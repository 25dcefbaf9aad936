//! A checkpoint's tokenizer, as the one `tokenizer.json` that our text tower reads. In: the folder's tokenizer files; out: a
//! tokenizer that cuts at the model's context and fills up to it with the id the model was trained with. Taken from
//! `tokenizer.json`, or built from the `vocab.json` and `merges.txt` of older CLIP folders or the `vocab.txt` of BERT's.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Replace, Sequence, Strip};
use tokenizers::{PaddingDirection, PaddingParams, PaddingStrategy, Tokenizer, TruncationDirection, TruncationParams};

use super::ImportError;
use super::bytes::shown;
use super::fields::{damaged, read_bytes, read_json};
use crate::json_text;

/// Largest `tokenizer.json`; SigLIP2's has 34 MB.
const MAX_FILE: u64 = 64 << 20;

/// Largest `vocab.json` or `merges.txt`; CLIP's have 1 MB.
const MAX_PART: u64 = 16 << 20;

/// The end of a text in CLIP's vocabulary, which Transformers also fills up with.
const END: &str = "<|endoftext|>";
const START: &str = "<|startoftext|>";

/// A tokenizer ready to be written.
#[derive(Clone, Debug)]
pub struct TokenizerSource {
    /// The text of `tokenizer.json`.
    pub json: String,
    /// The files it was made from.
    pub files: Vec<PathBuf>,
    /// The id that fills up.
    pub pad_id: u32,
}

/// What the model asks of its tokenizer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Tokens of a text, special ones included.
    pub(super) context: usize,
    /// Rows of the token embedding.
    pub(super) vocab: usize,
    pub(super) padding: Padding,
    /// Whether texts may be filled up on the left: where the text tower sees every token and takes the last.
    pub(super) left: bool,
    pub(super) clean: Clean,
}

/// What is done to a text before the tokenizer's own normaliser (`get_clean_fn` in OpenCLIP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clean {
    No,
    Lower,
    /// Big Vision's: ASCII punctuation out, lower case, single spaces.
    Canonical,
}

impl Clean {
    fn steps(self) -> tokenizers::Result<Vec<NormalizerWrapper>> {
        let replace = |pattern: &str, by: &str| {
            let pattern = tokenizers::normalizers::replace::ReplacePattern::Regex(pattern.into());
            Replace::new(pattern, by).map(NormalizerWrapper::from)
        };
        Ok(match self {
            Self::No => Vec::new(),
            Self::Lower => vec![Lowercase.into()],
            Self::Canonical => vec![
                replace("_", " ")?,
                replace(r"[!-/:-@\[-`{-~]", "")?,
                Lowercase.into(),
                replace(r"\s+", " ")?,
                Strip::new(true, true).into(),
            ],
        })
    }
}

/// Which id fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// OpenCLIP's own tokenizer: id 0, whatever token that is.
    Zero,
    /// The token that the folder's files name; else CLIP's end of text, else this id.
    Named { otherwise: u32 },
}

/// The names that `tokenizer_config.json` and `special_tokens_map.json` give to special tokens.
struct Names {
    config: Value,
    map: Value,
}

impl Names {
    fn read(dir: &Path) -> Result<(Self, Vec<PathBuf>), ImportError> {
        let (config, map) = (dir.join("tokenizer_config.json"), dir.join("special_tokens_map.json"));
        let names = Self { config: read_json(&config)?.unwrap_or_default(), map: read_json(&map)?.unwrap_or_default() };
        Ok((names, [config, map].into_iter().filter(|file| file.is_file()).collect()))
    }

    /// A special token's text. The map counts before the configuration, as in Transformers, but for configurations that
    /// list their added tokens: those were written after the map went out of use.
    fn get(&self, name: &str) -> Option<&str> {
        let modern = self.config.get("added_tokens_decoder").is_some();
        let order = if modern { [&self.config, &self.map] } else { [&self.map, &self.config] };
        // Written as a string, or as an object around it.
        order.iter().find_map(|json| {
            let token = json.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str())
        })
    }
}

impl Names {
    /// Where texts are filled up: what the file says, or the class's own (`padding_side` in `tokenization_gemma.py` and
    /// `tokenization_siglip2.py`).
    fn padding_side(&self) -> PaddingDirection {
        let text = |name: &str| self.config.get(name).and_then(Value::as_str);
        let left = match text("padding_side") {
            Some(side) => side == "left",
            None => {
                matches!(text("tokenizer_class"), Some("GemmaTokenizer" | "GemmaTokenizerFast" | "Siglip2Tokenizer"))
            }
        };
        if left { PaddingDirection::Left } else { PaddingDirection::Right }
    }
}

/// Reads or builds the tokenizer of `dir`.
///
/// # Errors
/// No tokenizer files, damaged ones, or ones that belong to another model.
pub(super) fn read(dir: &Path, wanted: Wanted) -> Result<TokenizerSource, ImportError> {
    let (names, mut files) = Names::read(dir)?;
    let (mut tokenizer, file) = match read_bytes(&dir.join("tokenizer.json"), MAX_FILE)? {
        Some(bytes) => {
            let file = dir.join("tokenizer.json");
            let text = json_text::text(&bytes).map_err(|e| damaged(&file, e))?;
            let tokenizer = Tokenizer::from_bytes(text.as_bytes())
                .map_err(|e| damaged(&file, format!("is not a tokenizer of the tokenizers library: {e}")))?;
            files.push(file.clone());
            (tokenizer, file)
        }
        None => match word_pieces(dir, &names, &mut files)? {
            Some(built) => built,
            None => built(dir, &names, &mut files)?,
        },
    };
    let side = names.padding_side();
    if matches!(side, PaddingDirection::Left) && !wanted.left {
        return Err(ImportError::Unsupported {
            file: dir.join("tokenizer_config.json"),
            what: "a tokenizer that fills up on the left (`padding_side`)".into(),
            remedy: "use a checkpoint whose texts are filled up on the right, as CLIP's and SigLIP's are".into(),
        });
    }
    let failed = |e: tokenizers::Error| damaged(&file, format!("cannot be used: {e}"));
    let mut steps = wanted.clean.steps().map_err(failed)?;
    // This class puts lower case before whatever its file says (`tokenization_siglip2.py`).
    if names.config.get("tokenizer_class").and_then(Value::as_str) == Some("Siglip2Tokenizer") {
        steps.push(Lowercase.into());
    }
    if !steps.is_empty() {
        steps.extend(tokenizer.get_normalizer().cloned());
        tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(failed)?;
    }
    let (pad_id, pad_token) = padding(&tokenizer, &names, wanted.padding);
    check(&tokenizer, &file, pad_id, wanted.vocab)?;
    let cut = match names.config.get("truncation_side").and_then(Value::as_str) {
        Some("left") => TruncationDirection::Left,
        _ => TruncationDirection::Right,
    };
    let truncation = TruncationParams { max_length: wanted.context, direction: cut, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
    tokenizer.with_padding(Some(PaddingParams {
        strategy: PaddingStrategy::Fixed(wanted.context),
        direction: side,
        pad_to_multiple_of: None,
        pad_id,
        pad_type_id: 0,
        pad_token,
    }));
    let json = tokenizer.to_string(false).map_err(failed)?;
    Ok(TokenizerSource { json, files, pad_id })
}

fn padding(tokenizer: &Tokenizer, names: &Names, rule: Padding) -> (u32, String) {
    let token_of = |id| (id, tokenizer.id_to_token(id).unwrap_or_default());
    let Padding::Named { otherwise } = rule else { return token_of(0) };
    for token in [names.get("pad_token"), tokenizer.get_padding().map(|p| p.pad_token.as_str()), Some(END)] {
        if let Some(token) = token
            && let Some(id) = tokenizer.token_to_id(token)
        {
            return (id, token.to_owned());
        }
    }
    token_of(otherwise)
}

/// That every id it can make has a row in the token embedding.
fn check(tokenizer: &Tokenizer, file: &Path, pad_id: u32, vocab: usize) -> Result<(), ImportError> {
    let highest = tokenizer.get_vocab(false).values().copied().max();
    let mut problems = Vec::new();
    match highest {
        None => problems.push("its vocabulary is empty".to_owned()),
        Some(id) if id as usize >= vocab => {
            problems.push(format!("its highest token id is {id}, the model's vocabulary has {vocab} tokens"));
        }
        Some(_) => {}
    }
    if pad_id as usize >= vocab {
        problems.push(format!("it fills up with the id {pad_id}, the model's vocabulary has {vocab} tokens"));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(damaged(file, format!("does not fit the model: {}; take both from the same checkpoint", problems.join("; "))))
}

/// CLIP's byte-level BPE from `vocab.json` and `merges.txt`.
fn built(dir: &Path, names: &Names, files: &mut Vec<PathBuf>) -> Result<(Tokenizer, PathBuf), ImportError> {
    let (vocab_file, merges_file) = (dir.join("vocab.json"), dir.join("merges.txt"));
    let (vocab, merges) = (read_bytes(&vocab_file, MAX_PART)?, read_bytes(&merges_file, MAX_PART)?);
    let (Some(vocab), Some(merges)) = (vocab, merges) else {
        let found = if dir.join("spiece.model").exists() || dir.join("tokenizer.model").exists() {
            "holds a SentencePiece model, which is not read"
        } else {
            "holds no tokenizer"
        };
        let message = format!(
            "{found}: tokenizer.json, or vocab.json and merges.txt, or vocab.txt, must lie beside the weights; fetch them from the \
             repository the checkpoint came from (those of openai/clip-vit-base-patch32 fit every CLIP and OpenCLIP model \
             with the usual vocabulary of 49408 tokens)"
        );
        return Err(damaged(dir, message));
    };
    let vocab: Value =
        json_text::parse(&vocab).map_err(|e| damaged(&vocab_file, format!("{e}; mend it, or fetch it again")))?;
    let merges = json_text::text(&merges).map_err(|e| damaged(&merges_file, e))?;
    let (start, end) = (names.get("bos_token").unwrap_or(START), names.get("eos_token").unwrap_or(END));
    let mut ids = Vec::new();
    for token in [start, end] {
        let id = vocab.get(token).and_then(Value::as_u64);
        ids.push(id.ok_or_else(|| damaged(&vocab_file, format!("lacks the special token `{}`", shown(token))))?);
    }
    let unknown = names.get("unk_token").unwrap_or(END);
    let unknown = vocab.get(unknown).is_some().then_some(unknown);
    let json = template(&vocab, &pairs(&merges, &merges_file)?, unknown, (start, ids[0]), (end, ids[1]));
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes())
        .map_err(|e| damaged(&vocab_file, format!("does not fit merges.txt: {e}; fetch both again")))?;
    files.extend([vocab_file.clone(), merges_file]);
    Ok((tokenizer, vocab_file))
}

/// BERT's word pieces from `vocab.txt` (`tokenization_bert.py`); `None` where there is no such file.
fn word_pieces(
    dir: &Path,
    names: &Names,
    files: &mut Vec<PathBuf>,
) -> Result<Option<(Tokenizer, PathBuf)>, ImportError> {
    let file = dir.join("vocab.txt");
    let Some(bytes) = read_bytes(&file, MAX_PART)? else { return Ok(None) };
    let text = json_text::text(&bytes).map_err(|e| damaged(&file, e))?;
    // Of a token that stands twice the last place counts, as there.
    let vocab: serde_json::Map<String, Value> =
        text.lines().enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let flag = |name: &str, default: Value| names.config.get(name).cloned().unwrap_or(default);
    let id = |token: &str| {
        let id = vocab.get(token).and_then(Value::as_u64);
        id.ok_or_else(|| damaged(&file, format!("lacks the special token `{}`", shown(token))))
    };
    let special = |name: &str, default: &str| names.get(name).unwrap_or(default).to_owned();
    let (start, end, unknown) =
        (special("cls_token", "[CLS]"), special("sep_token", "[SEP]"), special("unk_token", "[UNK]"));
    let mut added = Vec::new();
    for token in [&start, &end, &unknown, &special("pad_token", "[PAD]"), &special("mask_token", "[MASK]")] {
        added.push(json!({"id": id(token)?, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}));
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let around = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let one = |token: &str| -> Result<Value, ImportError> {
        Ok(json!({"id": token, "ids": [id(token)?], "tokens": [token]}))
    };
    let single = json!([around(&start), {"Sequence": {"id": "A", "type_id": 0}}, around(&end)]);
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true.into()),
            "strip_accents": flag("strip_accents", Value::Null), "lowercase": flag("do_lower_case", true.into())},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [
            around(&start), {"Sequence": {"id": "A", "type_id": 0}}, around(&end),
            {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": end, "type_id": 1}}],
            "special_tokens": {start.as_str(): one(&start)?, end.as_str(): one(&end)?}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes())
        .map_err(|e| damaged(&file, format!("makes no tokenizer: {e}; fetch it again")))?;
    files.push(file.clone());
    Ok(Some((tokenizer, file)))
}

/// The lines of `merges.txt`, without its `#version`.
fn pairs<'a>(text: &'a str, file: &Path) -> Result<Vec<[&'a str; 2]>, ImportError> {
    let lines =
        text.lines().enumerate().filter(|(n, line)| !(line.is_empty() || *n == 0 && line.starts_with("#version")));
    lines
        .map(|(n, line)| {
            let mut parts = line.split(' ');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(left), Some(right), None) => Ok([left, right]),
                _ => Err(damaged(file, format!("line {} is not a pair of tokens", n + 1))),
            }
        })
        .collect()
}

/// What `CLIPTokenizer` is made of: NFC, single spaces, lower case; words, single digits and punctuation apart; a marked
/// end of each word.
fn template(
    vocab: &Value,
    merges: &[[&str; 2]],
    unknown: Option<&str>,
    (start, start_id): (&str, u64),
    (end, end_id): (&str, u64),
) -> Value {
    let special = |id: u64, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let mut added = vec![special(start_id, start)];
    if start_id != end_id {
        added.push(special(end_id, end));
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let words = format!(
        r"{}|{}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
        escaped(start),
        escaped(end)
    );
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [end, end_id], "cls": [start, start_id],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

/// A text that a regular expression takes literally.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_alphanumeric() && c.is_ascii() && !c.is_ascii_whitespace() && c != '<' && c != '>' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests;
