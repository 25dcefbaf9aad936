//! Kinds of pictures that are known by their first bytes and not read, and what is often found in the place of one, so that they are called by name and
//! not taken for videos. Pure.

/// Bytes that are enough to tell.
pub const HEAD: usize = 64;

/// What a file that begins with `head` is, if it is known and not read; with its article.
pub fn unread(head: &[u8]) -> Option<&'static str> {
    const JPEG_2000: &[u8] = b"\0\0\0\x0cjP  \r\n\x87\n";
    const JPEG_XL: &[u8] = b"\0\0\0\x0cJXL \r\n\x87\n";
    const STARTS: [(&[u8], &str); 11] = [
        (JPEG_2000, "a JPEG 2000 picture"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (JPEG_XL, "a JPEG XL picture"),
        (b"\xff\x0a", "a JPEG XL picture"),
        (b"8BPS", "a Photoshop picture"),
        (b"\0\0\x01\0", "an ICO picture"),
        (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
        (b"#?RADIANCE", "a Radiance picture"),
        (b"DDS ", "a DDS picture"),
        (b"qoif", "a QOI picture"),
        (b"%PDF-", "a PDF document"),
    ];
    let start = STARTS.iter().find(|(start, _)| head.starts_with(start)).map(|(_, kind)| *kind);
    start.or_else(|| container(head)).or_else(|| markup(head)).or_else(|| netpbm(head))
}

/// The containers of ISO/IEC 14496-12, of which videos are too: their brands tell (23008-12, AV1 Image File Format).
fn container(head: &[u8]) -> Option<&'static str> {
    let (size, rest) = head.split_first_chunk::<4>()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    let end = (u32::from_be_bytes(*size) as usize).saturating_sub(8).min(brands.len());
    let (brands, _) = brands[..end].as_chunks::<4>();
    // The second one is a version.
    let has = |names: &[&[u8; 4]]| brands.iter().enumerate().any(|(at, brand)| at != 1 && names.contains(&brand));
    let first = |names: &[&[u8; 4]]| brands.first().is_some_and(|brand| names.contains(&brand));
    if has(&[b"avif", b"avis"]) {
        Some("an AVIF picture")
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"]) {
        Some("a HEIC picture")
    } else if first(&[b"mif1", b"msf1", b"mif2"]) {
        Some("a HEIF picture")
    } else if first(&[b"crx "]) {
        Some("a raw Canon picture")
    } else {
        None
    }
}

fn markup(head: &[u8]) -> Option<&'static str> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().to_ascii_lowercase();
    let begins = |start: &[u8]| text.starts_with(start);
    if begins(b"<svg") || begins(b"<?xml") && memchr::memmem::find(&text, b"<svg").is_some() {
        Some("an SVG picture")
    } else if begins(b"<!doctype html") || begins(b"<html") {
        // What a login page leaves where a picture was to be.
        Some("an HTML page")
    } else {
        None
    }
}

fn netpbm(head: &[u8]) -> Option<&'static str> {
    matches!(head, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..]).then_some("a Netpbm picture")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A box of brands, as such files begin.
    fn brands(names: &[&[u8; 4]]) -> Vec<u8> {
        let size = 8 + 4 * names.len() as u32;
        let names: Vec<u8> = names.iter().copied().flatten().copied().collect();
        [&size.to_be_bytes()[..], b"ftyp", &names, b"\0\0\0\x08free"].concat()
    }

    #[test]
    fn pictures_are_told_from_videos_by_their_brands() {
        for (names, kind) in [
            (&[b"avif", b"\0\0\0\0", b"mif1", b"miaf"][..], Some("an AVIF picture")),
            (&[b"mif1", b"\0\0\0\0", b"avif"], Some("an AVIF picture")),
            (&[b"heic", b"\0\0\0\0", b"mif1", b"heic"], Some("a HEIC picture")),
            (&[b"mif1", b"\0\0\0\0", b"heic"], Some("a HEIC picture")),
            (&[b"msf1", b"\0\0\0\0", b"hevc"], Some("a HEIC picture")),
            (&[b"mif1", b"\0\0\0\0", b"miaf"], Some("a HEIF picture")),
            (&[b"isom", b"\0\0\x02\0", b"iso2", b"avc1", b"mp41"], None),
            (&[b"qt  ", b"heic", b"qt  "], None),
            (&[b"mp42"], None),
        ] {
            assert_eq!(unread(&brands(names)), kind, "{names:?}");
        }
    }

    #[test]
    fn other_kinds_are_called_by_their_name_and_those_that_are_read_are_not() {
        for (head, kind) in [
            (&b"\0\0\0\x0cJXL \r\n\x87\n"[..], "a JPEG XL picture"),
            (b"P6\n4 4\n255\n", "a Netpbm picture"),
            (b"<svg xmlns=\"x\">", "an SVG picture"),
            (b"<?xml version=\"1.0\"?>\n<svg>", "an SVG picture"),
            (b"8BPS\0\x01", "a Photoshop picture"),
            (b"%PDF-1.7\n", "a PDF document"),
            (b"\n<!DOCTYPE html><html lang=en>", "an HTML page"),
        ] {
            assert_eq!(unread(head), Some(kind));
        }
        for head in [
            &b"\x89PNG\r\n\x1a\n"[..],
            b"\xff\xd8\xff\xe0",
            b"RIFF\0\0\0\0WEBP",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"",
            b"P9",
        ] {
            assert_eq!(unread(head), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in prop::collection::vec(any::<u8>(), 0..HEAD)) {
            let _ = unread(&head);
            let _ = unread(&[b"\0\0\0\x20ftyp".as_slice(), &head].concat());
        }
    }
}
