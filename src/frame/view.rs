//! View: which part of a stream's pictures is looked at, and how it becomes the model's input. Plain data; travels with every frame.

use serde::Serialize;

/// Part of the picture to look at, relative to its size: `0 ≤ x, y < 1`, `0 < w, h`, `x + w ≤ 1`, `y + h ≤ 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Region {
    pub const FULL: Self = Self { x: 0.0, y: 0.0, w: 1.0, h: 1.0 };
}

/// How the region becomes the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewMode {
    /// As the preprocessor file says.
    #[default]
    Model,
    /// Resized without regard to its shape.
    Squash,
    /// Whole, with bars in the mean colour.
    Pad,
    /// Several overlapping tiles along the longer side; each label takes its best score.
    Tiles,
}

/// A stream's `view`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub mode: ViewMode,
    pub region: Region,
}

impl Default for View {
    fn default() -> Self {
        Self { mode: ViewMode::Model, region: Region::FULL }
    }
}
