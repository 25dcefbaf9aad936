//! Pictures for the preprocessing tests: photographs, YUV planes made of them, and the long way to the same tensor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vtagd::frame::{Matrix, Picture, PixelFormat, Range};
use vtagd::preprocess::{Preprocessor, Region, Spec, View, ViewMode};

/// Interleaved 8-bit RGB.
#[derive(Clone)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

impl Rgb {
    pub fn open(path: &Path) -> Self {
        let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into_rgb8();
        Self { width: image.width(), height: image.height(), data: image.into_raw() }
    }

    pub fn picture(&self) -> Picture {
        Picture::from_rgb(self.width, self.height, self.data.clone()).unwrap()
    }

    pub fn pixel(&self, x: u32, y: u32) -> [f64; 3] {
        let at = 3 * (y as usize * self.width as usize + x as usize);
        std::array::from_fn(|c| f64::from(self.data[at + c]))
    }

    /// The rectangle from `(x, y)`.
    pub fn cut(&self, (x, y): (u32, u32), width: u32, height: u32) -> Self {
        let rows = (y..y + height).flat_map(|row| {
            let at = 3 * (row as usize * self.width as usize + x as usize);
            self.data[at..at + 3 * width as usize].iter().copied()
        });
        Self { width, height, data: rows.collect() }
    }
}

/// A file of `tests/data/preprocess`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/preprocess").join(name)
}

/// A photograph of the conformance set, which lies beside the repository; two of them are also in it.
pub fn photograph(name: &str) -> Option<Rgb> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/images").join(name);
    let path = [data(name), beside].into_iter().find(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped {name}: the conformance photographs are not beside the repository");
    }
    path.map(|path| Rgb::open(&path))
}

pub const STARTER: &str = r#"{"size": {"shortest_edge": 256}, "resample": 3, "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.4980392156862745, 0.4980392156862745, 0.4980392156862745],
    "image_std": [0.5019607843137255, 0.5019607843137255, 0.5019607843137255]}"#;

/// CLIP's own preprocessing: 224 and OpenAI's mean and deviation.
pub const CLIP: &str = "{}";

/// A specification whose tensor is the 8-bit picture itself.
pub fn raw(fields: &str) -> String {
    format!(r#"{{{fields}, "do_rescale": false, "do_normalize": false}}"#)
}

pub fn view(mode: ViewMode) -> View {
    View { mode, region: Region::FULL }
}

/// The tensor of `picture`; NaN wherever nothing was written.
pub fn tensor(spec: &str, picture: &Picture, view: View, tile: usize) -> Vec<f32> {
    let spec = Arc::new(Spec::from_json(spec).unwrap());
    let mut out = vec![f32::NAN; spec.place_len()];
    Preprocessor::new(spec).run(picture, view, tile, &mut out).unwrap();
    out
}

/// Largest and mean difference of a raw tensor from an 8-bit picture of the same size.
pub fn difference(tensor: &[f32], golden: &Rgb) -> (f64, f64) {
    let plane = golden.width as usize * golden.height as usize;
    assert_eq!(tensor.len(), 3 * plane);
    let (mut largest, mut sum) = (0.0f64, 0.0);
    for (at, sample) in golden.data.iter().enumerate() {
        let found = f64::from(tensor[at % 3 * plane + at / 3]);
        let difference = (found - f64::from(*sample)).abs();
        assert!(difference.is_finite(), "sample {at} is {found}");
        largest = largest.max(difference);
        sum += difference;
    }
    (largest, sum / tensor.len() as f64)
}

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Planes of a YUV picture with `padding` bytes of rubbish after each row.
#[derive(Clone)]
pub struct Yuv {
    pub format: PixelFormat,
    pub size: (u32, u32),
    pub colour: (Matrix, Range),
    pub strides: [usize; 3],
    pub planes: Vec<Vec<u8>>,
}

fn weights(matrix: Matrix) -> (f64, f64) {
    match matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
    }
}

/// Luma samples a chroma sample, across and down.
fn steps(format: PixelFormat) -> (u32, u32) {
    match format {
        PixelFormat::I420 | PixelFormat::Nv12 => (2, 2),
        PixelFormat::Y42b => (2, 1),
        _ => (1, 1),
    }
}

impl Yuv {
    /// Converts `rgb` as an encoder's front end does: chroma averaged over its luma samples, sited on the first of two for limited range.
    pub fn of(rgb: &Rgb, format: PixelFormat, (matrix, range): (Matrix, Range), padding: usize) -> Self {
        let (red, blue) = weights(matrix);
        let (luma_scale, luma_zero, chroma_scale) = match range {
            Range::Limited => (219.0 / 255.0, 16.0, 224.0 / 255.0),
            Range::Full => (1.0, 0.0, 1.0),
        };
        let yuv = |x: u32, y: u32| {
            let [r, g, b] = rgb.pixel(x, y);
            let luma = red * r + (1.0 - red - blue) * g + blue * b;
            [luma, (b - luma) / (2.0 * (1.0 - blue)), (r - luma) / (2.0 * (1.0 - red))]
        };
        let byte = |value: f64| value.round().clamp(0.0, 255.0) as u8;
        let (width, height) = (rgb.width, rgb.height);
        let (across, down) = steps(format);
        let taps: &[(i64, f64)] = match (across, range) {
            (1, _) => &[(0, 1.0)],
            (_, Range::Limited) => &[(-1, 0.25), (0, 0.5), (1, 0.25)],
            (_, Range::Full) => &[(0, 0.5), (1, 0.5)],
        };
        let chroma = |x: u32, y: u32| {
            let mut sum = [0.0; 2];
            for row in 0..down {
                for (offset, weight) in taps {
                    let column = (i64::from(x * across) + offset).clamp(0, i64::from(width) - 1) as u32;
                    let [_, u, v] = yuv(column, (y * down + row).min(height - 1));
                    sum[0] += u * weight / f64::from(down);
                    sum[1] += v * weight / f64::from(down);
                }
            }
            sum.map(|value| byte(value * chroma_scale + 128.0))
        };
        let mut planes = Vec::new();
        let mut strides = [0; 3];
        for plane in 0..format.planes() {
            let (row, rows) = format.plane_size(plane, width, height);
            strides[plane] = row + padding;
            let mut bytes = vec![0xA5; strides[plane] * (rows - 1) + row];
            for y in 0..rows as u32 {
                for x in 0..row as u32 {
                    bytes[y as usize * strides[plane] + x as usize] = match (format, plane) {
                        (_, 0) => byte(yuv(x, y)[0] * luma_scale + luma_zero),
                        (PixelFormat::Nv12, _) => chroma(x / 2, y)[x as usize % 2],
                        _ => chroma(x, y)[plane - 1],
                    };
                }
            }
            planes.push(bytes);
        }
        Self { format, size: (width, height), colour: (matrix, range), strides, planes }
    }

    pub fn picture(&self) -> Picture {
        Picture::new(self.format, self.size, self.strides, self.colour, Box::new(self.planes.clone())).unwrap()
    }

    /// The long way: every pixel of the full frame to 8-bit RGB, chroma interpolated linearly between its sites.
    pub fn to_rgb(&self) -> Rgb {
        let (width, height) = self.size;
        let (matrix, range) = self.colour;
        let (red, blue) = weights(matrix);
        let (across, down) = steps(self.format);
        let shift = if across == 2 && range == Range::Limited { 0.25 } else { 0.0 };
        let (columns, rows) = (width.div_ceil(across), height.div_ceil(down));
        let sample = |plane: usize, x: u32, y: u32| {
            let (plane, at) = match self.format {
                PixelFormat::Nv12 => (1, 2 * x as usize + plane - 1),
                _ => (plane, x as usize),
            };
            f64::from(self.planes[plane][y as usize * self.strides[plane] + at])
        };
        let chroma = |plane: usize, x: u32, y: u32| {
            let position = |at: u32, step: u32, shift: f64, count: u32| {
                let centre = (f64::from(at) + 0.5) / f64::from(step) + shift - 0.5;
                let centre = centre.clamp(0.0, f64::from(count - 1));
                (centre as u32, (centre as u32 + 1).min(count - 1), centre.fract())
            };
            let (x0, x1, fx) = position(x, across, shift, columns);
            let (y0, y1, fy) = position(y, down, 0.0, rows);
            let row = |y: u32| sample(plane, x0, y) * (1.0 - fx) + sample(plane, x1, y) * fx;
            row(y0) * (1.0 - fy) + row(y1) * fy - 128.0
        };
        let (luma_scale, luma_zero, chroma_scale) = match range {
            Range::Limited => (255.0 / 219.0, 16.0, 255.0 / 224.0),
            Range::Full => (1.0, 0.0, 1.0),
        };
        let mut data = Vec::with_capacity(3 * width as usize * height as usize);
        for y in 0..height {
            for x in 0..width {
                let luma = f64::from(self.planes[0][y as usize * self.strides[0] + x as usize]);
                let luma = (luma - luma_zero) * luma_scale;
                let (u, v) = (chroma(1, x, y) * chroma_scale, chroma(2, x, y) * chroma_scale);
                let (r, b) = (luma + 2.0 * (1.0 - red) * v, luma + 2.0 * (1.0 - blue) * u);
                let g = (luma - red * r - blue * b) / (1.0 - red - blue);
                data.extend([r, g, b].map(|value| value.round().clamp(0.0, 255.0) as u8));
            }
        }
        Rgb { width, height, data }
    }
}
