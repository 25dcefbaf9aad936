//! Every checkpoint of the conformance set through the real binary: `model import`, then `embed` and `tag`, against what the
//! reference implementations answer.
//!
//! `VTAGD_CHECKPOINTS=FOLDER cargo nextest run --test import import_command::` takes the checkpoints of another folder instead, such as
//! those that `tests/conformance/held_out.py FOLDER` writes. A folder whose `expected.json` has `refused` must be refused with
//! that word in the message.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::daemon::{root, vtagd};
use safetensors::SafeTensors;
use serde_json::Value;

/// What the reference implementation says of a folder.
struct Expected {
    images: Vec<String>,
    prompts: Vec<String>,
    image_embeds: Vec<Vec<f32>>,
    text_embeds: Vec<Vec<f32>>,
    probabilities: Vec<Vec<f32>>,
    input_ids: Vec<Vec<i64>>,
}

fn rows(all: &SafeTensors<'_>, name: &str) -> Vec<Vec<f32>> {
    let tensor = all.tensor(name).unwrap();
    let floats: Vec<f32> = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    floats.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

fn json(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

/// A word of the refusal, where the folder is one that must be refused.
fn refused(folder: &Path) -> Option<String> {
    json(folder)["refused"].as_str().map(str::to_owned)
}

/// `None` for a folder that must be refused.
fn expected(folder: &Path) -> Option<Expected> {
    if refused(folder).is_some() {
        return None;
    }
    let json = json(folder);
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let list = |key: &str| json[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    let ids = all.tensor("input_ids").unwrap();
    let flat: Vec<i64> = ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    Some(Expected {
        images: list("images"),
        prompts: list("prompts"),
        image_embeds: rows(&all, "image_embeds"),
        text_embeds: rows(&all, "text_embeds"),
        probabilities: rows(&all, "probs"),
        input_ids: flat.chunks_exact(ids.shape()[1]).map(<[i64]>::to_vec).collect(),
    })
}

/// A photograph of the set: two are in the repository, the others may lie beside it.
fn picture(name: &str) -> Option<PathBuf> {
    let places =
        [root().join("tests/data/preprocess").join(name), root().join("../shared/conformance/images").join(name)];
    places.into_iter().find(|path| path.is_file())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    assert_eq!(a.len(), b.len());
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The checkpoints of the repository, or those of the folder that `VTAGD_CHECKPOINTS` names.
fn checkpoints() -> Vec<PathBuf> {
    let elsewhere = std::env::var_os("VTAGD_CHECKPOINTS").map(PathBuf::from);
    let place = elsewhere.clone().unwrap_or_else(|| root().join("tests/conformance/checkpoints"));
    let mut folders: Vec<PathBuf> = fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    folders.sort();
    let least = if elsewhere.is_some() { 1 } else { 7 };
    assert!(folders.len() >= least, "the conformance checkpoints are missing in {}", place.display());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// Runs `check` for every checkpoint and fails with all that it found.
fn every_checkpoint(mut check: impl FnMut(&Path, &Expected) -> Result<(), String>) {
    let mut problems = Vec::new();
    for folder in checkpoints() {
        if let Some(expected) = expected(&folder)
            && let Err(problem) = check(&folder, &expected)
        {
            problems.push(format!("{}: {problem}", name(&folder)));
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn wanted(ok: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(problem()) }
}

fn import(temporary: &Path, folder: &Path, bundle: &Path, more: &[&str]) -> Output {
    vtagd(temporary).args(["model", "import"]).arg(folder).arg("--out").arg(bundle).args(more).output().unwrap()
}

fn try_done(output: &Output) -> Result<Value, String> {
    wanted(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// What the bundle's tokenizer makes of the prompts is what the reference's makes of them, filling included.
fn same_ids(bundle: &Path, expected: &Expected) -> Result<(), String> {
    let tokenizer = tokenizers::Tokenizer::from_file(bundle.join("tokenizer.json")).map_err(|e| e.to_string())?;
    for (prompt, wanted_ids) in expected.prompts.iter().zip(&expected.input_ids) {
        let found = tokenizer.encode(prompt.as_str(), true).map_err(|e| e.to_string())?;
        let found: Vec<i64> = found.get_ids().iter().map(|id| i64::from(*id)).collect();
        wanted(&found == wanted_ids, || format!("{prompt:?} has the ids {found:?}, not {wanted_ids:?}"))?;
    }
    Ok(())
}

#[test]
fn every_checkpoint_is_imported_and_answers_as_its_reference_implementation_does() {
    let temporary = tempfile::tempdir().unwrap();
    every_checkpoint(|folder, expected| {
        let name = name(folder);
        let bundle = temporary.path().join(&name);
        try_done(&import(temporary.path(), folder, &bundle, &[]))?;
        same_ids(&bundle, expected)?;

        let pictures: Vec<(usize, PathBuf)> =
            expected.images.iter().enumerate().filter_map(|(i, n)| Some((i, picture(n)?))).collect();
        let mut embed = vtagd(temporary.path());
        embed.args(["embed", "--json", "-m"]).arg(&bundle);
        for (_, path) in &pictures {
            embed.arg("--image").arg(path);
        }
        for prompt in &expected.prompts {
            embed.arg("--text").arg(prompt);
        }
        let answer = try_done(&embed.output().unwrap())?;
        let mut worst = (1.0_f64, 1.0_f64);
        for ((row, path), image) in pictures.iter().zip(answer["images"].as_array().unwrap()) {
            let cosine = cosine(&floats(&image["embedding"]), &expected.image_embeds[*row]);
            // JPEG decoders differ by a level.
            let goal = if path.extension().is_some_and(|e| e == "jpg") { 0.9995 } else { 0.99999 };
            wanted(cosine >= goal, || format!("{}: cosine {cosine}", path.display()))?;
            worst.0 = worst.0.min(cosine);
        }
        for (text, embedding) in answer["texts"].as_array().unwrap().iter().zip(&expected.text_embeds) {
            let cosine = cosine(&floats(&text["embedding"]), embedding);
            wanted(cosine >= 0.99999, || format!("{}: cosine {cosine}", text["text"]))?;
            worst.1 = worst.1.min(cosine);
        }

        let chelsea = pictures.iter().find(|(_, path)| path.ends_with("chelsea.png")).unwrap();
        let mut tag = vtagd(temporary.path());
        tag.args(["tag", "--json", "-m"]).arg(&bundle).arg(&chelsea.1).args(["-l", &expected.prompts.join(",")]);
        let answer = try_done(&tag.output().unwrap())?;
        for tag in answer["tags"].as_array().unwrap() {
            let column = expected.prompts.iter().position(|p| tag["label"] == p.as_str()).unwrap();
            let (ours, theirs) = (tag["score"].as_f64().unwrap() as f32, expected.probabilities[chelsea.0][column]);
            wanted((ours - theirs).abs() < 1e-3, || format!("{}: {ours} is not {theirs}", tag["label"]))?;
        }
        println!("{name}: worst cosine of pictures {:.7}, of texts {:.7}", worst.0, worst.1);
        // A large set must not fill the disk.
        fs::remove_dir_all(&bundle).map_err(|e| e.to_string())
    });
}

#[test]
fn a_checkpoint_that_cannot_be_served_is_refused_by_the_name_of_what_it_wants() {
    let temporary = tempfile::tempdir().unwrap();
    let mut problems = Vec::new();
    for folder in checkpoints() {
        let Some(word) = refused(&folder) else { continue };
        let output = import(temporary.path(), &folder, &temporary.path().join("bundle"), &["--no-measure"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(2) || !message.contains(&word) {
            problems.push(format!("{}: {:?} without `{word}`: {message}", name(&folder), output.status.code()));
        }
        let _ = fs::remove_dir_all(temporary.path().join("bundle"));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn inspect_tells_what_was_imported_and_a_second_import_does_not_overwrite_it() {
    let temporary = tempfile::tempdir().unwrap();
    let (folder, bundle) =
        (&root().join("tests/conformance/checkpoints/openclip-vit"), temporary.path().join("bundle"));
    let import = || import(temporary.path(), folder, &bundle, &["--no-measure"]);
    done(&import());
    let report = done(&vtagd(temporary.path()).args(["model", "inspect", "--json"]).arg(&bundle).output().unwrap());
    assert_eq!(report["unchanged"], true);
    assert_eq!(report["manifest"]["precision"], "fp32");
    assert!(report["fingerprint"].as_str().unwrap().len() == 64 && report["bytes"].as_u64().unwrap() > 100_000);
    let again = import();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("bundle"));
}

#[test]
fn the_daemon_runs_from_a_raw_checkpoint_folder_and_imports_it_once() {
    let temporary = tempfile::tempdir().unwrap();
    let checkpoint = root().join("tests/conformance/checkpoints/openclip-vit-pickle");
    let config = format!(
        "model: {{ path: {} }}\nstreams: [{{ id: a, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
        checkpoint.display(),
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    for start in 1..=2 {
        let mut daemon = crate::common::daemon::Daemon::start(temporary.path(), &config);
        assert!(daemon.wait().success());
        let log = daemon.log();
        assert!(log.contains("inferred=32"), "{log}");
        assert_eq!(log.contains("importing a raw checkpoint"), start == 1, "{log}");
    }
    let imports = fs::read_dir(temporary.path().join("cache/models")).unwrap().count();
    assert_eq!(imports, 1, "nothing half-made is left beside the import");
}

#[test]
fn lower_precisions_stay_close_to_the_reference_for_every_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let chelsea = picture("chelsea.png").unwrap();
    for (precision, goal) in [("fp16", 0.9999), ("int8", 0.995), ("int4", 0.97)] {
        let mut worst = (1.0_f64, String::new());
        every_checkpoint(|folder, expected| {
            let name = name(folder);
            let bundle = temporary.path().join(format!("{name}-{precision}"));
            try_done(&import(temporary.path(), folder, &bundle, &["--no-measure", "--precision", precision]))?;
            let mut embed = vtagd(temporary.path());
            embed.args(["embed", "--json", "-m"]).arg(&bundle).arg("--image").arg(&chelsea);
            embed.args(["--text", &expected.prompts[0]]);
            let answer = try_done(&embed.output().unwrap())?;
            let row = expected.images.iter().position(|n| n == "chelsea.png").unwrap();
            let image = cosine(&floats(&answer["images"][0]["embedding"]), &expected.image_embeds[row]);
            let text = cosine(&floats(&answer["texts"][0]["embedding"]), &expected.text_embeds[0]);
            wanted(image >= goal && text >= goal, || format!("{precision}: {image} and {text}"))?;
            if image.min(text) < worst.0 {
                worst = (image.min(text), name);
            }
            fs::remove_dir_all(&bundle).map_err(|e| e.to_string())
        });
        println!("{precision}: worst cosine {:.6} ({})", worst.0, worst.1);
    }
}
