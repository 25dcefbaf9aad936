//! Preprocess: a picture's planes straight into the model's float tensor.
//!
//! In: a [`Picture`](crate::Picture) as the decoder left it (I420, NV12, 4:2:2, 4:4:4, RGB or grey, any stride, odd sizes,
//! BT.601/709/2020, limited or full range), the stream's [`View`] and the model's [`Spec`]. Out: `[3, height, width]` floats, written
//! into the caller's slice, usually a place of a batch. Threads: none of its own; the caller has a pool
//! and keeps one [`Preprocessor`] on each of its threads. There is no queue, so nothing can be full, and nothing to close.
//!
//! ```text
//! region ─► view (model | squash | pad | tiles) ─► resize ─► crop ─► YUV→RGB ─► rescale, normalise ─► mask, if any
//! └──────────────── plan ────────────────┘         └── resample ──┘   └──────── colour ────────┘
//! ```
//!
//! `plan` turns all geometry into one window of the picture and one rectangle of the tensor. `resample` resizes just that window,
//! plane by plane, so the full frame is never converted to RGB. `colour` converts the small result and normalises it in the same
//! pass. `mask` gives what lies outside a polygon the mean colour. Nothing here looks at a clock, a file or the network (but [`Spec::from_file`]).

mod colour;
mod mask;
mod plan;
mod plane;
mod resample;
mod run;

pub use crate::view::{Polygon, Region, View, ViewMode};
pub use plan::MAX_TILES;
pub use run::{PreprocessError, Preprocessor, tiles};
pub use vtagd_checkpoint::spec::{CropRounding, MAX_SIDE, Resize, ResizeFilter, Spec, SpecError};
