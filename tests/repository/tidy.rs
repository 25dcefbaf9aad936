//! Rules about names and places that no compiler knows: who may know whom, one name a thing, words that have been given up.
//!
//! Reads the sources as text. The table of who may know whom stands in docs/architecture.md, where people read it, and nowhere else;
//! the words that are in force stand in docs/glossary.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that were given up, and what is said instead. None of them may be a type or a constant again.
const RETIRED_TYPES: &[(&str, &str)] = &[
    ("Account", "FrameAccounting"),
    ("Ticket", "FrameGuard"),
    ("Recall", "SharedEmbedding"),
    ("Roster", "ScoreRoutes"),
    ("Listener", "ScoreHandler"),
    ("Lane", "OrderingKey, ScoreRoute"),
    ("Lanes", "KeyedQueue"),
    ("Fleet", "Streams"),
    ("Remains", "StoppedStreams"),
    ("Losses", "DropReport"),
    ("Fault", "SinkError"),
    ("Feed", "DeliverySender, PipelineTap"),
    ("Inbox", "DeliveryReceiver"),
    ("Desk", "DeliveryState"),
    ("Shelf", "RetainedMessages"),
    ("Door", "Access"),
    ("Shown", "AuthResult"),
    ("Ceiling", "OomBatchLimit"),
    ("Split", "SessionThreads"),
    ("InOrder", "ReorderBuffer"),
    ("PlainSession", "SingleInputSession"),
    ("Head", "LogitParameters"),
    ("LeftBehind", "AbandonedPipelines"),
    ("StillError", "StillImageError"),
    ("LOOK", "POLL_INTERVAL"),
    ("PATIENCE", "a …_TIMEOUT"),
    ("GOODBYE", "DRAIN_TIMEOUT"),
    ("LONGEST", "a MAX_…"),
    ("Wish", "Request, Action"),
    ("Wishes", "RequestReceiver"),
    ("Asker", "RequestSender"),
    ("Outlet", "EventRoute"),
    ("Farewell", "EndReport"),
    ("TELL", "LOG_INTERVAL"),
];

/// None of these may be a module again …
const RETIRED_MODULES: &[(&str, &str)] = &[
    ("account", "accounting"),
    ("roster", "score_routes"),
    ("lanes", "keyed_queue"),
    ("fleet", "running_streams"),
    ("losses", "drop_report"),
    ("shelf", "retained"),
    ("door", "access"),
    ("ceiling", "oom_batch_limit"),
    ("split", "session_threads"),
    ("in_order", "reorder_buffer"),
    ("bound", "io_buffers"),
    ("plain", "single_input"),
    ("head", "logit_parameters"),
    ("aside", "run_with_timeout"),
    ("reach", "api_endpoint, connect_diagnosis"),
    ("precedence", "thread_priority"),
    ("shake", "fuzz"),
    ("still", "still_image"),
];

/// … and none of these a function that others see.
const RETIRED_FUNCTIONS: &[(&str, &str)] = &[
    ("disband", "shut_down"),
    ("rewind", "redeliver_unacknowledged"),
    ("charge", "rate_limit"),
    ("aside", "run_with_timeout"),
    ("step_back", "lower_priority"),
    ("shake", "fuzz"),
    ("muster", "poll_streams"),
    ("ride", "push_reused"),
    ("judge", "verdict"),
    ("asks", "is_coded_sampled"),
    ("wants", "is_sampled"),
    ("upkeep", "log_repeats, run_upkeep"),
];

/// What joins two stages, in the order of a frame's way. Each is called in `pipeline/mod.rs` and nowhere else; a test or a command that
/// needs a single stage is no part of the way.
const JOINS: &[&str] = &[
    "slot::slot(",
    "Source::new(",
    "Dispatcher {",
    "pool::start(",
    "session_thread::start(",
    "scoring_thread::run(",
    "emitter.scores(",
    "outbox.send(",
    "runner::start(",
];

/// A library of this repository: a subject of its own.
#[derive(Debug, PartialEq)]
struct Library {
    /// As a `use` has it.
    name: &'static str,
    sources: &'static str,
    /// Subjects that pass modules of it on under their own name.
    passed_on_by: &'static [&'static str],
}

const CHECKPOINT: Library = Library {
    name: "vtagd_checkpoint",
    sources: "crates/checkpoint/src",
    passed_on_by: &["model", "platform", "preprocess"],
};
const PICTURES: Library = Library {
    name: "vtagd_pictures",
    sources: "crates/pictures/src",
    passed_on_by: &["frame", "preprocess", "snapshot"],
};
const LIBRARIES: [Library; 2] = [CHECKPOINT, PICTURES];

/// File names that may stand in every folder.
const COMMON: &[&str] = &["mod.rs", "main.rs", "lib.rs", "tests.rs", "config.rs", "error.rs"];

struct Source {
    /// Below [`Self::place`].
    path: PathBuf,
    /// `src`, or that of a library.
    place: &'static str,
    /// Without tests, comments and texts.
    code: String,
}

impl Source {
    /// The folder of the first level, or the file itself where it lies loose.
    fn subject(&self) -> String {
        if let Some(library) = self.library() {
            return library.name.to_owned();
        }
        let first = self.path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        first.trim_end_matches(".rs").to_owned()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.place, self.path.display())
    }

    fn library(&self) -> Option<&'static Library> {
        LIBRARIES.iter().find(|library| library.sources == self.place)
    }

    /// As others call it in a `use`: a module of a library has a name for each subject that passes it on.
    fn modules(&self) -> Vec<String> {
        let module = self.path.with_extension("").to_string_lossy().replace("/mod", "").replace('/', "::");
        let Some(library) = self.library() else { return vec![module] };
        let above = library.passed_on_by.iter().chain([&library.name]);
        above.map(|above| format!("{above}::{module}")).collect()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// Of the daemon and of the libraries.
fn sources() -> Vec<Source> {
    let is_test = |path: &Path| path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
    let mut sources = Vec::new();
    for place in std::iter::once("src").chain(LIBRARIES.iter().map(|library| library.sources)) {
        let folder = root().join(place);
        let mut files = Vec::new();
        walk(&folder, &mut files);
        files.sort();
        let below = files.iter().map(|path| (path, path.strip_prefix(&folder).unwrap().to_owned()));
        sources.extend(below.filter(|(_, below)| !is_test(below)).map(|(path, below)| {
            let text = fs::read_to_string(path).unwrap();
            // Within a library its own modules are `crate::…`.
            let code = match LIBRARIES.iter().find(|library| library.sources == place) {
                Some(library) => code(&text).replace("crate::", &format!("{}::", library.name)),
                None => code(&text),
            };
            Source { path: below, place, code }
        }));
    }
    sources
}

/// `text` without the tests at its end, without comments and without what stands in quotes.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut before = ' ';
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\\' if quoted => drop(characters.next()),
                '"' if before != '\'' => quoted = !quoted,
                '/' if !quoted && characters.peek() == Some(&'/') => break,
                c if !quoted => out.push(c),
                _ => {}
            }
            before = c;
        }
        out.push('\n');
    }
    out
}

/// The words of `text`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The table of docs/architecture.md: each subject, and those that it may use.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let section = page.split("## Who may know whom").nth(1).expect("docs/architecture.md says who may know whom");
    let section = section.split("\n## ").next().unwrap();
    // What stands in which file is another table.
    let section = section.split("| file |").next().unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.trim_end_matches(" |").split(" | ");
        let subject = cells.next()?.trim_end_matches('`').to_owned();
        let used = cells.next()?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((subject, used))
    };
    section.lines().filter_map(row).collect()
}

/// What stands between commas up to the end of a group whose `{` is behind; groups inside it belong to their item.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut items) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' if depth > 0 => {}
            b',' | b'}' => {
                items.push(&group[begin..at]);
                begin = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    items
}

/// Every `crate::subject` in the code, also inside `crate::{…}`, and the library where it is named.
fn used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let named = LIBRARIES.iter().map(|library| library.name).filter(|name| code.contains(&format!("{name}::")));
    used.extend(named.map(str::to_owned));
    for (_, rest) in code.match_indices("crate::").map(|(at, found)| (at, &code[at + found.len()..])) {
        match rest.strip_prefix('{') {
            Some(group) => {
                used.extend(items(group).into_iter().filter_map(|item| words(item).next()).map(str::to_owned));
            }
            None => used.extend(words(rest).next().map(str::to_owned)),
        }
    }
    used
}

#[test]
fn a_module_knows_only_those_that_the_table_allows() {
    let table = table();
    let mut broken = Vec::new();
    for source in sources() {
        let subject = source.subject();
        if ["lib", "main"].contains(&subject.as_str()) {
            continue;
        }
        let Some(allowed) = table.get(&subject) else {
            broken.push(format!("{}: `{subject}` has no row in the table", source.shown()));
            continue;
        };
        for other in used(&source.code) {
            let is_subject = table.contains_key(&other);
            if is_subject && other != subject && !allowed.contains(&other) {
                broken.push(format!("{}: `{subject}` may not know `{other}`", source.shown()));
            }
        }
    }
    assert!(broken.is_empty(), "docs/architecture.md, \"Who may know whom\", says otherwise:\n{}", broken.join("\n"));
}

#[test]
fn the_table_has_no_circle_and_every_subject_of_the_sources() {
    let table = table();
    let there: BTreeSet<String> =
        sources().iter().map(Source::subject).filter(|subject| !["lib", "main"].contains(&subject.as_str())).collect();
    let told: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(there, told, "folders of src/ on the left, rows of the table on the right");
    // Taking away whoever knows nobody that is left ends with nothing, or with a circle.
    let mut left = table.clone();
    loop {
        let ends: Vec<String> = left
            .iter()
            .filter(|(_, used)| used.iter().all(|other| !left.contains_key(other)))
            .map(|(s, _)| s.clone())
            .collect();
        if ends.is_empty() {
            break;
        }
        ends.iter().for_each(|subject| drop(left.remove(subject)));
    }
    assert!(left.is_empty(), "subjects must not know one another in a circle: {:?}", left.keys());
}

#[test]
fn a_folder_is_a_subject_and_nothing_lies_loose() {
    let entries: Vec<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(entries.len() <= 30, "src/ has {} entries: a reader sees 30 at most", entries.len());
    let loose: Vec<_> = entries
        .iter()
        .filter(|name| name.ends_with(".rs") && !["lib.rs", "main.rs"].contains(&name.as_str()))
        .collect();
    assert!(loose.is_empty(), "no loose file in src/: {loose:?} belong into a folder");
}

#[test]
fn tests_are_linked_into_few_programs() {
    let mut programs = 0;
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        programs +=
            usize::from(path.join("main.rs").exists() || path.extension().is_some_and(|extension| extension == "rs"));
    }
    assert!((2..=12).contains(&programs), "{programs} programs of tests, and each links everything: 12 at most");
}

/// What makes it a library that others can use: it stands on nothing of ours, brings no runtime, no cameras, no server, and its lines of the
/// log are found where vtagd's are.
#[test]
fn the_library_for_checkpoints_stands_alone() {
    let manifest = fs::read_to_string(root().join("crates/checkpoint/Cargo.toml")).unwrap();
    assert!(!manifest.contains("path = \""), "a package has no way to what lies beside it");
    let brings: Vec<&str> = manifest.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    for absent in ["axum", "gstreamer", "metrics", "ort", "rusqlite", "tokio", "vtagd"] {
        assert!(!brings.contains(&absent), "crates/checkpoint is to be used without {absent}");
    }
    let mut lines = 0;
    for source in sources().iter().filter(|source| source.library() == Some(&CHECKPOINT)) {
        let text = fs::read_to_string(root().join(source.place).join(&source.path)).unwrap();
        for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
            for (at, _) in text.match_indices(level).filter(|(at, _)| !text[..*at].ends_with('_')) {
                let told = text[at + level.len()..].trim_start();
                assert!(
                    told.starts_with("target: \"vtagd::"),
                    "{}: VTAGD_LOG=vtagd=debug does not show {level}…)",
                    source.shown()
                );
                lines += 1;
            }
        }
    }
    assert!(lines > 10, "{lines} lines of the log in crates/checkpoint");
}

/// What `cargo package` packs of it: its sources whole, with README and licence, and nothing else. Data of tests is large and lies elsewhere.
#[test]
fn the_library_for_checkpoints_is_packed_with_its_sources_and_nothing_else() {
    let folder = root().join("crates/checkpoint");
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["package", "--list", "--package", "vtagd-checkpoint"]);
    let listed = cargo.args(["--locked", "--offline", "--allow-dirty"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let packed = String::from_utf8(listed.stdout).unwrap();
    // Where git is not asked, cargo does not note the commit.
    let packed: BTreeSet<&str> = packed.lines().filter(|name| *name != ".cargo_vcs_info.json").collect();

    let beside = ["Cargo.lock", "Cargo.toml", "Cargo.toml.orig", "LICENSE", "README.md", "examples/import.rs"];
    let mut wanted: BTreeSet<String> = beside.map(str::to_owned).into();
    let mut sources = Vec::new();
    walk(&folder.join("src"), &mut sources);
    wanted.extend(sources.iter().map(|path| path.strip_prefix(&folder).unwrap().display().to_string()));
    assert_eq!(packed, wanted.iter().map(String::as_str).collect());

    let size = |name: &&&str| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    let largest = packed.iter().max_by_key(size).unwrap();
    assert!(size(&largest) < 64_000, "{largest} is data, not source");
    let read = |file: PathBuf| fs::read(file).unwrap();
    assert_eq!(read(folder.join("LICENSE")), read(root().join("LICENSE")), "one licence");
}

#[test]
fn the_whole_way_of_a_frame_is_joined_in_one_file() {
    let way = PathBuf::from("pipeline/mod.rs");
    let lines = fs::read_to_string(root().join("src").join(&way)).unwrap().lines().count();
    assert!(lines <= 150, "src/pipeline/mod.rs has {lines} lines: it tells the way and holds no logic");
    for join in JOINS {
        // Where it is defined is no call.
        let calls = |source: &&Source| source.code.contains(join) && !source.code.contains(&format!("impl {join}"));
        let sources = sources();
        let found: Vec<&Path> = sources.iter().filter(calls).map(|source| &*source.path).collect();
        // One look at a camera that is no stream yet, by the command line or for the page, goes no way.
        let looks = Path::new("daemon/camera_finder.rs");
        let way_alone = |path: &&Path| **path != *way && **path != *looks && !path.starts_with("cli");
        let elsewhere: Vec<_> = found.iter().filter(|path| way_alone(path)).collect();
        assert!(
            elsewhere.is_empty() && found.contains(&&*way),
            "`{join}…)` belongs into src/pipeline/mod.rs: {found:?}"
        );
    }
}

#[test]
fn a_file_name_stands_once() {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        let name = source.path.file_name().unwrap().to_string_lossy().into_owned();
        if !COMMON.contains(&name.as_str()) && source.subject() != "cli" {
            seen.entry(name).or_default().push(source.shown());
        }
    }
    seen.retain(|_, paths| paths.len() > 1);
    assert!(seen.is_empty(), "two files of one name are told apart by nobody: {seen:#?}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Or a constant.
    Type,
    Module,
    /// That others see.
    Function,
}

/// What `code` defines, by name.
fn defined(code: &str) -> Vec<(Kind, &str)> {
    let mut found = Vec::new();
    for line in code.lines() {
        let public = line.trim_start().starts_with("pub");
        let mut rest = line.trim_start();
        if rest.starts_with("pub(") {
            rest = rest.split_once(") ").map_or("", |(_, rest)| rest);
        }
        rest = rest.strip_prefix("pub ").unwrap_or(rest);
        let mut word = words(rest).skip_while(|word| ["async", "unsafe"].contains(word));
        let (mut keyword, mut name) = (word.next().unwrap_or_default(), word.next().unwrap_or_default());
        if keyword == "const" && name == "fn" {
            (keyword, name) = ("fn", word.next().unwrap_or_default());
        }
        let outermost = !line.starts_with(' ');
        let kind = match keyword {
            "struct" | "enum" | "trait" | "union" => Kind::Type,
            "type" if outermost => Kind::Type,
            "const" | "static" => Kind::Type,
            "mod" => Kind::Module,
            "fn" if public => Kind::Function,
            _ => continue,
        };
        found.push((kind, name));
    }
    found
}

#[test]
fn a_type_that_is_used_outside_its_folder_has_a_name_of_its_own() {
    let sources = sources();
    let mut places: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in &sources {
        for (_, name) in defined(&source.code).into_iter().filter(|(kind, _)| *kind == Kind::Type) {
            if name.contains(|c: char| c.is_lowercase()) {
                places.entry(name).or_default().push(source);
            }
        }
    }
    let mut doubled = Vec::new();
    for (name, homes) in places.iter().filter(|(_, homes)| homes.len() > 1) {
        // Used from outside: some file elsewhere imports the name by a path that leads to this home.
        let outside = |home: &Source| {
            let modules = home.modules();
            let elsewhere = |other: &&Source| (other.place, other.folder()) != (home.place, home.folder());
            let mut others = sources.iter().filter(elsewhere);
            others.any(|other| modules.iter().any(|module| imports(&other.code, module, name)))
        };
        let outside: Vec<_> = homes.iter().filter(|home| outside(home)).map(|home| home.shown()).collect();
        if outside.len() > 1 {
            doubled.push(format!("{name}: {}", outside.join(", ")));
        }
    }
    assert!(doubled.is_empty(), "one name a thing; these types share theirs:\n{}", doubled.join("\n"));
}

/// Whether `code` has a `use` of `name` out of `module`, or out of a folder above it that passes it on.
fn imports(code: &str, module: &str, name: &str) -> bool {
    let libraries = LIBRARIES.iter().flat_map(|library| {
        let used = format!("use {}::", library.name);
        code.split(&used).skip(1).map(|rest| format!("{}::{rest}", library.name)).collect::<Vec<_>>()
    });
    code.split("use crate::").skip(1).map(str::to_owned).chain(libraries).any(|rest| {
        let path = rest.split(';').next().unwrap_or_default();
        let named = words(path).any(|word| word == name);
        let folder = path.split(['{', ';']).next().unwrap_or_default();
        let folder = folder.trim_end_matches("::").trim();
        let folder = folder.strip_suffix(name).map_or(folder, |folder| folder.trim_end_matches("::"));
        named && !folder.is_empty() && (module == folder || module.starts_with(&format!("{folder}::")))
    })
}

#[test]
fn a_word_that_was_given_up_does_not_come_back() {
    let mut back = Vec::new();
    for source in sources() {
        for (kind, name) in defined(&source.code) {
            let retired = match kind {
                Kind::Type => RETIRED_TYPES,
                Kind::Module => RETIRED_MODULES,
                Kind::Function => RETIRED_FUNCTIONS,
            };
            if let Some((_, instead)) = retired.iter().find(|(old, _)| *old == name) {
                back.push(format!("{}: `{name}` was given up; say {instead} (docs/glossary.md)", source.shown()));
            }
        }
    }
    assert!(back.is_empty(), "{}", back.join("\n"));
}

#[test]
fn the_glossary_is_short_and_has_none_of_the_words_that_were_given_up() {
    let page = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| **")?.split("**").next()).collect();
    assert!((20..=45).contains(&rows.len()), "{} words: a page that people read has 45 at most", rows.len());
    let distinct: BTreeSet<_> = rows.iter().collect();
    assert_eq!(distinct.len(), rows.len(), "a word stands once");
    let retired = || RETIRED_TYPES.iter().chain(RETIRED_MODULES).chain(RETIRED_FUNCTIONS);
    let back: Vec<_> = rows.iter().filter(|word| retired().any(|(old, _)| old == *word)).collect();
    assert!(back.is_empty(), "{back:?}");
}

#[test]
fn the_rules_see_what_breaks_them() {
    assert_eq!(
        used("use crate::infer::Provider;\nlet x = crate::{yaml::Value, score};"),
        ["infer", "score", "yaml"].map(str::to_owned).into()
    );
    assert_eq!(
        used("use crate::{label::{Label, LabelSet}, infer::{Provider}};"),
        ["infer", "label"].map(str::to_owned).into()
    );
    assert_eq!(used("use vtagd_checkpoint::Bundle;"), [CHECKPOINT.name.to_owned()].into());
    assert_eq!(code("let a = \"crate::x\"; // crate::y\nb\n#[cfg(test)]\nmod tests {}").trim(), "let a = ; \nb");
    let all = "pub(super) struct A;
mod b;
pub fn c() {}
fn d() {}
    pub const fn e() {}
const F: u8 = 1;";
    let (ty, module, function) = (Kind::Type, Kind::Module, Kind::Function);
    assert_eq!(defined(all), [(ty, "A"), (module, "b"), (function, "c"), (function, "e"), (ty, "F")]);
    assert!(imports("use crate::api::{Board, RECENT};", "api::board", "Board"));
    assert!(imports("use crate::api::board::Board;", "api::board", "Board"));
    assert!(imports("use vtagd_checkpoint::{Bundle, hub};", "vtagd_checkpoint::bundle", "Bundle"));
    assert!(!imports("use crate::apis::Board;", "api::board", "Board"));
}
