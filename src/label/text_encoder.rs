//! The text tower: strings in, L2-normalised embeddings out.
//!
//! Texts are run in batches where company does not matter to them, which the first batch shows: each of its texts is run alone too. A
//! dynamically quantised tower scales by its whole batch, and would give a prompt another embedding in other company, so that the cache would
//! not be worth its name: such a one runs one text at a time. Runs on the caller's thread; nothing is queued.

use std::collections::BTreeMap;
use std::path::Path;

use ort::logging::LogLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{Outlet, TensorElementType, TensorRef};
use tokenizers::{PaddingDirection, PaddingParams, PaddingStrategy, Tokenizer, TruncationDirection, TruncationParams};
use vtagd_pictures::rows;

use crate::infer::runtime::Runtime;
use crate::infer::{InferError, graph, provider, session};
use crate::model::Bundle;
use crate::model::bundle::TextSpec;
use crate::platform::json_text;

/// CLIP's context, taken where neither the model nor its files say how long an input may be.
const DEFAULT_LENGTH: usize = 77;

/// Texts that are run together.
const BATCH: usize = 16;

/// Why texts could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer file is damaged or belongs to another model. Fatal at start-up.
    #[error("{0}")]
    Tokenizer(String),
    /// The text tower does not load or run. Fatal at start-up.
    #[error(transparent)]
    Infer(#[from] InferError),
}

/// One embedded text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEmbedding {
    /// L2-normalised.
    pub values: Vec<f32>,
    /// Whether the end of the text did not fit into the model's context.
    pub truncated: bool,
}

/// Turns a text into the ids a model wants. Apart from [`TextEncoder`] so that it can be tested without a model.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    attends_to_padding: bool,
}

/// Ids and mask of one text, equally long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<i64>,
    pub mask: Vec<i64>,
    pub truncated: bool,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, padding and cutting as `spec` says.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the file is no tokenizer.
    pub fn open(file: &Path, spec: &TextSpec) -> Result<Self, TextError> {
        let shown = file.display();
        let bytes = std::fs::read(file).map_err(|e| TextError::Tokenizer(format!("{shown}: cannot be read: {e}")))?;
        let text = json_text::text(&bytes).map_err(|e| TextError::Tokenizer(format!("{shown}: {e}")))?;
        let mut tokenizer = Tokenizer::from_bytes(text.as_bytes()).map_err(|e| {
            TextError::Tokenizer(format!(
                "{shown}: is not a tokenizer of the Hugging Face tokenizers library ({e}); copy tokenizer.json from the model's export"
            ))
        })?;
        // Which side is cut and which is filled up, the file knows alone; Gemma's fills up on the left.
        let written = tokenizer.get_truncation().map(|t| t.max_length);
        let cut = tokenizer.get_truncation().map_or(TruncationDirection::Right, |t| t.direction);
        let filled = tokenizer.get_padding().map_or(PaddingDirection::Right, |p| p.direction);
        let max_length = spec.pad_to.or(spec.max_length).or(written).unwrap_or(DEFAULT_LENGTH);
        let truncation = TruncationParams { max_length, direction: cut, ..TruncationParams::default() };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|e| TextError::Tokenizer(format!("{shown}: cannot cut texts at {max_length} tokens: {e}")))?;
        let (pad_id, pad_token) = padding(&tokenizer, file, spec);
        tokenizer.with_padding(spec.pad_to.map(|length| PaddingParams {
            strategy: PaddingStrategy::Fixed(length),
            direction: filled,
            pad_to_multiple_of: None,
            pad_id,
            pad_type_id: 0,
            pad_token,
        }));
        Ok(Self { tokenizer, attends_to_padding: spec.attends_to_padding })
    }

    /// Ids of `text`, special tokens included.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the tokenizer cannot make anything of the text.
    pub fn encode(&self, text: &str) -> Result<Tokens, TextError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|e| TextError::Tokenizer(format!("the tokenizer fails on {text:?}: {e}")))?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        let mask = if self.attends_to_padding {
            vec![1; ids.len()]
        } else {
            encoding.get_attention_mask().iter().map(|m| i64::from(*m)).collect()
        };
        Ok(Tokens { ids, mask, truncated: !encoding.get_overflowing().is_empty() })
    }

    /// The highest id of the vocabulary, special tokens that were added to it left out.
    fn highest_id(&self) -> i64 {
        i64::from(self.tokenizer.get_vocab(false).values().copied().max().unwrap_or(0))
    }
}

/// What fills up: the tokenizer's own padding, else the special token that `tokenizer_config.json` names, else the
/// model's configuration, else id 0 (which is what OpenCLIP does; behind a causal mask it does not matter).
fn padding(tokenizer: &Tokenizer, file: &Path, spec: &TextSpec) -> (u32, String) {
    if let Some(own) = tokenizer.get_padding() {
        return (own.pad_id, own.pad_token.clone());
    }
    let token = std::fs::read(file.with_file_name("tokenizer_config.json"))
        .ok()
        .and_then(|bytes| json_text::parse::<serde_json::Value>(&bytes).ok())
        .and_then(|json| {
            // Written as a string, or as an object around it by older versions.
            let pad = json.get("pad_token")?;
            pad.as_str().or_else(|| pad.get("content")?.as_str()).map(str::to_owned)
        });
    if let Some(token) = token
        && let Some(id) = tokenizer.token_to_id(&token)
    {
        return (id, token);
    }
    // CLIP tokenizers without their configuration: Transformers pads with the end of the text.
    let end = "<|endoftext|>";
    if spec.pad_id.is_none()
        && let Some(id) = tokenizer.token_to_id(end)
    {
        return (id, end.to_owned());
    }
    let id = spec.pad_id.unwrap_or(0);
    (id, tokenizer.id_to_token(id).unwrap_or_default())
}

/// A loaded text tower with its tokenizer.
pub struct TextEncoder {
    tokenizer: TextTokenizer,
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
    inputs: Vec<Input>,
    output: String,
    /// Whether texts may be run together; `None` until a batch has shown it.
    together: Option<bool>,
}

#[derive(Debug)]
struct Input {
    name: String,
    role: Role,
    wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    /// `token_type_ids` of BERT-like towers: all 0.
    Types,
    /// `position_ids`: 0, 1, 2, …
    Positions,
}

impl TextEncoder {
    /// Loads the bundle's text tower on the CPU and checks that the tokenizer fits.
    ///
    /// # Errors
    /// A damaged or unsuitable tower, or a tokenizer that belongs to another model.
    pub fn open(runtime: &Runtime, bundle: &Bundle, threads: usize) -> Result<Self, TextError> {
        let file = bundle.text.as_deref().ok_or_else(|| {
            InferError::Model(format!("the model directory {} has no text_model.onnx", bundle.dir.display()))
        })?;
        let session = provider::cpu_session(runtime, file, threads, bundle.byte_sums_fit.into())?;
        let inputs = inputs(session.inputs(), file)?;
        let output = graph::embedding_output(session.outputs(), graph::TEXT_OUTPUTS, file)?.name;
        let options = RunOptions::new()
            .map_err(|e| InferError::Model(e.to_string()))?
            .with_outputs(OutputSelector::no_default().with(&output));
        let mut spec = bundle.text_spec.clone();
        // An export with a fixed length has the last word.
        if let Some(length) = fixed_length(session.inputs()) {
            spec.pad_to = Some(length);
        }
        let tokenizer = TextTokenizer::open(&bundle.tokenizer, &spec)?;
        let mut encoder = Self { tokenizer, session, options, inputs, output, together: None };
        // The check provokes failures, which the runtime would log as errors.
        encoder.set_log_level(LogLevel::Fatal);
        encoder.check_fit(bundle, &spec)?;
        encoder.set_log_level(LogLevel::Warning);
        Ok(encoder)
    }

    fn set_log_level(&mut self, level: LogLevel) {
        // Only the amount of logging is at stake.
        let _ = self.options.set_log_level(level);
    }

    /// Embeds one text.
    ///
    /// # Errors
    /// A text the tokenizer or the tower cannot take.
    pub fn embed(&mut self, text: &str) -> Result<TextEmbedding, TextError> {
        let tokens = self.tokens(text)?;
        let values = self.run(&tokens.ids, &tokens.mask, 1)?;
        embedding(text, &tokens, values)
    }

    /// Embeds `texts` and hands each result to `done` with its index, in order.
    ///
    /// # Errors
    /// The first text that the tokenizer or the tower cannot take ends it; what was handed over before is good.
    pub fn embed_all(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), TextError> {
        let mut next = 0;
        for chunk in texts.chunks(BATCH) {
            let mut failed = None;
            let tokens = chunk.iter().map_while(|text| self.tokens(text).map_err(|error| failed = Some(error)).ok());
            let tokens: Vec<Tokens> = tokens.collect();
            for ((text, tokens), values) in chunk.iter().zip(&tokens).zip(self.rows(&tokens)?) {
                done(next, embedding(text, tokens, values)?);
                next += 1;
            }
            failed.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    fn tokens(&self, text: &str) -> Result<Tokens, TextError> {
        let tokens = self.tokenizer.encode(text)?;
        if tokens.ids.is_empty() {
            return Err(TextError::Tokenizer(format!("the text {text:?} has no tokens; write at least one word")));
        }
        Ok(tokens)
    }

    /// What the tower gives for each of `tokens`, those of one length together where that makes no difference.
    fn rows(&mut self, tokens: &[Tokens]) -> Result<Vec<Vec<f32>>, InferError> {
        let mut rows = vec![Vec::new(); tokens.len()];
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, text) in tokens.iter().enumerate() {
            groups.entry(text.ids.len()).or_default().push(index);
        }
        for group in groups.values() {
            let together = (group.len() > 1 && self.together != Some(false)).then(|| self.run_group(tokens, group));
            if let (Some(Ok(values)), Some(true)) = (&together, self.together) {
                let dim = values.len() / group.len();
                group.iter().zip(values.chunks_exact(dim.max(1))).for_each(|(index, row)| rows[*index] = row.to_vec());
                continue;
            }
            for index in group {
                rows[*index] = self.run(&tokens[*index].ids, &tokens[*index].mask, 1)?;
            }
            if let (Some(together), None) = (together, self.together) {
                let alone: Vec<&[f32]> = group.iter().map(|index| &*rows[*index]).collect();
                self.together = Some(together.is_ok_and(|values| is_same(&values, &alone)));
                if self.together == Some(false) {
                    tracing::info!(
                        "texts are embedded one at a time: together they would differ, or the model takes one only"
                    );
                }
            }
        }
        Ok(rows)
    }

    fn run_group(&mut self, tokens: &[Tokens], group: &[usize]) -> Result<Vec<f32>, InferError> {
        let ids: Vec<i64> = group.iter().flat_map(|index| &tokens[*index].ids).copied().collect();
        let mask: Vec<i64> = group.iter().flat_map(|index| &tokens[*index].mask).copied().collect();
        // An export that takes one text only fails here, which is no error.
        let level = if self.together.is_none() { LogLevel::Fatal } else { LogLevel::Warning };
        self.set_log_level(level);
        let values = self.run(&ids, &mask, group.len());
        self.set_log_level(LogLevel::Warning);
        values
    }

    /// Runs `rows` texts of one length, whose tokens stand one behind the other.
    fn run(&mut self, ids: &[i64], mask: &[i64], rows: usize) -> Result<Vec<f32>, InferError> {
        let failed = |e: ort::Error| InferError::Run(format!("the text tower failed: {}", e.message()));
        let length = ids.len() / rows;
        let shape = [rows, length];
        let columns: Vec<(&Input, Vec<i64>)> = self
            .inputs
            .iter()
            .map(|input| {
                let column = match input.role {
                    Role::Ids => ids.to_vec(),
                    Role::Mask => mask.to_vec(),
                    Role::Types => vec![0; ids.len()],
                    Role::Positions => (0..length as i64).cycle().take(ids.len()).collect(),
                };
                (input, column)
            })
            .collect();
        // Ids are below 2^31 in every tokenizer, so nothing is lost.
        let narrow: Vec<Vec<i32>> =
            columns.iter().map(|(_, column)| column.iter().map(|v| *v as i32).collect()).collect();
        let mut feed: Vec<(&str, ort::session::SessionInputValue<'_>)> = Vec::with_capacity(columns.len());
        for ((input, column), narrow) in columns.iter().zip(&narrow) {
            let value = if input.wide {
                TensorRef::from_array_view((shape, column.as_slice())).map_err(failed)?.into()
            } else {
                TensorRef::from_array_view((shape, narrow.as_slice())).map_err(failed)?.into()
            };
            feed.push((&input.name, value));
        }
        let outputs = self.session.run_with_options(feed, &self.options).map_err(failed)?;
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| InferError::Run(format!("the text tower gave no `{}`", self.output)))?;
        let mut values = Vec::new();
        session::append_rows(value, rows, rows, &mut values).map_err(InferError::Run)?;
        Ok(values)
    }

    /// A tokenizer of another model makes ids that the token embedding has no row for, or uses only a corner of it. Both
    /// are found by asking: the highest id must run, one well beyond it must not, unless an import took both from one checkpoint.
    fn check_fit(&mut self, bundle: &Bundle, spec: &TextSpec) -> Result<(), TextError> {
        let highest = self.tokenizer.highest_id();
        let misfit = |why: String| {
            TextError::Tokenizer(format!(
                "{} does not fit {}: {why}; copy both from the same export",
                bundle.tokenizer.display(),
                bundle.text.as_deref().unwrap_or(&bundle.dir).display()
            ))
        };
        if let Some(rows) = spec.vocab_size
            && highest as u64 >= rows
        {
            return Err(misfit(format!("its highest token id is {highest}, the model's vocabulary has {rows}")));
        }
        let mut tokens = self.tokenizer.encode("a photo")?;
        // A run that fails for another reason than the ids fails here, with its own message.
        self.run(&tokens.ids, &tokens.mask, 1).map_err(|e| {
            let worst = tokens.ids.iter().max().copied().unwrap_or(0);
            if is_out_of_range(&e) { misfit(format!("the model has no token {worst}")) } else { e.into() }
        })?;
        let Some(last) = tokens.ids.last_mut() else { return Ok(()) };
        *last = highest;
        if self.run(&tokens.ids, &tokens.mask, 1).is_err() {
            return Err(misfit(format!("the model has no token {highest}, which the tokenizer can make")));
        }
        if spec.imported {
            return Ok(());
        }
        // Embeddings are padded to round sizes, so a little room above is usual; a quarter more is another vocabulary.
        let beyond = highest + highest / 4 + 1024;
        if let Some(last) = tokens.ids.last_mut() {
            *last = beyond;
        }
        if highest > 0 && self.run(&tokens.ids, &tokens.mask, 1).is_ok() {
            return Err(misfit(format!(
                "its highest token id is {highest}, but the model knows more than {beyond} tokens"
            )));
        }
        Ok(())
    }
}

fn embedding(text: &str, tokens: &Tokens, mut values: Vec<f32>) -> Result<TextEmbedding, TextError> {
    if !rows::normalise(&mut values) {
        return Err(InferError::Run(format!("the text tower's embedding of {text:?} is zero or not finite")).into());
    }
    Ok(TextEmbedding { values, truncated: tokens.truncated })
}

/// Whether the rows of `together` are those of `alone`, as far as arithmetic goes.
fn is_same(together: &[f32], alone: &[&[f32]]) -> bool {
    let dim = together.len() / alone.len().max(1);
    together.chunks_exact(dim.max(1)).zip(alone).all(|(together, alone)| {
        let (mut together, mut alone) = (together.to_vec(), alone.to_vec());
        let normal = rows::normalise(&mut together) && rows::normalise(&mut alone);
        let cosine: f32 = together.iter().zip(&alone).map(|(a, b)| a * b).sum();
        normal && together.len() == alone.len() && 1.0 - cosine <= session::BATCH_TOLERANCE
    })
}

fn is_out_of_range(error: &InferError) -> bool {
    let text = error.to_string();
    text.contains("out of data bounds") || text.contains("out of bounds") || text.contains("out of range")
}

fn inputs(outlets: &[Outlet], file: &Path) -> Result<Vec<Input>, InferError> {
    let refuse = |outlet: &Outlet, why: &str| {
        let (file, name, dtype) = (file.display(), outlet.name(), outlet.dtype());
        InferError::Model(format!("{file}: the input `{name}` ({dtype}) {why}; export the text tower on its own"))
    };
    let mut found = Vec::with_capacity(outlets.len());
    for outlet in outlets {
        let wide = match outlet.dtype().tensor_type() {
            Some(TensorElementType::Int64) => true,
            Some(TensorElementType::Int32) => false,
            _ => return Err(refuse(outlet, "is not an integer tensor")),
        };
        let role = match outlet.name() {
            "input_ids" | "text" | "tokens" | "input" => Role::Ids,
            "attention_mask" | "mask" => Role::Mask,
            "token_type_ids" => Role::Types,
            "position_ids" => Role::Positions,
            _ if outlets.len() == 1 => Role::Ids,
            _ => return Err(refuse(outlet, "is not one that a text tower has")),
        };
        found.push(Input { name: outlet.name().to_owned(), role, wide });
    }
    if found.iter().filter(|input| input.role == Role::Ids).count() != 1 {
        return Err(InferError::Model(format!(
            "{}: has no input `input_ids`; export the text tower again",
            file.display()
        )));
    }
    Ok(found)
}

fn fixed_length(outlets: &[Outlet]) -> Option<usize> {
    let shape = outlets.iter().find_map(|outlet| outlet.dtype().tensor_shape().filter(|s| s.len() == 2))?;
    usize::try_from(shape[1]).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bindings make even a description of a tensor in the library, so it has to be there.
    fn outlet(name: &str, ty: TensorElementType, shape: &[i64]) -> Outlet {
        crate::infer::runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
        let dimension_symbols = ort::value::SymbolicDimensions::empty(shape.len());
        let shape = ort::value::Shape::new(shape.iter().copied());
        Outlet::new(name, ort::value::ValueType::Tensor { ty, shape, dimension_symbols })
    }

    #[test]
    fn towers_with_and_without_a_mask_and_with_either_integer_are_taken() {
        let file = Path::new("t.onnx");
        let (wide, narrow) = (TensorElementType::Int64, TensorElementType::Int32);
        let one =
            inputs(&[outlet("input_ids", wide, &[-1, -1]), outlet("attention_mask", wide, &[-1, -1])], file).unwrap();
        assert_eq!(one.iter().map(|i| (i.role, i.wide)).collect::<Vec<_>>(), [(Role::Ids, true), (Role::Mask, true)]);
        let two = inputs(&[outlet("whatever", narrow, &[1, 77])], file).unwrap();
        assert_eq!((two[0].role, two[0].wide), (Role::Ids, false));
        assert_eq!(fixed_length(&[outlet("x", narrow, &[1, 77])]), Some(77));
        let error = inputs(&[outlet("pixel_values", TensorElementType::Float32, &[1, 3, 2, 2])], file).unwrap_err();
        assert!(error.to_string().contains("pixel_values"), "{error}");
    }

    #[test]
    fn texts_run_together_where_company_changes_nothing() {
        let dir = crate::model::resolve(Path::new(crate::model::STARTER)).expect("run `make setup` first");
        let bundle = Bundle::open_with_cache(&dir, None).unwrap();
        let runtime = crate::infer::runtime::load(None).expect("run `make setup` first");
        let mut encoder = TextEncoder::open(&runtime, &bundle, 1).unwrap();
        let mut count = 0;
        encoder.embed_all(&["one cat", "one dog", "a car in the rain"], &mut |_, _| count += 1).unwrap();
        assert_eq!((encoder.together, count), (Some(true), 3));
    }

    #[test]
    fn rows_that_differ_by_more_than_arithmetic_are_not_the_same() {
        let alone: [&[f32]; 2] = [&[3.0, 4.0], &[1.0, 0.0]];
        assert!(is_same(&[3.0, 4.000_001, 1.0, 0.0], &alone));
        assert!(!is_same(&[3.0, 4.2, 1.0, 0.0], &alone), "the first");
        assert!(!is_same(&[3.0, 4.0, 1.0, 0.1], &alone), "the last");
        assert!(!is_same(&[3.0, 4.0, 0.0, 0.0], &alone), "no direction");
        assert!(!is_same(&[3.0, 4.0, 1.0, f32::NAN], &alone));
    }
}
