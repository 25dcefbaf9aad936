//! `runtime.providers`: each item a name, or a name with options, checked into what the engine takes.

use super::remote_provider::{self, RemoteKeys};
use super::schema::{CudaOptions, OpenvinoOptions, ProviderItem, TensorrtOptions};
use crate::infer::options::{self, Arena, CpuOptions, OpenvinoPrecision, ProviderChoice};
use crate::infer::{Provider, probe_embedding};
use crate::section;
use crate::words;
use crate::yaml::Document;
use crate::yaml::field_reader::{At, Field, FromNode, Reader};
use crate::yaml::key_reference::Key;
use crate::yaml::values::Bytes;

const MAX_THREADS: usize = 1024;
/// What OpenVINO's provider takes.
const STREAMS: std::ops::RangeInclusive<usize> = 1..=8;
/// More GPUs than a machine has.
const MAX_DEVICE: usize = 63;

/// Checks the list; every provider may be named once.
pub fn list(items: &[At<ProviderItem>], reader: &mut Reader<'_>) -> Vec<ProviderChoice> {
    let mut choices: Vec<ProviderChoice> = Vec::new();
    for item in items {
        let Some(choice) = choice(item, reader) else { continue };
        let provider = choice.provider();
        if provider == Provider::Remote && !choices.is_empty() {
            let message = "stands behind a provider of this machine, and so would never be asked";
            reader.error(item, message, "put it first: what stands behind it computes while the server is away");
        }
        if choices.iter().any(|known| known.provider() == provider) {
            reader.error(item, format!("`{}` is named twice", provider.as_str()), "keep one of them");
        } else {
            choices.push(choice);
        }
    }
    choices
}

/// One provider with `key=value` options of the command line, read as the configuration reads them.
///
/// # Errors
/// What is wrong with them, one line.
pub fn from_pairs(provider: Provider, pairs: &[(String, String)]) -> Result<ProviderChoice, String> {
    let mut text = format!("providers:\n  - {}:\n", provider.as_str());
    for (key, value) in pairs {
        if key.is_empty() || format!("{key}{value}").contains(char::is_control) {
            return Err(format!("`{}` is not an option: write name=value", key.escape_default()));
        }
        text.push_str(&format!("      {key}: {value}\n"));
    }
    let here = std::env::current_dir().unwrap_or_default().join("--provider-option");
    let document = Document::parse(&here, text.as_bytes()).map_err(|problem| problem.message.clone())?;
    let mut reader = Reader::new(&document);
    let choices = match reader.root::<Alone>() {
        Some(root) => list(root.value.providers.given().map_or(&[], |list| &list.value), &mut reader),
        None => Vec::new(),
    };
    if let Some(problem) = reader.problems().first() {
        let option = problem.field.rsplit('.').next().unwrap_or(&problem.field);
        return Err(format!("{option}: {}: {}", problem.message, problem.remedy));
    }
    choices.into_iter().next().ok_or_else(|| "these are not options of a provider".to_owned())
}

section! {
    struct Alone {
        "providers" => providers: Vec<At<ProviderItem>>,
    }
}

fn choice(item: &At<ProviderItem>, reader: &mut Reader<'_>) -> Option<ProviderChoice> {
    Some(match &item.value {
        ProviderItem::Name(provider) => (*provider).into(),
        ProviderItem::Tensorrt(raw) => ProviderChoice::Tensorrt(tensorrt(raw, reader)),
        ProviderItem::Cuda(raw) => ProviderChoice::Cuda(cuda(raw, reader)?),
        ProviderItem::Openvino(raw) => ProviderChoice::Openvino(openvino(raw, reader)?),
        ProviderItem::Cpu(raw) => ProviderChoice::Cpu(CpuOptions { threads: threads(&raw.threads, reader) }),
        ProviderItem::Remote(raw) => remote_provider::choice(item, raw, reader)?,
    })
}

fn tensorrt(raw: &TensorrtOptions, reader: &mut Reader<'_>) -> options::TensorrtOptions {
    let mut folder = |field: &Field<String>| {
        let at = field.given()?;
        if at.value.is_empty() || at.value.contains('\0') {
            reader.error(at, "is not a folder's path", "name a folder that vtagd may write, or remove the key");
        }
        Some(reader.path(at))
    };
    let (engine_cache, timing_cache) = (folder(&raw.engine_cache), folder(&raw.timing_cache));
    options::TensorrtOptions {
        device: device(&raw.device, reader),
        fp16: raw.fp16.value().unwrap_or_default(),
        engine_cache,
        timing_cache,
        workspace: size(&raw.workspace, reader),
        opt_batch: raw.opt_batch.value(),
    }
}

/// A batch that an engine is made fastest for has to be one that it is run with: up to `most` pictures.
pub fn opt_batch(items: &[At<ProviderItem>], most: usize, reader: &mut Reader<'_>) {
    for item in items {
        let ProviderItem::Tensorrt(raw) = &item.value else { continue };
        if let Some(size) = raw.opt_batch.given().filter(|size| !(1..=most).contains(&size.value)) {
            let message = format!("is {}, outside 1 to {most}, the largest batch", size.value);
            reader.error(size, message, "write the batch that is run most, or remove the key: the largest one");
        }
    }
}

fn cuda(raw: &CudaOptions, reader: &mut Reader<'_>) -> Option<options::CudaOptions> {
    if let Some(fp16) = raw.fp16.given().filter(|fp16| fp16.value) {
        let message = "is not CUDA's to choose: it computes in the precision that the model has";
        return reader.refuse(fp16, message, "import the model with `--precision fp16`, or use tensorrt");
    }
    Some(options::CudaOptions {
        device: device(&raw.device, reader),
        memory_limit: size(&raw.memory_limit, reader),
        arena: raw.arena.value().unwrap_or_default(),
    })
}

fn openvino(raw: &OpenvinoOptions, reader: &mut Reader<'_>) -> Option<options::OpenvinoOptions> {
    let mut made = options::OpenvinoOptions {
        precision: raw.precision.value().unwrap_or_default(),
        threads: threads(&raw.threads, reader),
        ..options::OpenvinoOptions::default()
    };
    if let Some(device) = raw.device.given() {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".:,_-".contains(c);
        if device.value.is_empty() || device.value.len() > 64 || !device.value.chars().all(plain) {
            return reader.refuse(device, "is not a device of OpenVINO", "write CPU, GPU, GPU.1 or NPU");
        }
        device.value.clone_into(&mut made.device);
    }
    if let Some(streams) = raw.streams.given() {
        if !STREAMS.contains(&streams.value) {
            reader.error(streams, format!("is {}, outside 1 to 8", streams.value), "1 is a good start");
        }
        made.streams = u8::try_from(streams.value).ok();
    }
    Some(made)
}

fn device(field: &Field<usize>, reader: &mut Reader<'_>) -> u32 {
    field.given().and_then(|at| gpu(at, reader)).unwrap_or_default()
}

/// The number of a GPU.
pub fn gpu(at: &At<usize>, reader: &mut Reader<'_>) -> Option<u32> {
    if at.value > MAX_DEVICE {
        reader.error(at, format!("is above {MAX_DEVICE}"), "the first GPU is 0; `nvidia-smi -L` lists them");
    }
    u32::try_from(at.value).ok()
}

fn size(field: &Field<Bytes>, reader: &mut Reader<'_>) -> Option<u64> {
    let at = field.given()?;
    if at.value.0 == 0 {
        reader.error(at, "is zero", "write a size such as 4GiB, or remove the key for no limit");
    }
    Some(at.value.0)
}

fn threads(field: &Field<usize>, reader: &mut Reader<'_>) -> Option<usize> {
    let at = field.given()?;
    if at.value > MAX_THREADS {
        reader.error(at, format!("is above {MAX_THREADS}"), "write 0 for all cores");
    }
    Some(at.value)
}

/// `runtime.probe.min_cosine`.
pub fn min_cosine(field: &Field<super::schema::Probe>, reader: &mut Reader<'_>) -> f32 {
    let Some(at) = field.given().and_then(|probe| probe.value.min_cosine.given()) else {
        return probe_embedding::MIN_COSINE;
    };
    if at.value.0 < 0.5 {
        reader.warn(at, "lets providers through that compute something else", "0.99 fits every precision");
    }
    at.value.0
}

impl FromNode for ProviderItem {
    fn schema() -> serde_json::Value {
        use crate::yaml::field_reader::property;
        let options = [
            ("tensorrt", "NVIDIA's TensorRT, with options", property::<TensorrtOptions>()),
            ("cuda", "NVIDIA's CUDA, with options", property::<CudaOptions>()),
            ("openvino", "Intel's OpenVINO, with options", property::<OpenvinoOptions>()),
            ("cpu", "The processor, which has no options", property::<super::schema::CpuOptions>()),
            ("remote", "An inference server, which speaks KServe v2", property::<RemoteKeys>()),
        ];
        let described = options.map(|(name, description, mut schema)| {
            schema["description"] = description.into();
            (name.to_owned(), schema)
        });
        let options: serde_json::Map<_, _> = described.into_iter().collect();
        let mut one = crate::yaml::field_reader::object(options);
        one["minProperties"] = 1.into();
        one["maxProperties"] = 1.into();
        serde_json::json!({ "anyOf": [Provider::schema(), one] })
    }

    fn from_node(node: &crate::yaml::Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        use crate::yaml::Value;
        const NAMES: [&str; 5] = ["tensorrt", "cuda", "openvino", "cpu", "remote"];
        if matches!(&node.value, Value::Text(text) if text == "remote") {
            let remedy = "write `- remote: { url: grpc://host:8001, model: NAME }`";
            return reader.refuse_node(node, path, "does not say where the server is", remedy);
        }
        let Value::Map(entries) = &node.value else {
            return Provider::from_node(node, path, reader).map(Self::Name);
        };
        let mut map = reader.map(node, path, &NAMES)?;
        let [entry] = entries.as_slice() else {
            let message = "names several providers in one item, or none";
            let remedy = "write one item each: `- cuda: { device: 0 }`";
            return reader.refuse_node(node, path, message, remedy);
        };
        // Options that are all commented out.
        let empty = matches!(entry.value.value, Value::Null);
        Some(match entry.key.as_str() {
            "tensorrt" if empty => Self::Name(Provider::Tensorrt),
            "cuda" if empty => Self::Name(Provider::Cuda),
            "openvino" if empty => Self::Name(Provider::Openvino),
            "cpu" if empty => Self::Name(Provider::Cpu),
            "tensorrt" => Self::Tensorrt(map.field("tensorrt", reader).into_value()?),
            "cuda" => Self::Cuda(map.field("cuda", reader).into_value()?),
            "openvino" => Self::Openvino(map.field("openvino", reader).into_value()?),
            "cpu" => Self::Cpu(map.field("cpu", reader).into_value()?),
            "remote" => Self::Remote(Box::new(map.field("remote", reader).into_value()?)),
            _ => return None,
        })
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        use crate::yaml::field_reader::join;
        <TensorrtOptions as FromNode>::keys(&join(path, "tensorrt"), out);
        <CudaOptions as FromNode>::keys(&join(path, "cuda"), out);
        <OpenvinoOptions as FromNode>::keys(&join(path, "openvino"), out);
        <super::schema::CpuOptions as FromNode>::keys(&join(path, "cpu"), out);
        <RemoteKeys as FromNode>::keys(&join(path, "remote"), out);
    }
}

words! {
    Arena {
        "same_as_requested" => Self::SameAsRequested,
        "next_power_of_two" => Self::NextPowerOfTwo,
    }
    OpenvinoPrecision {
        "auto" => Self::Auto,
        "bf16" => Self::Bf16,
        "f32" => Self::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_of_the_command_line_are_read_as_those_of_the_file() {
        let choice = from_pairs(Provider::Openvino, &pairs(&[("precision", "bf16"), ("threads", "2")])).unwrap();
        let ProviderChoice::Openvino(options) = choice else { panic!("{choice:?}") };
        assert_eq!((options.precision, options.threads), (OpenvinoPrecision::Bf16, Some(2)));
        assert_eq!(from_pairs(Provider::Cpu, &[]).unwrap(), Provider::Cpu);
        let choice = from_pairs(Provider::Tensorrt, &pairs(&[("workspace", "1GiB"), ("engine_cache", "/e")])).unwrap();
        let ProviderChoice::Tensorrt(options) = choice else { panic!("{choice:?}") };
        assert_eq!(
            (options.workspace, options.engine_cache.as_deref()),
            (Some(1 << 30), Some(std::path::Path::new("/e")))
        );
    }

    #[test]
    fn wrong_options_of_the_command_line_are_told_in_a_line() {
        for (provider, list, told) in [
            (Provider::Openvino, [("precison", "bf16")], "did you mean `precision`"),
            (Provider::Openvino, [("precision", "fp8")], "auto, bf16, f32"),
            (Provider::Cuda, [("fp16", "true")], "--precision fp16"),
            (Provider::Cuda, [("device", "x")], "whole number"),
            (Provider::Cpu, [("threads", "1\n- cuda")], "name=value"),
        ] {
            let message = from_pairs(provider, &pairs(&list)).unwrap_err();
            assert!(message.contains(told) && message.lines().count() == 1, "{message}");
        }
    }

    /// What a list comes to, and what is told of it.
    fn read(text: &str) -> (Vec<ProviderChoice>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "").unwrap();
        std::fs::write(folder.path().join("token"), "hunter2").unwrap();
        let file = folder.path().join("vtagd.yaml");
        let document = Document::parse(&file, format!("providers: {text}\n").as_bytes()).unwrap();
        let mut reader = Reader::new(&document);
        let root = reader.root::<Alone>().unwrap();
        let choices = list(root.value.providers.given().map_or(&[], |list| &list.value), &mut reader);
        let told = reader.problems().iter().map(|p| format!("{} {}; {}", p.field, p.message, p.remedy)).collect();
        (choices, told)
    }

    #[test]
    fn a_server_is_read_with_everything_that_can_be_said_of_it() {
        use crate::infer::remote::{Carrier, TileInput};
        let (choices, told) = read(
            "[ { remote: { url: [ grpcs://gpu-1, \"https://[fd00::1]/triton/\" ], model: vit-h-14, input: f32, timeout: 500ms, \
             max_message: 16MiB, ca: ca.pem, token: { file: token } } }, cpu ]",
        );
        assert!(told.is_empty(), "{told:?}");
        let [ProviderChoice::Remote(remote), ProviderChoice::Cpu(_)] = &choices[..] else { panic!("{choices:?}") };
        let urls: Vec<String> = remote.urls.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["grpcs://gpu-1:8001", "https://[fd00::1]:443/triton"]);
        assert_eq!((remote.urls[1].host.as_str(), remote.urls[1].carrier), ("fd00::1", Carrier::Http));
        assert_eq!((remote.model.as_str(), remote.input, remote.max_message), ("vit-h-14", TileInput::F32, 16 << 20));
        assert_eq!(remote.timeout, std::time::Duration::from_millis(500));
        assert!(remote.trust.ca.is_some() && remote.token.is_some());
        assert!(!format!("{choices:?}").contains("hunter2"), "{choices:?}");
        let (choices, told) = read("[ { remote: { url: grpc://127.0.0.1, model: m } } ]");
        let [ProviderChoice::Remote(remote)] = &choices[..] else { panic!("{choices:?} {told:?}") };
        assert_eq!((remote.input, remote.max_message), (TileInput::U8, 4 << 20));
    }

    #[test]
    fn what_is_wrong_about_a_server_is_told_with_a_remedy() {
        for (text, wanted) in [
            ("[ remote ]", "write `- remote: { url: grpc://host:8001, model: NAME }`"),
            ("[ { remote: { model: m } } ]", "remote.url is missing"),
            ("[ { remote: { url: grpc://h } } ]", "remote.model is missing"),
            ("[ { remote: { url: mqtt://h, model: m } } ]", "has the scheme mqtt://"),
            ("[ { remote: { url: gpu-1, model: m } } ]", "has no scheme"),
            ("[ { remote: { url: grpc://h/path, model: m } } ]", "has more than an address"),
            ("[ { remote: { url: \"grpc://u:secret99@h\", model: m } } ]", "a token goes into `token`"),
            ("[ { remote: { url: grpc://h, model: ../m } } ]", "is not the name of a model"),
            ("[ { remote: { url: grpc://h, model: m, timeout: 2m } } ]", "100ms and 60s"),
            ("[ { remote: { url: grpc://h, model: m, max_message: 1KiB } } ]", "1MiB and 1GiB"),
            ("[ { remote: { url: grpc://h, model: m, ca: ca.pem } } ]", "use grpcs:// or https://"),
            ("[ { remote: { url: grpcs://h, model: m, cert: ca.pem } } ]", "needs both `cert` and `key`"),
            ("[ { remote: { url: grpc://gpu, model: m, token: { file: token } } } ]", "without encryption"),
            ("[ { remote: { url: grpc://h, model: m, token: abc } } ]", "may not stand in this file"),
            ("[ cpu, { remote: { url: grpc://h, model: m } } ]", "put it first"),
            ("[ { remote: { url: [], model: m } } ]", "name 1 to 16 servers"),
        ] {
            let (_, told) = read(text);
            assert!(told.iter().any(|line| line.contains(wanted)), "{text}: {told:?}");
            assert!(!told.concat().contains("secret99"), "{told:?}");
        }
    }
}
