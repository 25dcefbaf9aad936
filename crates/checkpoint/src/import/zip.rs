//! The zip archives that PyTorch writes. In: a file's bytes; out: where each record lies. Records are stored, never
//! compressed, so a tensor is read straight from its place. Only the directory is read here, by `rawzip` and a record at a time, at most
//! [`MAX_DIRECTORY`] bytes; archives beyond 4 GB (zip64) are understood (APPNOTE.TXT 6.3.10, sections 4.3 and 4.5).

use std::collections::HashMap;
use std::io;

use rawzip::{CompressionMethod, ErrorKind, ReaderAt, ZipLocator};

use super::bytes::{Bytes, shown};

/// Longest directory that is read: a quarter of a million records.
const MAX_DIRECTORY: u64 = 32 << 20;

/// Bytes summed up at a time.
const PIECE: usize = 1 << 20;

/// The end record and the longest comment that can follow it.
const MAX_TAIL: u64 = 22 + 65_535;

/// Where a record's contents lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at: u64,
    pub(super) len: u64,
    /// CRC-32 of the contents; 0 where PyTorch was told not to compute it (`torch.serialization.set_crc32_options`).
    pub(super) crc: u32,
}

/// Bytes as `rawzip` reads them.
struct Archive<'a>(&'a dyn Bytes);

impl ReaderAt for Archive<'_> {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.0.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        self.0.read_at(at, &mut buffer[..count]).map(|()| count)
    }
}

/// Reads the directory.
///
/// # Errors
/// What is wrong with the archive, as a clause that follows its name.
pub(super) fn read(bytes: &dyn Bytes) -> Result<HashMap<String, Record>, String> {
    let mut buffer = vec![0; rawzip::MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let locator = ZipLocator::new().max_search_space(MAX_TAIL);
    let archive =
        locator.locate_in_reader(Archive(bytes), &mut buffer, bytes.len()).map_err(|(_, error)| told(&error))?;
    let len = archive.eocd_offset().saturating_sub(archive.directory_offset());
    if len > MAX_DIRECTORY {
        return Err(format!("has a zip directory of {len} bytes, which no checkpoint needs"));
    }
    let mut records = HashMap::new();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|error| told(&error))? {
        let name = String::from_utf8(entry.file_path().as_bytes().to_vec()).map_err(|_| damaged())?;
        let is_stored = entry.compression_method() == CompressionMethod::STORE;
        if !is_stored || entry.compressed_size_hint() != entry.uncompressed_size_hint() || entry.flags().is_encrypted()
        {
            return Err(format!("has a compressed or encrypted record `{}`, which PyTorch never writes", shown(&name)));
        }
        // The local header repeats the name and has padding of its own.
        let place = archive.get_entry(entry.wayfinder()).map_err(|error| told(&error))?;
        let (at, end) = place.compressed_data_range();
        if end > bytes.len() {
            return Err(format!("places the record `{}` beyond its end: it is cut or damaged", shown(&name)));
        }
        if records.insert(name.clone(), Record { at, len: end - at, crc: entry.crc32() }).is_some() {
            return Err(format!("names the record `{}` twice", shown(&name)));
        }
    }
    if records.len() as u64 == archive.entries_hint() { Ok(records) } else { Err(damaged()) }
}

fn damaged() -> String {
    "has a damaged zip directory".to_owned()
}

/// What `rawzip` found, in our words.
fn told(error: &rawzip::Error) -> String {
    match error.kind() {
        ErrorKind::MissingEndOfCentralDirectory | ErrorKind::Eof => {
            "is cut short: its zip directory is missing; fetch it again".to_owned()
        }
        ErrorKind::IO(error) => format!("has a zip directory that cannot be read: {error}; fetch it again"),
        _ => damaged(),
    }
}

/// Reads every record and compares it with its checksum. `advance` is called between pieces and may end it by an error.
///
/// # Errors
/// What is wrong with the archive, as a clause that follows its name; what `advance` gives.
pub(super) fn verify<E: From<String>>(bytes: &dyn Bytes, mut advance: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let mut records: Vec<_> = read(bytes)?.into_iter().filter(|(_, record)| record.crc != 0).collect();
    records.sort_by_key(|(_, record)| record.at);
    let mut buffer = vec![0; PIECE];
    for (name, record) in records {
        let (mut at, end) = (record.at, record.at + record.len);
        let mut sum = crc32fast::Hasher::new();
        while at < end {
            let piece = &mut buffer[..(end - at).min(PIECE as u64) as usize];
            bytes.read_at(at, piece).map_err(|e| format!("cannot be read: {e}"))?;
            sum.update(piece);
            at += piece.len() as u64;
            advance()?;
        }
        if sum.finalize() != record.crc {
            let name = shown(&name);
            return Err(
                format!("is damaged: its record `{name}` has another checksum than was saved; fetch it again").into()
            );
        }
    }
    Ok(())
}

/// Archives for tests, as PyTorch lays them out.
#[cfg(test)]
pub(super) mod made {
    /// An archive of stored records; with `zip64`, every number that can be wide is.
    pub(in super::super) fn archive(records: &[(&str, &[u8])], zip64: bool) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, body) in records {
            let header = file.len();
            let narrow = if zip64 { u32::MAX } else { body.len() as u32 };
            let lens = [narrow.to_le_bytes(), narrow.to_le_bytes()].concat();
            let name_len = (name.len() as u16).to_le_bytes();
            file.extend(b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
            file.extend(&lens);
            file.extend(name_len);
            file.extend([3, 0]);
            file.extend(name.as_bytes());
            file.extend(b"PAD");
            file.extend(*body);
            let mut extra = vec![b'F', b'B', 1, 0, 7];
            if zip64 {
                extra.extend([1, 0, 24, 0]);
                for number in [body.len(), body.len(), header] {
                    extra.extend((number as u64).to_le_bytes());
                }
            }
            directory.extend(b"PK\x01\x02\x00\x00\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
            directory.extend(&lens);
            directory.extend(name_len);
            directory.extend((extra.len() as u16).to_le_bytes());
            directory.extend([0; 10]);
            directory.extend(if zip64 { u32::MAX } else { header as u32 }.to_le_bytes());
            directory.extend(name.as_bytes());
            directory.extend(&extra);
        }
        let (at, len, count) = (file.len() as u64, directory.len() as u64, records.len() as u64);
        file.extend(&directory);
        if zip64 {
            let end = file.len() as u64;
            file.extend(b"PK\x06\x06");
            // As long as what follows.
            file.extend(44_u64.to_le_bytes());
            file.extend([0; 12]);
            for number in [count, count, len, at] {
                file.extend(number.to_le_bytes());
            }
            file.extend(b"PK\x06\x07\x00\x00\x00\x00");
            file.extend(end.to_le_bytes());
            file.extend([1, 0, 0, 0]);
        }
        file.extend(b"PK\x05\x06\x00\x00\x00\x00");
        let count = if zip64 { u16::MAX } else { count as u16 };
        file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        file.extend(if zip64 { u32::MAX } else { len as u32 }.to_le_bytes());
        file.extend(if zip64 { u32::MAX } else { at as u32 }.to_le_bytes());
        file.extend([0, 0]);
        file
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_found_with_and_without_zip64() {
        for zip64 in [false, true] {
            let file = made::archive(&[("a/data.pkl", b"pickle"), ("a/data/0", b""), ("a/data/1", b"1234")], zip64);
            let records = read(&file).unwrap();
            assert_eq!(records.len(), 3);
            let Record { at, len, .. } = records["a/data/1"];
            assert_eq!(&file[at as usize..(at + len) as usize], b"1234");
        }
    }

    #[test]
    fn a_changed_byte_is_found_by_its_records_checksum() {
        let mut file = made::archive(&[("a/data.pkl", b"pickle"), ("a/data/0", b"12345678")], false);
        let check = |file: &Vec<u8>| verify::<String>(file, || Ok(()));
        // The archives of the tests have no checksums, as PyTorch's have none on demand.
        check(&file).unwrap();
        let (header, at) = {
            let place = file.windows(8).rposition(|w| w == b"a/data/0").unwrap();
            (place - 46, read(&file).unwrap()["a/data/0"].at as usize)
        };
        file[header + 16..header + 20].copy_from_slice(&crc32fast::hash(b"12345678").to_le_bytes());
        check(&file).unwrap();
        file[at + 3] ^= 1;
        assert!(check(&file).unwrap_err().contains("a/data/0"));
    }

    #[test]
    fn a_compressed_record_and_a_record_beyond_the_end_are_refused() {
        let good = made::archive(&[("a", b"12345678")], false);
        let at = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        let mut packed = good.clone();
        packed[at + 10] = 8;
        assert!(read(&packed).unwrap_err().contains("compressed"));
        let mut long = good.clone();
        (long[at + 20], long[at + 24]) = (0xf0, 0xf0);
        assert!(read(&long).unwrap_err().contains("beyond its end"));
        let twice = made::archive(&[("a", b"1"), ("a", b"2")], false);
        assert!(read(&twice).unwrap_err().contains("twice"));
    }

    proptest! {
        #[test]
        fn a_cut_or_changed_archive_never_panics(cut in 0_usize..600, place in 0_usize..600, value: u8, zip64: bool) {
            let mut file = made::archive(&[("a/data.pkl", b"pickle"), ("a/data/0", b"12345678")], zip64);
            let whole = file.clone();
            if place < file.len() {
                file[place] = value;
            }
            let _ = read(&file);
            let mut short = whole;
            if cut < short.len() {
                short.truncate(cut);
                prop_assert!(read(&short).is_err());
            }
        }
    }
}
