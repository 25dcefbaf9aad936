//! Safetensors headers (format: 8 bytes of length, that much JSON, then the elements, all little-endian). In: a file's bytes;
//! out: where each tensor lies. Only the header is read here, at most [`MAX_HEADER`] bytes of it.
//!
//! The published reader's rules hold: the tensors' places must fill the rest of the file without gaps or overlaps, and each
//! must be as long as its type and shape say. A header that names a tensor twice is refused, so that every reader sees the
//! same one.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::bytes::{Bytes, piece, shown};
use super::raw::{Element, RawTensor};

/// Longest header that is read. ViT-bigG's has 200 KB.
const MAX_HEADER: u64 = 16 << 20;

/// Where one tensor lies, as the header says.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// All entries of a header, and whether one came twice.
#[derive(Default)]
struct Header {
    entries: BTreeMap<String, Entry>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value()?;
                    if header.entries.insert(name.clone(), entry).is_some() {
                        header.twice = Some(name);
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Reads the header of part number `part`.
///
/// # Errors
/// What is wrong with the file, as a clause that follows its name.
pub(super) fn read(bytes: &dyn Bytes, part: usize) -> Result<BTreeMap<String, RawTensor>, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    let cut = "is cut short: it is smaller than its own header; fetch it again";
    if bytes.len() < 8 {
        return Err(cut.into());
    }
    let mut length = [0; 8];
    bytes.read_at(0, &mut length).map_err(unreadable)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(format!(
            "says its header has {length} bytes, which no checkpoint needs: it is no safetensors file"
        ));
    }
    if length > bytes.len() - 8 {
        return Err(cut.into());
    }
    let text = piece(bytes, 8, length as usize).map_err(unreadable)?;
    let header: Header = serde_json::from_slice(&text).map_err(|e| format!("has a damaged header: {e}"))?;
    if let Some(name) = header.twice {
        return Err(format!("names the tensor `{}` twice", shown(&name)));
    }
    let start = 8 + length;
    check_places(&header.entries, bytes.len() - start)?;
    header.entries.into_iter().map(|(name, entry)| Ok((name, tensor(entry, part, start)))).collect()
}

/// That the places lie side by side and fill `room` bytes, and that each fits its type and shape.
fn check_places(entries: &BTreeMap<String, Entry>, room: u64) -> Result<(), String> {
    let mut places: Vec<_> = entries.iter().map(|(name, entry)| (entry.data_offsets, name, entry)).collect();
    places.sort_by_key(|(place, ..)| *place);
    let mut end = 0;
    for ((from, to), name, entry) in places {
        let refused = |why: String| Err(format!("places the tensor `{}` at bytes {from} to {to}, {why}", shown(name)));
        if to < from || to > room {
            return refused(format!("but there are {room} bytes: the file is cut or damaged"));
        }
        if from != end {
            let kind = if from < end { "overlaps the one before it" } else { "leaves a gap before it" };
            return refused(format!("which {kind}"));
        }
        let size = element(&entry.dtype).size();
        let wanted = entry.shape.iter().try_fold(size, |n, dim| n.checked_mul(*dim as u64));
        if size > 0 && wanted != Some(to - from) {
            return refused(format!("which is not the length of {} {:?}", shown(&entry.dtype), entry.shape));
        }
        end = to;
    }
    if end != room {
        return Err(format!("has {} bytes that belong to no tensor: it is damaged or another format", room - end));
    }
    Ok(())
}

fn tensor(entry: Entry, part: usize, start: u64) -> RawTensor {
    let element = element(&entry.dtype);
    let (from, to) = entry.data_offsets;
    RawTensor {
        part,
        element,
        shape: entry.shape,
        // Both are below the file's length.
        at: start + from,
        storage: (to - from).checked_div(element.size()).unwrap_or(0),
        offset: 0,
        strides: None,
    }
}

fn element(dtype: &str) -> Element {
    match dtype {
        "F64" => Element::F64,
        "F32" => Element::F32,
        "F16" => Element::F16,
        "BF16" => Element::Bf16,
        "I64" => Element::I64,
        "I32" => Element::I32,
        "I16" => Element::I16,
        "I8" | "U8" | "BOOL" => Element::Byte,
        _ => Element::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn refusal(file: Vec<u8>) -> String {
        read(&file, 0).unwrap_err()
    }

    #[test]
    fn a_header_says_where_its_tensors_lie() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   "#;
        let tensors = read(&file(header, 12), 3).unwrap();
        let b = &tensors["b"];
        assert_eq!((b.part, b.element, b.at, b.storage), (3, Element::F16, 8 + header.len() as u64 + 4, 4));
        assert_eq!((&tensors["a"].shape, tensors.len()), (&vec![], 2));
    }

    #[test]
    fn hostile_headers_are_refused_with_the_reason() {
        let one = |offsets: &str| format!(r#"{{"t":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
            )
        };
        let shape = |shape: &str| format!(r#"{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#);
        for (header, data, reason) in [
            (one("[0,16]"), 8, "cut or damaged"),
            (one("[8,0]"), 8, "cut or damaged"),
            (one("[18446744073709551608,18446744073709551615]"), 8, "cut or damaged"),
            (one("[0,4]"), 4, "not the length"),
            (one("[0,8]"), 12, "belong to no tensor"),
            (one("[4,12]"), 12, "gap"),
            (one("[-1,8]"), 8, "damaged header"),
            (one("[0,8,9]"), 8, "damaged header"),
            (two("[0,8]", "[4,12]"), 12, "overlaps"),
            (two("[0,8]", "[0,8]"), 8, "overlaps"),
            (shape("[4294967296,4294967296]"), 8, "not the length"),
            (shape("[18446744073709551616]"), 8, "damaged header"),
            (one("[0,8]").replace("},", "") + "}", 8, "damaged header"),
            ("[]".into(), 0, "damaged header"),
            (String::new(), 0, "damaged header"),
            ("[".repeat(100_000), 0, "damaged header"),
            (two("[0,8]", "[8,16]").replace("\"b\"", "\"a\""), 16, "twice"),
        ] {
            let message = refusal(file(&header, data));
            assert!(message.contains(reason), "{header}: {message}");
        }
        assert!(refusal(vec![1, 2]).contains("cut short"));
        assert!(refusal(u64::MAX.to_le_bytes().to_vec()).contains("no safetensors"));
        assert!(refusal((9_u64 << 20).to_le_bytes().to_vec()).contains("cut short"));
    }

    proptest! {
        #[test]
        fn every_cut_of_a_good_file_is_refused(keep in 0_usize..90) {
            let header = r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
            let mut whole = file(header, 8);
            prop_assert!(read(&whole, 0).is_ok());
            prop_assume!(keep < whole.len());
            whole.truncate(keep);
            prop_assert!(read(&whole, 0).is_err());
        }
    }
}
