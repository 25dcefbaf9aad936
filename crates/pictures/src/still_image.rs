//! Still pictures from files: PNG, JPEG, WebP, BMP, TIFF and GIF (its first frame), as Pillow's `convert("RGB")` gives them
//! after `ImageOps.exif_transpose`: upright, alpha dropped, 8 bits a channel. Files are untrusted: sizes are bounded before
//! anything is allocated.

use std::io::{self, BufRead, BufReader, Cursor, Read as _, Seek};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::Picture;
use crate::coded_size::{self, Claim, TooLarge};
use crate::picture_kind;

/// A person has named the file.
const SIZES: coded_size::Limits = coded_size::Limits::FILE;
/// What is wrong with a file that is cut.
const CUT: &str = "it ends in the middle";
/// Largest picture file that is read.
const MAX_FILE: u64 = 512 << 20;

/// Why a file is no picture for us.
#[derive(Debug, thiserror::Error)]
pub enum StillImageError {
    #[error("{}: cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{}: is not a regular file", file.display())]
    NotAFile { file: PathBuf },
    #[error("{}: is not a picture this program reads (PNG, JPEG, WebP, BMP, TIFF, GIF)", file.display())]
    Format { file: PathBuf },
    /// A picture all the same.
    #[error(
        "{}: is {kind}, a kind that this program does not read; save it as PNG, JPEG or WebP", file.display()
    )]
    Kind { file: PathBuf, kind: &'static str },
    #[error("{SENT} is not a picture that is taken here (JPEG, PNG, WebP)")]
    NotSent,
    #[error("{}: the picture is damaged: {message}", file.display())]
    Damaged { file: PathBuf, message: String },
    #[error("{}: the picture is too large ({message})", file.display())]
    TooLarge { file: PathBuf, message: String },
}

impl StillImageError {
    fn too_large(file: &Path, why: TooLarge) -> Self {
        Self::TooLarge { file: file.to_owned(), message: why.to_string() }
    }
}

/// Loads `path` as an upright RGB picture.
///
/// # Errors
/// A file that cannot be read, is no picture, is damaged, or is too large.
pub fn load(path: &Path) -> Result<Picture, StillImageError> {
    let file = || path.to_owned();
    // Before opening: a pipe would wait for ever, and a device may never end.
    let metadata = std::fs::metadata(path).map_err(|source| StillImageError::Read { file: file(), source })?;
    if !metadata.is_file() {
        return Err(StillImageError::NotAFile { file: file() });
    }
    if let Some(kind) = unread_kind(path) {
        return Err(StillImageError::Kind { file: file(), kind });
    }
    if metadata.len() > MAX_FILE {
        // Longer than any picture we take; it may still be a video.
        return Err(StillImageError::Format { file: file() });
    }
    let reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|source| StillImageError::Read { file: file(), source })?;
    if reader.format().is_none() {
        return Err(StillImageError::Format { file: file() });
    }
    if reader.format() == Some(ImageFormat::Jpeg) {
        // Its decoder heeds sides alone, and keeps a progressive picture twice.
        jpeg_sizes(path)?;
        // It also fills up what is missing with grey.
        let whole = std::fs::File::open(path).and_then(|file| is_whole_jpeg(BufReader::new(file)));
        if !whole.map_err(|source| StillImageError::Read { file: file(), source })? {
            return Err(StillImageError::Damaged { file: file(), message: CUT.into() });
        }
    }
    unpack(reader, path, SIZES)
}

/// What stands for the file of a picture that was sent.
const SENT: &str = "what was sent";
/// Nobody has named it, it comes from anywhere.
const SENT_SIZES: coded_size::Limits = coded_size::Limits::CAMERA;

/// Makes an upright RGB picture of a JPEG, PNG or WebP that somebody has sent.
///
/// # Errors
/// As [`load`], of another kind too.
pub fn decode(coded: &[u8]) -> Result<Picture, StillImageError> {
    decode_within(coded, SENT_SIZES, Animated::Refused)
}

/// What becomes of a GIF, which may be a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Animated {
    Refused,
    FirstFrame,
}

/// The same within other limits.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(coded: &[u8], sizes: coded_size::Limits, animated: Animated) -> Result<Picture, StillImageError> {
    let file = || PathBuf::from(SENT);
    if let Some(kind) = picture_kind::unread(&coded[..coded.len().min(picture_kind::HEAD)]) {
        return Err(StillImageError::Kind { file: file(), kind });
    }
    let reader = ImageReader::new(Cursor::new(coded))
        .with_guessed_format()
        .map_err(|source| StillImageError::Read { file: file(), source })?;
    match reader.format() {
        Some(ImageFormat::Jpeg) => {
            let mut headers = coded_size::Reader::new(coded_size::Codec::Jpeg, sizes);
            headers.frame(coded).map_err(|why| StillImageError::too_large(Path::new(SENT), why))?;
            if !is_whole_jpeg(Cursor::new(coded)).map_err(|source| StillImageError::Read { file: file(), source })? {
                return Err(StillImageError::Damaged { file: file(), message: CUT.into() });
            }
        }
        Some(ImageFormat::Png | ImageFormat::WebP) => {}
        Some(ImageFormat::Gif) if animated == Animated::FirstFrame => {}
        _ => return Err(StillImageError::NotSent),
    }
    unpack(reader, Path::new(SENT), sizes)
}

/// The picture of a reader whose format is known.
fn unpack(
    mut reader: ImageReader<impl BufRead + Seek>,
    path: &Path,
    sizes: coded_size::Limits,
) -> Result<Picture, StillImageError> {
    let file = || path.to_owned();
    let fault = |error: image::ImageError| match error {
        image::ImageError::Unsupported(_) => StillImageError::Format { file: file() },
        image::ImageError::Limits(e) => StillImageError::TooLarge { file: file(), message: e.to_string() },
        image::ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            StillImageError::Damaged { file: file(), message: CUT.into() }
        }
        other => StillImageError::Damaged { file: file(), message: other.to_string() },
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(Picture::MAX_SIDE);
    limits.max_image_height = Some(Picture::MAX_SIDE);
    limits.max_alloc = Some(sizes.max_bytes);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fault)?;
    let (width, height) = decoder.dimensions();
    let claim = Claim {
        width: width.into(),
        height: height.into(),
        frames: 1,
        bits: u64::from(decoder.color_type().bytes_per_pixel()) * 8,
    };
    sizes.check(claim).map_err(|why| StillImageError::too_large(path, why))?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(fault)?;
    decoded.apply_orientation(orientation);
    let rgb = to_rgb(decoded);
    let (width, height) = rgb.dimensions();
    Picture::from_rgb(width, height, rgb.into_raw())
        .map_err(|e| StillImageError::Damaged { file: file(), message: e.to_string() })
}

/// What a regular file is, if it is a picture of a kind that is not read.
pub fn unread_kind(path: &Path) -> Option<&'static str> {
    let mut head = Vec::new();
    // A pipe would wait for a writer.
    let file = path.is_file().then(|| std::fs::File::open(path).ok())??;
    file.take(picture_kind::HEAD as u64).read_to_end(&mut head).ok()?;
    picture_kind::unread(&head)
}

/// Whether a JPEG has its end. What it holds besides, such as the preview of a camera, is passed over.
fn is_whole_jpeg(mut file: impl BufRead + Seek) -> io::Result<bool> {
    let mut byte = [0];
    loop {
        // To the next marker; between two of them lies coded data.
        file.skip_until(0xff)?;
        loop {
            if file.read(&mut byte)? == 0 {
                return Ok(false);
            }
            if byte != [0xff] {
                break;
            }
        }
        match byte[0] {
            0xd9 => return Ok(true),
            // A 255 in the data, and markers without a length.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let mut length = [0; 2];
                if let Err(error) = file.read_exact(&mut length) {
                    return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(error) };
                }
                file.seek_relative(i64::from(u16::from_be_bytes(length)).saturating_sub(2).max(0))?;
            }
        }
    }
}

/// Looks at the sizes in a JPEG file, piece by piece.
fn jpeg_sizes(path: &Path) -> Result<(), StillImageError> {
    let fault = |source| StillImageError::Read { file: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(fault)?.take(MAX_FILE);
    let mut sizes = coded_size::Reader::new(coded_size::Codec::Jpeg, SIZES);
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece).map_err(fault)? {
            0 => return Ok(()),
            length => sizes.frame(&piece[..length]).map_err(|why| StillImageError::too_large(path, why))?,
        }
    }
}

/// Alpha is cut off, not blended: that is what the reference does. 16-bit samples keep their high byte.
fn to_rgb(picture: DynamicImage) -> image::RgbImage {
    match picture {
        DynamicImage::ImageRgb16(p) => {
            let (w, h) = p.dimensions();
            image::RgbImage::from_fn(w, h, |x, y| image::Rgb(p.get_pixel(x, y).0.map(|v| (v >> 8) as u8)))
        }
        DynamicImage::ImageRgba16(p) => {
            let (w, h) = p.dimensions();
            image::RgbImage::from_fn(w, h, |x, y| {
                let [r, g, b, _] = p.get_pixel(x, y).0;
                image::Rgb([r, g, b].map(|v| (v >> 8) as u8))
            })
        }
        other => other.into_rgb8(),
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgba, RgbaImage};

    use super::*;

    #[test]
    fn alpha_is_dropped_and_not_blended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        RgbaImage::from_pixel(3, 2, Rgba([200, 100, 50, 0])).save(&file).unwrap();
        let picture = load(&file).unwrap();
        assert_eq!((picture.width(), picture.height()), (3, 2));
        assert_eq!(&picture.plane(0).0[..3], &[200, 100, 50]);
    }

    #[test]
    fn sixteen_bits_keep_their_high_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        image::ImageBuffer::from_pixel(1, 1, image::Rgb([0xfeff_u16, 0x00ff, 0x8000])).save(&file).unwrap();
        assert_eq!(load(&file).unwrap().plane(0).0, &[0xfe, 0x00, 0x80]);
    }

    #[test]
    fn a_jpeg_that_was_taken_sideways_comes_out_upright() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jpg");
        image::RgbImage::new(16, 8).save_with_format(&file, ImageFormat::Jpeg).unwrap();
        let mut jpeg = std::fs::read(&file).unwrap();
        // APP1 with a little-endian TIFF directory of one entry: Orientation (0x0112) = 6, turn by 90 degrees.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut segment = vec![0xff, 0xe1];
        segment.extend(u16::try_from(exif.len() + 2).unwrap().to_be_bytes());
        segment.extend(exif);
        jpeg.splice(2..2, segment);
        std::fs::write(&file, jpeg).unwrap();
        let picture = load(&file).unwrap();
        assert_eq!((picture.width(), picture.height()), (8, 16));
    }

    #[test]
    fn files_that_are_no_pictures_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        assert!(matches!(load(&file), Err(StillImageError::Read { .. })));
        std::fs::write(&file, "hello").unwrap();
        assert!(matches!(load(&file), Err(StillImageError::Format { .. }) | Err(StillImageError::Damaged { .. })));
        image::RgbImage::new(64, 64).save(&file).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(load(&file), Err(StillImageError::Damaged { .. })));
    }

    #[test]
    fn a_jpeg_that_is_cut_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jpg");
        let noise = |x: u32, y: u32| image::Rgb([((x * 37) ^ (y * 91)) as u8, (x * y) as u8, (x ^ (y * 7)) as u8]);
        image::RgbImage::from_fn(96, 64, noise).save(&file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        assert!(load(&file).is_ok());
        for length in (3..whole.len() - 2).step_by(whole.len() / 40).chain([whole.len() - 2]) {
            std::fs::write(&file, &whole[..length]).unwrap();
            let error = load(&file).unwrap_err();
            assert!(matches!(error, StillImageError::Damaged { .. }), "{length}: {error}");
        }
        // What follows the end does not matter, and a preview within is not the end.
        let preview = [&[0xff, 0xe2, 0, 8], &whole[..4], &[0xff, 0xd9]].concat();
        let mut more = [&whole[..2], &preview, &whole[2..], b"\0\0more"].concat();
        std::fs::write(&file, &more).unwrap();
        load(&file).unwrap();
        more.truncate(more.len() / 2);
        std::fs::write(&file, &more).unwrap();
        assert!(matches!(load(&file), Err(StillImageError::Damaged { .. })));
    }

    #[test]
    fn what_somebody_sends_is_read_as_a_file_is_and_no_larger_than_a_cameras() {
        let coded = |picture: &image::RgbImage, format| {
            let mut coded = io::Cursor::new(Vec::new());
            picture.write_to(&mut coded, format).unwrap();
            coded.into_inner()
        };
        let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 7]));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let coded = coded(&picture, format);
            let read = decode(&coded).unwrap();
            assert_eq!((read.width(), read.height()), (40, 30), "{format:?}");
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("a"), &coded).unwrap();
            assert_eq!(load(&dir.path().join("a")).unwrap().plane(0).0, read.plane(0).0, "{format:?}");
            assert!(decode(&coded[..coded.len() / 2]).is_err(), "{format:?}");
        }
        assert!(matches!(decode(&coded(&picture, ImageFormat::Gif)), Err(StillImageError::NotSent)));
        assert!(matches!(decode(b"hello"), Err(StillImageError::NotSent)));
        assert!(matches!(decode(b""), Err(StillImageError::NotSent)));
        let mut bomb = coded(&picture, ImageFormat::Png);
        bomb[16..20].copy_from_slice(&16_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&16_000_u32.to_be_bytes());
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = decode(&bomb).unwrap_err().to_string();
        assert!(error.starts_with("what was sent: the picture is too large"), "{error}");
    }

    #[test]
    fn a_picture_of_another_kind_is_called_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf").unwrap();
        let message = load(&file).unwrap_err().to_string();
        assert!(message.contains("is an AVIF picture") && message.contains("save it as PNG"), "{message}");
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        image::RgbImage::new(8, 8).save(&file).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        // IHDR: width and height 30000; its checksum has to fit or the file is only damaged.
        bytes[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(load(&file), Err(StillImageError::TooLarge { .. })));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, b| {
            (0..8).fold(crc ^ u32::from(*b), |c, _| (c >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(c & 1)))
        })
    }
}
