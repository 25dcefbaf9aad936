//! The small files of a model folder, as they really lie there. In: a file's bytes; out: text or JSON, or what the bytes are instead and
//! what to do. Pure but for [`explained`], which reads a file again to name a line; any thread.
//!
//! Editors put a byte order mark in front, Windows writes UTF-16, Python writes `NaN` and `Infinity`, and `git clone` without Git LFS
//! leaves a pointer of three lines in place of the file. The first two are read. A number that is none becomes a text of the same
//! letters: nobody minds where nobody reads it, and whoever wants a number there refuses it by its name.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

/// What a file is that [`is_lfs_pointer`], and what to do.
pub const LFS_POINTER: &str = "is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder it was cloned into, or download it again";

/// How pointers begin, today and in the first versions.
const POINTERS: [&[u8]; 2] = [b"version https://git-lfs.github.com/", b"version https://hawser.github.com/"];
/// What Python writes for numbers that are none.
const NON_FINITE: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
/// Longest file that is read again for the line of a message.
const MAX_EXPLAINED: u64 = 16 << 20;

/// Whether a file that begins so only stands for another one.
pub fn is_lfs_pointer(head: &[u8]) -> bool {
    // An editor that saved one put a byte order mark in front.
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    POINTERS.iter().any(|start| head.starts_with(start))
}

/// Whether `file` is a Git LFS pointer. One that cannot be read is none.
pub fn is_lfs_pointer_file(file: &Path) -> bool {
    let mut head = Vec::new();
    // A pipe or a device would wait for ever.
    file.is_file()
        && File::open(file).and_then(|file| file.take(64).read_to_end(&mut head)).is_ok()
        && is_lfs_pointer(&head)
}

/// The text in `bytes`, without a byte order mark.
///
/// # Errors
/// A Git LFS pointer, or no text; as a clause that follows the file's name.
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    if is_lfs_pointer(bytes) {
        return Err(LFS_POINTER.into());
    }
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().map(|pair| unit(*pair)).collect::<Vec<_>>()).ok();
        text.filter(|_| rest.is_empty()).map(Cow::Owned)
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).ok().map(Cow::Borrowed),
    };
    text.ok_or_else(|| "is not text: save it as UTF-8, or fetch it again".into())
}

/// The JSON in `bytes`. `NaN`, `Infinity` and `-Infinity` are texts.
///
/// # Errors
/// As [`text`]; no JSON, or JSON of another kind than `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = text(bytes)?;
    let (json, lines) = quoted(&text);
    serde_json::from_str(&json).map_err(|error| {
        let remedy = if lines.iter().any(|line| *line == error.line()) { REMEDY } else { "" };
        format!("is not the JSON that is expected here: {error}{remedy}")
    })
}

const REMEDY: &str = ", which is no number: write one there, or remove the key";

/// `message`, and the lines of `file` that hold no number where one was wanted, if that is what it is about.
pub fn explained(file: &Path, message: String) -> String {
    if !NON_FINITE.iter().any(|word| message.contains(word)) {
        return message;
    }
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(MAX_EXPLAINED).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let lines = text(&bytes).map(|text| quoted(&text).1).unwrap_or_default();
    match lines.as_slice() {
        [] => message,
        [line] => format!("{message} (line {line}){REMEDY}"),
        several => {
            let lines: Vec<String> = several.iter().take(5).map(ToString::to_string).collect();
            format!("{message} (lines {}){REMEDY}", lines.join(", "))
        }
    }
}

/// `text` with [`NON_FINITE`] in quotes where they stand as values, and the lines where they do.
fn quoted(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    if !NON_FINITE.iter().any(|word| text.contains(word)) {
        return (Cow::Borrowed(text), Vec::new());
    }
    let (mut out, mut lines) = (String::with_capacity(text.len() + 16), Vec::new());
    let (mut rest, mut line, mut within) = (text, 1, false);
    while let Some(c) = rest.chars().next() {
        let word = if within { None } else { NON_FINITE.iter().find(|word| rest.starts_with(**word)) };
        let mut length = c.len_utf8();
        match (word, c) {
            (Some(word), _) => {
                length = word.len();
                lines.push(line);
                out.push('"');
                out.push_str(word);
                out.push('"');
            }
            // Whatever is escaped ends no text.
            (None, '\\') if within => {
                length += rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..length]);
            }
            (None, c) => {
                within ^= c == '"';
                line += usize::from(c == '\n');
                out.push(c);
            }
        }
        rest = &rest[length..];
    }
    lines.dedup();
    (Cow::Owned(out), lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn byte_order_marks_and_utf_16_are_read() {
        let wide = |mark: &[u8], unit: fn(u16) -> [u8; 2]| {
            [mark, "{\"a\": 1}".encode_utf16().flat_map(unit).collect::<Vec<_>>().as_slice()].concat()
        };
        for bytes in [
            b"\xef\xbb\xbf{\"a\": 1}".to_vec(),
            wide(&[0xff, 0xfe], u16::to_le_bytes),
            wide(&[0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(parse::<Value>(&bytes).unwrap(), json!({"a": 1}), "{bytes:?}");
        }
        assert!(parse::<Value>(b"\xff\xfea").unwrap_err().contains("UTF-8"));
        assert!(parse::<Value>(b"{\"a\": \"\xc3\"}").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn numbers_that_are_none_are_read_and_named_where_they_matter() {
        let text = b"{\"a\": NaN,\n \"b\": [Infinity, -Infinity],\n \"c\": \"NaN \\\" Infinity\"}";
        assert_eq!(
            parse::<Value>(text).unwrap(),
            json!({"a": "NaN", "b": ["Infinity", "-Infinity"], "c": "NaN \" Infinity"})
        );
        #[derive(Debug, serde::Deserialize)]
        struct Scale {
            #[allow(dead_code)]
            scale: f32,
        }
        let error = parse::<Scale>(b"{\n\"x\": NaN,\n\"scale\": NaN}").unwrap_err();
        assert!(error.contains("line 3") && error.contains("write one there"), "{error}");
        let error = parse::<Scale>(b"{\n\"x\": NaN,\n\"scale\": true}").unwrap_err();
        assert!(error.contains("line 3") && !error.contains("write one there"), "{error}");
    }

    #[test]
    fn a_git_lfs_pointer_is_called_one() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n";
        for edited in [pointer.to_vec(), [b"\xef\xbb\xbf", &pointer[..]].concat(), [b"\r\n", &pointer[..]].concat()] {
            assert!(parse::<Value>(&edited).unwrap_err().contains("git lfs pull"));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), pointer).unwrap();
        assert!(is_lfs_pointer_file(&dir.path().join("f")));
        assert!(!is_lfs_pointer_file(dir.path()) && !is_lfs_pointer_file(&dir.path().join("gone")));
    }

    proptest! {
        #[test]
        fn json_stays_what_it_was(text in "[\\PC\"\\\\{}:,a0\n]{0,60}") {
            let plain = serde_json::from_str::<Value>(&text);
            if let Ok(plain) = plain {
                prop_assert_eq!(parse::<Value>(text.as_bytes()).unwrap(), plain);
            }
            let _ = parse::<Value>(format!("NaN{text}Infinity").as_bytes());
        }
    }
}
