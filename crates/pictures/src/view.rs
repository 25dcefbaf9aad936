//! View: which part of a stream's pictures is looked at, and how it becomes the model's input. Plain data; travels with every frame.

use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use vtagd_checkpoint::hex::hex;

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

/// A rectangle of a stream's pictures, and what becomes of it.
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

/// A part of the picture with straight sides, by its corners in order, relative to the picture's size. Where its sides cross, what they go
/// round twice is outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon {
    corners: Arc<[[f64; 2]]>,
    bounds: Region,
}

impl Polygon {
    /// Below this part of the picture it has no area: a fraction of a pixel.
    const LEAST_AREA: f64 = 1e-8;

    /// `None` where the corners, each inside 0 to 1, have no area between them.
    pub fn new(corners: &[[f64; 2]]) -> Option<Self> {
        let next = corners.iter().cycle().skip(1);
        let twice: f64 = corners.iter().zip(next).map(|([x, y], [next_x, next_y])| x * next_y - next_x * y).sum();
        // Without corners the sum is 0; of what is no number it is none.
        if twice.is_nan() || twice.abs() / 2.0 < Self::LEAST_AREA {
            return None;
        }
        let least = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(1.0, f64::min);
        let most = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(0.0, f64::max);
        let (x, y) = (least(0), least(1));
        Some(Self { corners: corners.into(), bounds: Region { x, y, w: most(0) - x, h: most(1) - y } })
    }

    pub fn corners(&self) -> &[[f64; 2]] {
        &self.corners
    }

    /// The smallest rectangle around it.
    pub fn bounds(&self) -> Region {
        self.bounds
    }
}

/// One view of a stream: the only one, without a name, or one of its named regions, which is scored and told by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedView {
    pub name: Option<Arc<str>>,
    pub view: View,
    /// What the model sees of `view`; the rest of it gets the mean colour.
    pub mask: Option<Polygon>,
}

impl NamedView {
    /// What the model is shown of a picture: where two say the same, embeddings mean the same. Kept on disks: it stays as it is.
    pub fn described(&self) -> String {
        let Region { x, y, w, h } = self.view.region;
        let mut told = json!({ "mode": self.view.mode, "region": [x, y, w, h] });
        if let Some(mask) = &self.mask {
            told["polygon"] = json!(mask.corners());
        }
        told.to_string()
    }

    /// The same in sixteen characters.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.described().as_bytes())[..8])
    }
}

/// A stream's `view`: at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Views(Arc<[NamedView]>);

impl Views {
    /// Most regions of a stream.
    pub const MOST: usize = 16;

    /// `None` for none.
    pub fn new(views: Vec<NamedView>) -> Option<Self> {
        (!views.is_empty()).then(|| Self(views.into()))
    }

    /// The only one, or that of the first region.
    pub fn first(&self) -> &NamedView {
        // There is one at least.
        &self.0[0]
    }

    /// As many others.
    #[must_use]
    pub fn map(&self, other: impl FnMut(&NamedView) -> NamedView) -> Self {
        Self(self.0.iter().map(other).collect())
    }

    /// The names of its regions, if it has any.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().filter_map(|view| view.name.as_ref())
    }
}

impl Deref for Views {
    type Target = [NamedView];

    fn deref(&self) -> &[NamedView] {
        &self.0
    }
}

impl From<View> for Views {
    fn from(view: View) -> Self {
        Self([NamedView { view, ..NamedView::default() }].into())
    }
}

impl Default for Views {
    fn default() -> Self {
        View::default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_told_by_what_the_model_is_shown_and_not_by_its_name() {
        let plain = NamedView::default();
        assert_eq!(plain.described(), r#"{"mode":"model","region":[0.0,0.0,1.0,1.0]}"#);
        assert_eq!(plain.digest(), NamedView { name: Some("left".into()), ..plain.clone() }.digest());
        let squash = View { mode: ViewMode::Squash, ..View::default() };
        let part = View { region: Region { w: 0.5, ..Region::FULL }, ..View::default() };
        let mask = Polygon::new(&[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]);
        let others = [(squash, None), (part, None), (View::default(), mask)];
        let mut digests: Vec<String> = others.map(|(view, mask)| NamedView { name: None, view, mask }.digest()).into();
        digests.push(plain.digest());
        digests.sort_unstable();
        digests.dedup();
        assert!(digests.len() == 4 && digests.iter().all(|digest| digest.len() == 16), "{digests:?}");
    }

    #[test]
    fn a_polygon_has_an_area_and_a_rectangle_around_it() {
        let triangle = Polygon::new(&[[0.25, 1.0], [0.5, 0.25], [1.0, 0.5]]).unwrap();
        assert_eq!(triangle.bounds(), Region { x: 0.25, y: 0.25, w: 0.75, h: 0.75 });
        let none: [&[[f64; 2]]; 4] = [
            &[],
            &[[0.1, 0.1], [0.9, 0.9]],
            &[[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]],
            // What it goes round one way it goes round the other way as well.
            &[[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
        ];
        for corners in none {
            assert!(Polygon::new(corners).is_none(), "{corners:?}");
        }
    }
}
