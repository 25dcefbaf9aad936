//! Preprocess: the threads that turn pictures into the model's tensor. How one is turned is [`vtagd_pictures::preprocess`]'s.
//!
//! In: jobs of the batcher, a picture and a place in a batch each. Out: the place, filled. Each thread keeps one [`Preprocessor`].

pub mod pool;

pub use vtagd_pictures::preprocess::{
    CropRounding, MAX_SIDE, MAX_TILES, Polygon, PreprocessError, Preprocessor, Region, Resize, ResizeFilter, Spec,
    SpecError, View, ViewMode, tiles,
};
