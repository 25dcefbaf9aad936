//! Still pictures from files: PNG, JPEG, WebP, BMP, TIFF and GIF (its first frame), as Pillow's `convert("RGB")` gives them
//! after `ImageOps.exif_transpose`: upright, alpha dropped, 8 bits a channel. Files are untrusted: sizes are bounded before
//! anything is allocated.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::frame::Picture;
use crate::frame::coded_size::{self, Claim, TooLarge};

/// A person has named the file.
const SIZES: coded_size::Limits = coded_size::Limits::FILE;
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
    let fault = |error: image::ImageError| match error {
        image::ImageError::Unsupported(_) => StillImageError::Format { file: file() },
        image::ImageError::Limits(e) => StillImageError::TooLarge { file: file(), message: e.to_string() },
        image::ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            StillImageError::Damaged { file: file(), message: "it ends in the middle".into() }
        }
        other => StillImageError::Damaged { file: file(), message: other.to_string() },
    };
    if reader.format() == Some(ImageFormat::Jpeg) {
        // Its decoder heeds sides alone, and keeps a progressive picture twice.
        jpeg_sizes(path)?;
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(Picture::MAX_SIDE);
    limits.max_image_height = Some(Picture::MAX_SIDE);
    limits.max_alloc = Some(SIZES.max_bytes);
    let mut reader = reader;
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fault)?;
    let (width, height) = decoder.dimensions();
    let claim = Claim {
        width: width.into(),
        height: height.into(),
        frames: 1,
        bits: u64::from(decoder.color_type().bytes_per_pixel()) * 8,
    };
    SIZES.check(claim).map_err(|why| StillImageError::too_large(path, why))?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(fault)?;
    decoded.apply_orientation(orientation);
    let rgb = to_rgb(decoded);
    let (width, height) = rgb.dimensions();
    Picture::from_rgb(width, height, rgb.into_raw())
        .map_err(|e| StillImageError::Damaged { file: file(), message: e.to_string() })
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
