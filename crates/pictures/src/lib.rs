//! Pictures and rows of numbers: all that is counted in pixels or in values of an embedding.
//!
//! In: planes as a decoder left them, coded still pictures, embeddings. Out: a model's tensor, thumbprints, JPEGs, products. No threads, no clock, no
//! camera, no runtime, no daemon; only still pictures are read from files. What is generic in another library is compiled where it is used, so what calls such
//! loops belongs here: in debug builds this crate is optimised and the daemon is not.

pub mod coded_size;
pub mod jpeg;
pub mod picture_kind;
mod planes;
pub mod preprocess;
pub mod region_picture;
pub mod rows;
pub mod still_image;
pub mod thumbprint;
pub mod view;

pub use planes::{Matrix, Picture, PictureError, PixelFormat, PlaneStore, Range, YuvToRgb};
