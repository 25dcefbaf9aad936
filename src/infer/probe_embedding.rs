//! Whether a provider computes what the model means: made-up pictures, and the embedding that is known for one of them.
//!
//! Comes in: an encoder and a reference, which is the embedding that the import wrote into the bundle (see
//! [`KnownEmbedding`]), or what the CPU gives where a model directory has none. Goes out: the cosine, or the reason
//! to refuse. Runs on the caller's thread at start-up. A provider that answers nonsense only for whole batches exists, so one picture
//! alone and a full batch are both asked for.

use crate::model::bundle::KnownEmbedding;
use crate::model::probe_picture::probe_picture;

use super::ImageEncoder;
use super::libraries::brief;
use super::remote::tile_bytes::PixelScale;

/// What [`InferSettings::min_cosine`](super::InferSettings::min_cosine) is if nothing is said. Half precision stays above 0.999, bf16
/// above 0.998; a broken kernel is nowhere near.
pub const MIN_COSINE: f32 = 0.99;

/// A picture and the embeddings that count as right for it, L2-normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReference {
    seed: u64,
    /// Height and width.
    size: (usize, usize),
    answers: Vec<Answer>,
    source: &'static str,
    /// Its pictures are those that whole numbers from 0 to 255 can say, for who is sent bytes.
    rounding: Option<PixelScale>,
}

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    embedding: Vec<f32>,
    least: f32,
}

impl ProbeReference {
    /// What the bundle says about itself; `None` where it says nothing about pictures of `size`.
    ///
    /// The bundle knows its embedding in 32 bits, and for other precisions the one of its own arithmetic. A provider may agree with
    /// either: one that unpacks 8-bit weights and computes in floats is nearer to the first, one that adds bytes to the second.
    /// Bundles of before know the first alone, and how far their own arithmetic is from it; then both distances add up.
    pub fn of_bundle(known: Option<&KnownEmbedding>, size: (usize, usize), min_cosine: f32) -> Option<Self> {
        let known = known.filter(|known| size == (known.image_size, known.image_size))?;
        let least = match (&known.own, known.own_cosine) {
            (None, Some(cosine)) => (min_cosine.clamp(-1.0, 1.0).acos() + cosine.clamp(-1.0, 1.0).acos()).cos(),
            _ => min_cosine,
        };
        let mut answers = vec![Answer { embedding: known.embedding.clone(), least }];
        answers.extend(known.own.iter().map(|own| Answer { embedding: own.clone(), least: min_cosine }));
        Some(Self { seed: known.seed, size, answers, source: "the embedding in vtagd.json", rounding: None })
    }

    /// What `cpu` computes.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn of_cpu(cpu: &mut dyn ImageEncoder, size: (usize, usize), min_cosine: f32) -> Result<Self, String> {
        Self::computed(cpu, size, min_cosine, None)
    }

    /// What `encoder` computes, of the pictures that bytes can say where there is a `rounding`.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn computed(
        encoder: &mut dyn ImageEncoder,
        size: (usize, usize),
        least: f32,
        rounding: Option<PixelScale>,
    ) -> Result<Self, String> {
        let mut made = Self::remembered(Vec::new(), size, least, rounding);
        let mut embedding = Vec::new();
        encoder.encode(&made.picture(0), 1, &mut embedding).map_err(|e| e.to_string())?;
        made.answers = vec![Answer { embedding, least }];
        Ok(made)
    }

    /// As [`Self::computed`], where that was done before.
    pub fn remembered(embedding: Vec<f32>, size: (usize, usize), least: f32, rounding: Option<PixelScale>) -> Self {
        let answers = vec![Answer { embedding, least }];
        Self { seed: 1, size, answers, source: "what the CPU computes", rounding }
    }

    /// The same embedding for a picture that bytes can say.
    pub fn as_bytes(self, affine: PixelScale) -> Self {
        Self { rounding: Some(affine), ..self }
    }

    /// The embedding that counts most.
    pub fn embedding(&self) -> &[f32] {
        self.answers.first().map_or(&[], |answer| &answer.embedding)
    }

    /// The known picture, and others like it.
    pub fn picture(&self, index: u64) -> Vec<f32> {
        let pixels = picture(self.size, self.seed + index);
        match &self.rounding {
            Some(affine) => affine.rounded(&pixels, self.size.0 * self.size.1),
            None => pixels,
        }
    }

    /// Runs the picture alone, and first in a batch of each of `batches`; the least cosine.
    ///
    /// # Errors
    /// A run that fails, and an embedding that is another one.
    pub fn check(&self, encoder: &mut dyn ImageEncoder, batches: &[usize]) -> Result<f32, String> {
        let mut worst = f32::INFINITY;
        for count in std::iter::once(1).chain(batches.iter().copied().filter(|count| *count > 1)) {
            let pictures = count as u64;
            let pixels: Vec<f32> = (0..pictures).flat_map(|index| self.picture(index)).collect();
            let mut embeddings = Vec::new();
            encoder.encode(&pixels, count, &mut embeddings).map_err(|e| {
                format!("the probe picture in a batch of {count} cannot be computed: {}", brief(&e.to_string()))
            })?;
            worst = worst.min(self.agree(&embeddings, count)?);
        }
        Ok(worst)
    }

    /// Whether the first of `count` embeddings is that of the known picture; its cosine.
    ///
    /// # Errors
    /// That it is another one.
    pub fn agree(&self, embeddings: &[f32], count: usize) -> Result<f32, String> {
        let ours = embeddings.get(..embeddings.len() / count.max(1)).unwrap_or_default();
        let cosine = |answer: &Answer| {
            if ours.len() != answer.embedding.len() {
                return f32::NAN;
            }
            ours.iter().zip(&answer.embedding).map(|(a, b)| a * b).sum()
        };
        let found: Vec<(f32, f32)> = self.answers.iter().map(|answer| (cosine(answer), answer.least)).collect();
        // Comparisons with NaN are false, so an embedding that is not a number agrees with nothing.
        let agreed = found.iter().filter(|(cosine, least)| cosine >= least).map(|(cosine, _)| *cosine);
        if let Some(best) = agreed.reduce(f32::max) {
            return Ok(best);
        }
        let (cosine, least) = found.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a }).unwrap_or((f32::NAN, 1.0));
        Err(format!(
            "it computes something else than {} (cosine {cosine:.4} on the probe picture in a batch of {count}, at least {least:.4} is needed)",
            self.source
        ))
    }
}

/// A probe picture of any size: our import's where it is square.
fn picture((height, width): (usize, usize), seed: u64) -> Vec<f32> {
    let mut pixels = probe_picture(height.max(width), seed);
    pixels.truncate(3 * height * width);
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::{InferError, Provider};

    const SIZE: (usize, usize) = (4, 4);

    /// Gives `alone` for one picture and `together` for each picture of a batch.
    struct Fake {
        alone: [f32; 2],
        together: Result<[f32; 2], &'static str>,
        runs: Vec<(usize, Vec<f32>)>,
    }

    impl Fake {
        fn new(alone: [f32; 2], together: Result<[f32; 2], &'static str>) -> Self {
            Self { alone, together, runs: Vec::new() }
        }
    }

    impl ImageEncoder for Fake {
        fn dim(&self) -> usize {
            2
        }

        fn provider(&self) -> Provider {
            Provider::Cuda
        }

        fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
            assert_eq!(pixels.len(), count * 3 * 16);
            self.runs.push((count, pixels[..48].to_vec()));
            embeddings.clear();
            let row = if count == 1 { self.alone } else { self.together.map_err(|e| InferError::Run(e.into()))? };
            (0..count).for_each(|_| embeddings.extend(row));
            Ok(())
        }
    }

    fn known(own: Option<[f32; 2]>, own_cosine: Option<f32>) -> KnownEmbedding {
        KnownEmbedding {
            seed: 5,
            image_size: 4,
            embedding: vec![0.6, 0.8],
            own: own.map(|own| own.to_vec()),
            own_cosine,
        }
    }

    fn reference(known: &KnownEmbedding) -> ProbeReference {
        ProbeReference::of_bundle(Some(known), SIZE, MIN_COSINE).unwrap()
    }

    #[test]
    fn a_provider_that_agrees_is_taken_and_one_that_does_not_is_refused_with_the_number() {
        let right = reference(&known(None, None));
        let mut fake = Fake::new([0.6, 0.8], Ok([0.6, 0.8]));
        assert!((right.check(&mut fake, &[8]).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(fake.runs.iter().map(|run| run.0).collect::<Vec<_>>(), [1, 8]);
        assert!(
            fake.runs.iter().all(|run| run.1 == probe_picture(4, 5)),
            "it is the bundle's own picture, first in each batch"
        );

        let told = right.check(&mut Fake::new([0.8, 0.6], Ok([0.6, 0.8])), &[]).unwrap_err();
        assert!(
            told.contains("cosine 0.9600") && told.contains("at least 0.9900") && told.contains("vtagd.json"),
            "{told}"
        );
        assert!(right.check(&mut Fake::new([f32::NAN, 0.0], Ok([0.6, 0.8])), &[]).is_err());
        let mut longer = right.clone();
        longer.answers[0].embedding.push(0.0);
        assert!(longer.check(&mut Fake::new([0.6, 0.8], Ok([0.6, 0.8])), &[]).is_err());
    }

    #[test]
    fn a_provider_that_is_right_alone_and_wrong_in_a_batch_is_refused() {
        let right = reference(&known(None, None));
        let told = right.check(&mut Fake::new([0.6, 0.8], Ok([1.0, 0.0])), &[8]).unwrap_err();
        assert!(told.contains("batch of 8"), "{told}");
        let told = right.check(&mut Fake::new([0.6, 0.8], Err("out of memory")), &[8]).unwrap_err();
        assert!(told.contains("out of memory") && told.contains("batch of 8"), "{told}");
    }

    #[test]
    fn a_quantised_bundle_is_compared_with_its_own_arithmetic_or_with_32_bits_whichever_is_nearer() {
        let own = [0.8, 0.6];
        let both = reference(&known(Some(own), Some(0.96)));
        assert!(both.check(&mut Fake::new(own, Ok(own)), &[]).is_ok());
        assert!(both.check(&mut Fake::new([0.6, 0.8], Ok(own)), &[]).is_ok());
        assert!(both.check(&mut Fake::new([1.0, 0.0], Ok(own)), &[]).is_err());
    }

    #[test]
    fn a_bundle_that_only_knows_how_far_it_is_from_32_bits_may_be_as_far_and_no_further() {
        let old = reference(&known(None, Some(0.96)));
        assert!(old.check(&mut Fake::new([0.8, 0.6], Ok([0.0, 0.0])), &[]).is_ok());
        // acos(0.96) + acos(0.99) is 24.4 degrees.
        let told = old.check(&mut Fake::new([1.0, 0.0], Ok([0.0, 0.0])), &[]).unwrap_err();
        assert!(told.contains("at least 0.9109"), "{told}");
    }

    #[test]
    fn what_the_bundle_says_about_pictures_of_another_size_is_no_reference() {
        assert_eq!(ProbeReference::of_bundle(Some(&known(None, None)), (4, 6), MIN_COSINE), None);
        assert_eq!(ProbeReference::of_bundle(None, SIZE, MIN_COSINE), None);
        let cpu = ProbeReference::of_cpu(&mut Fake::new([0.6, 0.8], Ok([0.6, 0.8])), SIZE, MIN_COSINE).unwrap();
        let told = cpu.check(&mut Fake::new([0.0, 1.0], Ok([0.6, 0.8])), &[]).unwrap_err();
        assert!(told.contains("what the CPU computes (cosine 0.8000"), "{told}");
    }
}
