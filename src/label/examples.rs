//! Examples and counter-examples of a label, as a set's file names them: pictures, folders of pictures, moments of clips and of the history.
//!
//! In: items of a list, relative to the set's file. Out: [`Example`]s with a digest of what each is made of, so that a file that has changed is
//! another example, or what is wrong with an item, at its line. Reads files to their end, at most [`MAX_FILE`] bytes each, on the caller's thread; nothing
//! is unpacked here. Bounded: [`MOST`] a list.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::platform::hex::hex;
use crate::platform::missing;
use crate::platform::userinfo::shown;
use crate::yaml::field_reader::{At, Field, Reader};

/// Examples, or counter-examples, of one label.
pub const MOST: usize = 32;
/// Largest picture that is read as an example.
const MAX_FILE: u64 = 64 << 20;
/// A clip is told from another by its length and by so many bytes at each end.
const CLIP_END: u64 = 1 << 20;
/// What pictures of a folder are called.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];
/// What a moment of the history begins with.
const HISTORY: &str = "history:";

/// What stands for the marks of a stream, which calibration looks up.
const MARKS: &str = "marks";

const REMEDY: &str = "name a picture, a folder of pictures, a moment of a clip (clip.mp4@12.5) or of the history (history:gate@2026-05-01T12:00:04Z), \
                      or `marks`";

/// What an example is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum ExampleSource {
    Picture(PathBuf),
    /// The frame nearest to so many milliseconds.
    Clip {
        file: PathBuf,
        at_ms: u64,
    },
    /// What the history has of that moment.
    Moment {
        stream: String,
        region: Option<String>,
        at: jiff::Timestamp,
    },
    /// What the model of this fingerprint made of it on a stream, kept by the daemon.
    Stored {
        embedding: Vec<f32>,
        model: String,
        stream: String,
    },
}

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub source: ExampleSource,
    /// SHA-256 in hexadecimal digits: of a file's bytes, with the moment of a clip.
    pub digest: String,
    /// What it is called in messages, with the place where it is written.
    pub name: String,
}

impl Example {
    /// A moment of the history, at a place in no file.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_history(stream: &str, region: Option<&str>, at: jiff::Timestamp) -> Result<Self, String> {
        let place = region.map_or_else(|| stream.to_owned(), |region| format!("{stream}/{region}"));
        let text = format!("{place}@{at}");
        let (source, digest) = moment(&text)?;
        Ok(Self { source, digest, name: format!("{HISTORY}{text}") })
    }

    /// As a file has it; `None`: it is no moment of the history.
    pub fn written(&self) -> Option<String> {
        let ExampleSource::Moment { stream, region, at } = &self.source else { return None };
        let region = region.as_ref().map_or_else(String::new, |region| format!("/{region}"));
        Some(format!("{HISTORY}{stream}{region}@{at}"))
    }
}

/// The examples of a list, each checked; and whether marks are among them.
pub(super) fn read(field: &Field<Vec<At<String>>>, reader: &mut Reader<'_>) -> (Vec<Example>, bool) {
    let Some(list) = field.given() else { return (Vec::new(), false) };
    let (mut out, mut has_marks) = (Vec::new(), false);
    for item in &list.value {
        if item.value.trim() == MARKS {
            has_marks = true;
            continue;
        }
        let place = format!("{}:{}", shown(reader.document().file()), item.place.line);
        let named = |(source, digest): (ExampleSource, String), what: &str| Example {
            source,
            digest,
            name: format!("{place}: {what}"),
        };
        match found(item.value.trim(), &reader.path(item)) {
            Ok(found) => out.extend(found.into_iter().map(|(what, one)| named(one, &what))),
            Err(why) => reader.error(item, why, REMEDY),
        }
    }
    if out.len() > MOST {
        let message = format!("has {} examples: at most {MOST} are taken", out.len());
        reader.error(list, message, "keep those that differ most from one another");
        out.truncate(MOST);
    }
    if list.value.is_empty() {
        reader.error(list, "is empty", format!("{REMEDY}; or remove the key"));
    }
    (out, has_marks)
}

/// What it is, and the digest of that.
type FoundExample = (ExampleSource, String);

/// What `written`, which is at `path` as a file, stands for, each with what it is called.
fn found(written: &str, path: &Path) -> Result<Vec<(String, FoundExample)>, String> {
    if let Some(moment) = written.strip_prefix(HISTORY) {
        return self::moment(moment).map(|one| vec![(written.to_owned(), one)]);
    }
    if path.is_dir() {
        return folder(path);
    }
    if path.is_file() {
        return picture(path).map(|one| vec![(shown(path), one)]);
    }
    let clip = path.to_str().and_then(|text| text.rsplit_once('@')).map(|(file, at)| (PathBuf::from(file), at));
    match clip {
        Some((file, at)) if file.is_file() => {
            let seconds = at.parse::<f64>().ok().filter(|at| (0.0..=604_800.0).contains(at));
            let seconds = seconds.ok_or_else(|| format!("`{at}` is no moment of a clip, in seconds"))?;
            let at_ms = (seconds * 1000.0).round() as u64;
            let digest =
                clip_digest(&file, at_ms).map_err(|error| format!("{} cannot be read: {error}", shown(&file)))?;
            Ok(vec![(format!("{}@{at}", shown(&file)), (ExampleSource::Clip { file, at_ms }, digest))])
        }
        _ => Err(format!("{} {}", shown(path), missing::why(path, "file"))),
    }
}

fn moment(text: &str) -> Result<FoundExample, String> {
    let (place, at) = text.rsplit_once('@').ok_or("a moment of the history is a stream and a time")?;
    let at: jiff::Timestamp = at.parse().map_err(|_| format!("`{at}` is no time, such as 2026-05-01T12:00:04Z"))?;
    let (stream, region) = match place.split_once('/') {
        Some((stream, region)) => (stream, Some(region.to_owned())),
        None => (place, None),
    };
    if stream.is_empty() || region.as_ref().is_some_and(String::is_empty) {
        return Err("a moment of the history names its stream".to_owned());
    }
    let digest = hex(&Sha256::digest(format!("{HISTORY}{place}@{at}").as_bytes()));
    Ok((ExampleSource::Moment { stream: stream.to_owned(), region, at }, digest))
}

/// The pictures of a folder, by their names; what lies in folders below is not looked at.
fn folder(path: &Path) -> Result<Vec<(String, FoundExample)>, String> {
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", shown(path));
    let mut pictures = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let end = file.extension().and_then(|end| end.to_str()).map(str::to_ascii_lowercase);
        if end.is_some_and(|end| PICTURES.contains(&end.as_str())) && file.is_file() {
            pictures.push(file);
        }
        if pictures.len() > MOST {
            return Err(format!("{} has more than {MOST} pictures", shown(path)));
        }
    }
    pictures.sort();
    if pictures.is_empty() {
        return Err(format!("{} has no picture in it", shown(path)));
    }
    pictures.into_iter().map(|file| Ok((shown(&file), picture(&file)?))).collect()
}

fn picture(path: &Path) -> Result<FoundExample, String> {
    let unreadable = |error: io::Error| format!("{} cannot be read: {error}", shown(path));
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(unreadable)?.take(MAX_FILE + 1);
    let read = io::copy(&mut file, &mut hasher).map_err(unreadable)?;
    if read > MAX_FILE {
        return Err(format!("{} is larger than {MAX_FILE} bytes", shown(path)));
    }
    Ok((ExampleSource::Picture(path.to_owned()), hex(&hasher.finalize())))
}

fn clip_digest(path: &Path, at_ms: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    hasher.update(at_ms.to_le_bytes());
    io::copy(&mut (&mut file).take(CLIP_END), &mut hasher)?;
    file.seek(SeekFrom::Start(length.saturating_sub(CLIP_END)))?;
    io::copy(&mut file.take(CLIP_END), &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::set;
    use crate::yaml::Document;

    fn checked(folder: &Path, items: &str) -> Result<Vec<Example>, String> {
        let text = format!(
            "set: s\ncounter_examples: ['history:gate@2026-05-01T11:00:00Z']\nlabels:\n  - name: car\n    examples: {items}\n"
        );
        let document = Document::parse(&folder.join("s.yaml"), text.as_bytes()).unwrap();
        let set = set::check(document).map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>());
        set.map(|parsed| parsed.set.labels[0].examples.clone())
    }

    #[test]
    fn files_folders_moments_of_clips_and_of_the_history_are_read_beside_the_sets_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cars")).unwrap();
        for file in ["a.jpg", "cars/2.PNG", "cars/1.jpg", "cars/notes.txt", "clip.mp4", "odd@1.png"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        let found =
            checked(dir.path(), "[a.jpg, cars, clip.mp4@12.5, odd@1.png, 'history:gate/left@2026-05-01T12:00:04Z']");
        let found = found.unwrap();
        let picture = |name: &str| ExampleSource::Picture(dir.path().join(name));
        let wanted = [
            picture("a.jpg"),
            picture("cars/1.jpg"),
            picture("cars/2.PNG"),
            ExampleSource::Clip { file: dir.path().join("clip.mp4"), at_ms: 12_500 },
            picture("odd@1.png"),
            ExampleSource::Moment {
                stream: "gate".to_owned(),
                region: Some("left".to_owned()),
                at: "2026-05-01T12:00:04Z".parse().unwrap(),
            },
        ];
        assert_eq!(found.iter().map(|one| one.source.clone()).collect::<Vec<_>>(), wanted);
        assert!(found[0].name.contains("s.yaml:5: ") && found[0].name.ends_with("a.jpg"), "{}", found[0].name);
        // Another content is another example, another moment too.
        fs::write(dir.path().join("a.jpg"), "changed").unwrap();
        let again = checked(dir.path(), "[a.jpg, clip.mp4@12.5, clip.mp4@13]").unwrap();
        assert_ne!(again[0].digest, found[0].digest);
        assert_eq!(again[1].digest, found[3].digest);
        assert_ne!(again[2].digest, found[3].digest);
    }

    #[test]
    fn what_is_not_there_or_too_much_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("many")).unwrap();
        fs::create_dir(dir.path().join("none")).unwrap();
        fs::write(dir.path().join("clip.mp4"), "x").unwrap();
        for at in 0..=MOST {
            fs::write(dir.path().join(format!("many/{at}.png")), "x").unwrap();
        }
        for (items, why) in [
            ("[gone.jpg]", "does not exist"),
            ("['gone.mp4@3']", "does not exist"),
            ("['clip.mp4@soon']", "no moment of a clip"),
            ("['clip.mp4@-1']", "no moment of a clip"),
            ("['clip.mp4@NaN']", "no moment of a clip"),
            ("[many]", "more than 32 pictures"),
            ("[none]", "no picture in it"),
            ("[]", "is empty"),
            ("['history:gate']", "a stream and a time"),
            ("['history:gate@noon']", "no time"),
            ("['history:@2026-05-01T12:00:04Z']", "names its stream"),
        ] {
            let told = checked(dir.path(), items).unwrap_err();
            assert!(told.contains(why) && told.contains("s.yaml:5:"), "{items}: {told}");
        }
        let all: Vec<String> = (0..=MOST).map(|at| format!("many/{at}.png")).collect();
        assert!(checked(dir.path(), &format!("[{}]", all.join(", "))).unwrap_err().contains("33 examples"));
        assert_eq!(checked(dir.path(), &format!("[{}]", all[..MOST].join(", "))).unwrap().len(), MOST);
    }
}
