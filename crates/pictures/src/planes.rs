//! A decoded picture in memory: planes that somebody owns, and what their bytes mean. Nothing here knows GStreamer.

use std::fmt;

/// Memory layout of a picture, after the names GStreamer and FFmpeg use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Planar Y, U, V; chroma halved both ways.
    I420,
    /// Planar Y, U, V; chroma halved horizontally (4:2:2, usual for MJPEG cameras).
    Y42b,
    /// Planar Y, U, V at full size.
    Y444,
    /// Planar Y, then interleaved U and V, halved both ways.
    Nv12,
    /// Interleaved R, G, B.
    Rgb,
    /// Luma alone.
    Gray8,
}

impl PixelFormat {
    /// Number of planes.
    pub const fn planes(self) -> usize {
        match self {
            Self::I420 | Self::Y42b | Self::Y444 => 3,
            Self::Nv12 => 2,
            Self::Rgb | Self::Gray8 => 1,
        }
    }

    /// Bytes that carry pixels in one row of plane `index`, and the number of rows, for a `width` × `height` picture.
    pub const fn plane_size(self, index: usize, width: u32, height: u32) -> (usize, usize) {
        let (w, h) = (width as usize, height as usize);
        match (self, index) {
            (Self::Rgb, _) => (w * 3, h),
            (_, 0) | (Self::Y444 | Self::Gray8, _) => (w, h),
            (Self::I420, _) => (w.div_ceil(2), h.div_ceil(2)),
            (Self::Y42b, _) => (w.div_ceil(2), h),
            (Self::Nv12, _) => (w.div_ceil(2) * 2, h.div_ceil(2)),
        }
    }
}

/// Luma coefficients of a YUV picture: ITU-R BT.601, BT.709 or BT.2020 (non-constant luminance).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrix {
    Bt601,
    Bt709,
    Bt2020,
}

/// Sample range of a YUV picture: limited is 16–235 (luma) and 16–240 (chroma), full is 0–255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    Limited,
    Full,
}

/// From YUV samples to R, G, B of 0 to 255, after ITU-R BT.601-7, BT.709-6 and BT.2020-2. All three have `luma` × (Y − `zero`); then red has
/// `red_v` × V, blue `blue_u` × U, green `green_u` × U + `green_v` × V, with chroma samples from −128 on.
#[derive(Clone, Copy, Debug)]
pub struct YuvToRgb {
    pub luma: f64,
    pub zero: f64,
    pub red_v: f64,
    pub green_u: f64,
    pub green_v: f64,
    pub blue_u: f64,
}

impl YuvToRgb {
    pub fn new(matrix: Matrix, range: Range) -> Self {
        let (red, blue) = match matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
        };
        let green = 1.0 - red - blue;
        let (luma, zero, chroma) = match range {
            Range::Limited => (255.0 / 219.0, 16.0, 255.0 / 224.0),
            Range::Full => (1.0, 0.0, 1.0),
        };
        let (red_v, blue_u) = (2.0 * (1.0 - red) * chroma, 2.0 * (1.0 - blue) * chroma);
        Self { luma, zero, red_v, green_u: -blue_u * blue / green, green_v: -red_v * red / green, blue_u }
    }
}

/// Owner of a picture's bytes: a mapped decoder buffer, or plain memory.
pub trait PlaneStore: Send + Sync {
    /// Bytes of plane `index`, rows `stride` apart. Called only with an index below [`PixelFormat::planes`].
    fn plane(&self, index: usize) -> &[u8];
}

impl PlaneStore for Vec<Vec<u8>> {
    fn plane(&self, index: usize) -> &[u8] {
        &self[index]
    }
}

/// Why bytes cannot be looked at as a picture.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PictureError {
    #[error("a picture of {width}x{height} pixels cannot be used (1 to {limit} a side)", limit = Picture::MAX_SIDE)]
    Size { width: u32, height: u32 },
    #[error(
        "plane {plane} of a {width}x{height} {format:?} picture has a stride of {stride} bytes, {needed} are needed"
    )]
    Stride { plane: usize, width: u32, height: u32, format: PixelFormat, stride: usize, needed: usize },
    #[error("plane {plane} of a {width}x{height} {format:?} picture has {length} bytes, {needed} are needed")]
    Short { plane: usize, width: u32, height: u32, format: PixelFormat, length: usize, needed: usize },
}

/// A decoded picture in CPU memory. Construction checks every plane, so readers may index freely.
pub struct Picture {
    format: PixelFormat,
    width: u32,
    height: u32,
    strides: [usize; 3],
    matrix: Matrix,
    range: Range,
    store: Box<dyn PlaneStore>,
}

impl Picture {
    /// Largest side we look at; beyond it sizes are taken for damage.
    pub const MAX_SIDE: u32 = 32_768;

    /// Wraps `store`. `strides` counts bytes between rows, one entry a plane.
    ///
    /// # Errors
    /// Sizes outside 1..=[`Self::MAX_SIDE`], strides or planes too short for the format.
    pub fn new(
        format: PixelFormat,
        (width, height): (u32, u32),
        strides: [usize; 3],
        (matrix, range): (Matrix, Range),
        store: Box<dyn PlaneStore>,
    ) -> Result<Self, PictureError> {
        if !(1..=Self::MAX_SIDE).contains(&width) || !(1..=Self::MAX_SIDE).contains(&height) {
            return Err(PictureError::Size { width, height });
        }
        for (plane, &stride) in strides.iter().enumerate().take(format.planes()) {
            let (row, rows) = format.plane_size(plane, width, height);
            if stride < row {
                return Err(PictureError::Stride { plane, width, height, format, stride, needed: row });
            }
            let needed = stride.saturating_mul(rows - 1).saturating_add(row);
            let length = store.plane(plane).len();
            if length < needed {
                return Err(PictureError::Short { plane, width, height, format, length, needed });
            }
        }
        Ok(Self { format, width, height, strides, matrix, range, store })
    }

    /// A tightly packed RGB picture, as still images come.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PictureError> {
        let stride = width as usize * 3;
        Self::new(PixelFormat::Rgb, (width, height), [stride, 0, 0], (Matrix::Bt601, Range::Full), Box::new(vec![rgb]))
    }

    pub fn format(&self) -> PixelFormat {
        self.format
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    pub fn matrix(&self) -> Matrix {
        self.matrix
    }

    pub fn range(&self) -> Range {
        self.range
    }

    /// Bytes of plane `index` and the distance between its rows.
    pub fn plane(&self, index: usize) -> (&[u8], usize) {
        (self.store.plane(index), self.strides[index])
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({:?} {}x{} {:?} {:?})", self.format, self.width, self.height, self.matrix, self.range)
    }
}
