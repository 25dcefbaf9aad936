//! What the fuzzers run (`make fuzz`), and a bounded test on every machine (tests/repository/fuzz_bodies.rs): readers of what people and other programs
//! write, given any bytes. Bytes in, nothing out, no panic. Those of checkpoints and cameras are beside their readers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::NOWHERE;
use crate::frame::{Matrix, Picture, PixelFormat, Range};
use crate::history::moment_search::{Wanted, search};
use crate::history::name_table::Name;
use crate::history::purge::{Which, purge};
use crate::history::row_store::{NewRow, RetentionLimits, RowStore, StoredRows};
use crate::model::Bundle;
use crate::preprocess::{Preprocessor, Region, Spec, View, ViewMode, tiles};
use crate::yaml::Document;

pub use crate::api::fuzz_http as http;
pub use crate::config::fuzz as settings;
pub use crate::frame::coded_size::fuzz::any_bytes as coded_size;
pub use crate::sink::webhook::fuzz as answers;

/// Reads `data` as a label set.
pub fn labels(data: &[u8]) {
    if let Ok(document) = Document::parse(Path::new(NOWHERE), data)
        && let Ok(parsed) = crate::label::set::check(document)
    {
        assert!(!parsed.set.labels.is_empty(), "a set without labels was taken");
    }
}

/// Reads `data` as each kind of preprocessor file, and looks at a picture with what came of it.
pub fn preprocessor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let openclip = serde_json::from_str(text).ok().map(|json| Spec::from_openclip(&json, None));
    for spec in [Some(Spec::from_json(text)), openclip].into_iter().flatten().flatten() {
        // Larger ones are right, and slow.
        if spec.place_len() <= 3 * 512 * 512
            && let Ok(picture) = Picture::from_rgb(17, 5, (0..17 * 5 * 3).map(|n| n as u8).collect())
        {
            look(&picture, View::default(), spec);
        }
    }
}

/// Takes `data` for a decoder's picture: format, size, strides, planes, and the part of it that is looked at. The first bytes say how, the
/// rest are the pixels, over and over.
pub fn geometry(data: &[u8]) {
    const FORMATS: [PixelFormat; 6] = [
        PixelFormat::I420,
        PixelFormat::Y42b,
        PixelFormat::Y444,
        PixelFormat::Nv12,
        PixelFormat::Rgb,
        PixelFormat::Gray8,
    ];
    const MODES: [ViewMode; 4] = [ViewMode::Model, ViewMode::Squash, ViewMode::Pad, ViewMode::Tiles];
    let Some((&[format, mode, colour, width, height, wide, stride0, stride1, stride2, short, x, y, w, h], pixels)) =
        data.split_first_chunk()
    else {
        return;
    };
    let format = FORMATS[usize::from(format) % FORMATS.len()];
    // Now and then a very wide or a very high one.
    let stretch = |side: u8, by: u8| u32::from(side) * if by == 0 { 1 } else { 1 + u32::from(by % 16) };
    let (width, height) = (stretch(width, wide & 0xf), stretch(height, wide >> 4));
    let matrix = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020][usize::from(colour & 3) % 3];
    let range = if colour & 4 == 0 { Range::Limited } else { Range::Full };
    let mut strides = [0; 3];
    let mut planes = Vec::new();
    for (index, more) in [stride0, stride1, stride2].into_iter().enumerate().take(format.planes()) {
        let (row, rows) = format.plane_size(index, width, height);
        // One in 256 is too narrow.
        strides[index] = if more == 255 { row.saturating_sub(1) } else { row + usize::from(more) };
        let length =
            (strides[index] * rows).saturating_sub(if short == index as u8 { usize::from(more) + 1 } else { 0 });
        let pixels = if pixels.is_empty() { &[128][..] } else { pixels };
        planes.push(pixels.iter().copied().cycle().take(length).collect::<Vec<u8>>());
    }
    let Ok(picture) = Picture::new(format, (width, height), strides, (matrix, range), Box::new(planes)) else { return };
    let part = |byte: u8| f64::from(byte) / 256.0;
    let (x, y) = (part(x), part(y));
    let region = Region { x, y, w: (1.0 - x) * (1.0 - part(w)), h: (1.0 - y) * (1.0 - part(h)) };
    let view = View { mode: MODES[usize::from(mode) % MODES.len()], region };
    let shape = if mode & 0x80 == 0 { r#"{"size": {"height": 32, "width": 32}}"# } else { SHORT_EDGE };
    if let Ok(spec) = Spec::from_json(shape) {
        look(&picture, view, spec);
    }
}

/// Fills `folder`, which is emptied first, with a history out of `data`, and searches it, writes to it and purges it. The first byte says how many numbers
/// a row has; the first 255 after it ends the names.
pub fn history(folder: &Path, data: &[u8]) {
    let Some((dim, rest)) = data.split_first() else { return };
    // Gone already is as good.
    let _ = std::fs::remove_dir_all(folder);
    if std::fs::create_dir_all(folder).is_err() {
        return;
    }
    let mut parts = rest.splitn(2, |byte| *byte == 255);
    let dim = usize::from(*dim).max(1);
    let (names, rows) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = std::fs::write(folder.join("names.jsonl"), names);
    let _ = std::fs::write(folder.join(format!("{:016x}-{dim}.rows", 0)), rows);
    let embedding = vec![1.0 / (dim as f32).sqrt(); dim];
    let wanted = Wanted {
        embedding: &embedding,
        model: "m",
        since: Some(-5),
        until: None,
        keep: 9,
        threads: 2,
        ..Wanted::default()
    };
    if let Ok((stored, _)) = StoredRows::open(folder) {
        for moment in search(&stored, &wanted).moments {
            assert!(moment.score.is_finite() && moment.until >= moment.from, "{moment:?}");
        }
    }
    let limits = RetentionLimits { max_size: 1 << 20, max_age: Duration::from_secs(3600), min_change: 0.02 };
    if let Ok((mut store, _)) = RowStore::open(Some(folder), limits, Instant::now()) {
        let name = Name { stream: "new".into(), model: "m".into(), ..Name::default() };
        let pushed = store.push(&NewRow { name: &name, tile: 0, at: 0, embedding: &embedding }, Instant::now());
        let found = search(&store.stored(), &wanted);
        assert!(pushed.is_err() || found.moments.iter().any(|moment| moment.name.stream == "new"), "it is not found");
    }
    let _ = purge(folder, Which { stream: Some("new"), before: None });
}

const SHORT_EDGE: &str =
    r#"{"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 28}, "do_center_crop": true}"#;

/// Every square that the view gives: each of its numbers is written, and is one.
fn look(picture: &Picture, view: View, spec: Spec) {
    let mut out = vec![0.0; spec.place_len()];
    let mut preprocessor = Preprocessor::new(Arc::new(spec));
    for tile in 0..tiles(view, picture.width(), picture.height()) {
        out.fill(f32::NAN);
        if preprocessor.run(picture, view, tile, &mut out).is_ok() {
            assert!(!out.iter().any(|value| value.is_nan()), "a number that was not written: {picture:?} {view:?}");
        }
    }
}

/// Fills `folder`, which is emptied first, with the files of a model directory out of `data`, and opens it. The first byte says which kind of
/// directory; 255 separates the files, which no JSON holds.
pub fn model_folder(folder: &Path, data: &[u8]) {
    const KINDS: [[&str; 6]; 3] = [
        [
            "config.json",
            "preprocessor_config.json",
            "vtagd.json",
            "tokenizer.json",
            "text_model.onnx",
            "vision_model.onnx",
        ],
        [
            "config.json",
            "preprocessor_config.json",
            "tokenizer_config.json",
            "tokenizer.json",
            "onnx/text_model_quantized.onnx",
            "onnx/vision_model_quantized.onnx",
        ],
        [
            "config.json",
            "visual/preprocess_cfg.json",
            "textual/tokenizer_config.json",
            "textual/tokenizer.json",
            "textual/model.onnx",
            "visual/model.onnx",
        ],
    ];
    let Some((kind, rest)) = data.split_first() else { return };
    // Gone already is as good.
    let _ = std::fs::remove_dir_all(folder);
    let names = KINDS[usize::from(*kind) % KINDS.len()];
    for (name, bytes) in names.iter().zip(rest.splitn(names.len(), |byte| *byte == 255)) {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
        if made.is_err() {
            return;
        }
    }
    if let Ok(bundle) = Bundle::open_with_cache(folder, None) {
        assert!(bundle.files().iter().all(|file| file.starts_with(folder)), "a model outside of its folder");
    }
}
