//! Pictures of strangers: photographs of things, cut to an ellipse and pasted into a picture of the empty scene, at several places and sizes.
//!
//! In: a frame. Out: copies of it, each with one stranger. The photographs are part of the program; `pictures/strangers/README.md` says whose they are. Pure; one copy in
//! memory at a time.

use crate::frame::Picture;
use crate::snapshot::jpeg;

/// A stranger: its photograph, and words by which a label would mean it.
pub(super) struct Intruder {
    pub name: &'static str,
    words: &'static [&'static str],
    coded: &'static [u8],
}

macro_rules! intruders {
    ($($name:literal: $words:expr),* $(,)?) => {
        &[$(Intruder { name: $name, words: &$words, coded: include_bytes!(concat!("../../pictures/strangers/", $name, ".jpg")) }),*]
    };
}

pub(super) const ALL: &[Intruder] = intruders! {
    "cat": ["cat", "cats", "kitten", "animal", "animals", "pet", "pets"],
    "cup": ["cup", "cups", "mug", "mugs", "coffee", "drink"],
    "person": ["person", "people", "man", "men", "woman", "women", "human", "humans", "face", "faces", "worker", "workers", "somebody", "someone"],
    "rocket": ["rocket", "rockets", "tower"],
    "bricks": ["brick", "bricks", "wall"],
    "grass": ["grass", "lawn", "plant", "plants"],
    "coins": ["coin", "coins", "money"],
    "retina": ["retina", "eye", "eyes"],
};

/// Longest side of the pictures that strangers are pasted into: few models see more, and each of hundreds is resized.
const MAX_SIDE: u32 = 768;
/// Of that picture's JPEG on the way.
const QUALITY: u8 = 97;
/// How large a stranger is, of the shorter side.
const SIZES: [f64; 3] = [0.2, 0.35, 0.5];
/// Where its middle is.
const PLACES: [(f64, f64); 4] = [(0.5, 0.5), (0.3, 0.35), (0.7, 0.35), (0.5, 0.7)];
/// So many pictures come of each stranger and each empty moment.
pub(super) const PASTED: usize = SIZES.len() * PLACES.len();
/// From here to its edge an ellipse fades, of its radius.
const FADE: f64 = 0.85;

impl Intruder {
    /// Whether one of `texts` speaks of it: then it is none.
    pub fn is_meant(&self, texts: &[String]) -> bool {
        let words = texts.iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
        words.map(str::to_lowercase).any(|word| self.words.contains(&&*word))
    }

    /// What it looks like in `frame`, in turn at each size and place.
    ///
    /// # Errors
    /// When a picture cannot be made.
    pub fn paste_into(
        &self,
        frame: &EmptyFrame,
        mut shown: impl FnMut(Picture) -> Result<(), String>,
    ) -> Result<(), String> {
        let photograph = image::load_from_memory(self.coded).map_err(|error| error.to_string())?.to_rgb8();
        let shorter = f64::from(frame.width.min(frame.height));
        for size in SIZES {
            let side = (shorter * size).max(2.0);
            for (x, y) in PLACES {
                let centre = (x * f64::from(frame.width), y * f64::from(frame.height));
                let mut pixels = frame.pixels.clone();
                paste(&mut pixels, (frame.width, frame.height), &photograph, centre, side);
                shown(Picture::from_rgb(frame.width, frame.height, pixels).map_err(|error| error.to_string())?)?;
            }
        }
        Ok(())
    }
}

/// A picture of the empty scene, as packed RGB.
pub(super) struct EmptyFrame {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl EmptyFrame {
    /// # Errors
    /// When it cannot be converted.
    pub fn new(picture: &Picture) -> Result<Self, String> {
        let coded = jpeg(picture, MAX_SIDE, QUALITY).map_err(|error| error.to_string())?;
        let picture = image::load_from_memory(&coded).map_err(|error| error.to_string())?.to_rgb8();
        let (width, height) = picture.dimensions();
        Ok(Self { width, height, pixels: picture.into_raw() })
    }

    pub fn picture(&self) -> Result<Picture, String> {
        Picture::from_rgb(self.width, self.height, self.pixels.clone()).map_err(|error| error.to_string())
    }
}

/// Puts an ellipse of `photograph` into `pixels`, `side` wide and high, round `centre`; what lies outside is cut off.
fn paste(pixels: &mut [u8], (width, height): (u32, u32), photograph: &image::RgbImage, (x, y): (f64, f64), side: f64) {
    let (left, top) = (x - side / 2.0, y - side / 2.0);
    let range = |from: f64, limit: u32| {
        let start = from.ceil().clamp(0.0, f64::from(limit)) as u32;
        start..((from + side).floor().clamp(0.0, f64::from(limit)) as u32).max(start)
    };
    for row in range(top, height) {
        for column in range(left, width) {
            let (u, v) = ((f64::from(column) - left) / side, (f64::from(row) - top) / side);
            let radius = (2.0 * u - 1.0).hypot(2.0 * v - 1.0);
            let alpha = ((1.0 - radius) / (1.0 - FADE)).clamp(0.0, 1.0);
            let at = |part: f64, of: u32| ((part * f64::from(of)) as u32).min(of.saturating_sub(1));
            let from = photograph.get_pixel(at(u, photograph.width()), at(v, photograph.height())).0;
            let place = (row as usize * width as usize + column as usize) * 3;
            for (pixel, from) in pixels[place..place + 3].iter_mut().zip(from) {
                *pixel = (f64::from(*pixel) * (1.0 - alpha) + f64::from(from) * alpha).round() as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_stands_in_the_scene_and_nothing_else_changes() {
        let grey = Picture::from_rgb(200, 100, vec![128; 200 * 100 * 3]).unwrap();
        let frame = EmptyFrame::new(&grey).unwrap();
        for intruder in ALL {
            let mut seen = 0;
            let shown = |picture: Picture| {
                seen += 1;
                let (rows, stride) = picture.plane(0);
                let changed = |x: usize, y: usize| rows[y * stride + 3 * x..][..3].iter().any(|v| v.abs_diff(128) > 12);
                let all = (0..100).flat_map(|y| (0..200).map(move |x| (x, y))).filter(|(x, y)| changed(*x, *y)).count();
                // The largest is an ellipse of half the height.
                assert!((1..=2000).contains(&all), "{}: {all}", intruder.name);
                assert!(!changed(0, 0) && !changed(199, 99));
                Ok(())
            };
            intruder.paste_into(&frame, shown).unwrap();
            assert_eq!(seen, PASTED, "{}", intruder.name);
        }
    }

    #[test]
    fn what_a_label_means_is_no_stranger_to_it() {
        let meant = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            ALL.iter().filter(|one| one.is_meant(&texts)).map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(meant(&["a forklift"]), [""; 0]);
        assert_eq!(meant(&["a Person, walking", "a catalogue"]), ["person"]);
        assert_eq!(meant(&["a cup of coffee", "a cat"]), ["cat", "cup"]);
    }
}
