//! From a checkpoint's own tensors to the canonical ones. In: an architecture, the raw tensors and a layout's table of names;
//! out: a [`TensorStore`] that holds exactly what the architecture needs, or one error with every tensor that is missing, left
//! over or of another shape.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bytes::shown;
use super::raw::RawStore;
use super::{Architecture, ImportError, TensorInfo, TensorStore, canonical};

/// Most problems that are listed: more than the tensors of any published model.
const MAX_PROBLEMS: usize = 4096;

/// How a canonical tensor is cut out of the one in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Whole,
    /// Rows of a fused projection: part 0, 1 or 2 of three.
    Third(usize),
    /// Rows of a fused projection of keys and values: part 0 or 1.
    Half(usize),
    /// The first rows of this many.
    FirstOf(usize),
    /// So many dimensions of one element come first in the file.
    Boxed(usize),
    /// `[in, out]` in the file.
    Transposed,
}

/// The name in the file and the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) cut: Cut,
}

impl Origin {
    pub(super) fn whole(name: String) -> Self {
        Self { name, cut: Cut::Whole }
    }

    /// The shape in the file of a tensor that has `shape` here.
    fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut there = shape.to_vec();
        match self.cut {
            Cut::Whole => {}
            Cut::Third(_) | Cut::Half(_) => {
                if let Some(rows) = there.first_mut() {
                    *rows *= if matches!(self.cut, Cut::Half(_)) { 2 } else { 3 };
                }
            }
            Cut::FirstOf(all) => {
                if let Some(rows) = there.first_mut() {
                    *rows = all;
                }
            }
            Cut::Boxed(ones) => drop(there.splice(0..0, std::iter::repeat_n(1, ones))),
            Cut::Transposed => there.reverse(),
        }
        there
    }
}

/// The canonical tensors of a checkpoint, read from its files when they are asked for.
pub(super) struct Canonical {
    raw: RawStore,
    infos: Vec<TensorInfo>,
    origins: BTreeMap<String, Origin>,
}

impl std::fmt::Debug for Canonical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors in {} files", self.infos.len(), self.raw.parts.len())
    }
}

impl TensorStore for Canonical {
    fn infos(&self) -> Vec<TensorInfo> {
        self.infos.clone()
    }

    fn verify(&self, advance: &mut dyn FnMut() -> Result<(), ImportError>) -> Result<(), ImportError> {
        self.raw.verify(advance)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        let origin = self.origins.get(name);
        let Some(origin) = origin else { return self.raw.read(name, None) };
        match origin.cut {
            Cut::Whole | Cut::Boxed(_) => self.raw.read(&origin.name, None),
            Cut::Third(part) | Cut::Half(part) => {
                let parts = if matches!(origin.cut, Cut::Half(_)) { 2 } else { 3 };
                let rows = self.rows(&origin.name) / parts;
                self.raw.read(&origin.name, Some(part * rows..(part + 1) * rows))
            }
            Cut::FirstOf(_) => {
                let rows =
                    self.infos.iter().find(|info| info.name == name).and_then(|info| info.shape.first().copied());
                self.raw.read(&origin.name, Some(0..rows.unwrap_or(0)))
            }
            Cut::Transposed => {
                let values = self.raw.read(&origin.name, None)?;
                Ok(transposed(&values, self.rows(&origin.name)))
            }
        }
    }
}

impl Canonical {
    fn rows(&self, name: &str) -> usize {
        self.raw.tensors.get(name).and_then(|t| t.shape.first().copied()).unwrap_or(0)
    }
}

/// The transpose of a row-major matrix of `rows` rows.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len().checked_div(rows).unwrap_or(0);
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

/// Matches `raw` with what `architecture` needs. `problems` are those found before, `used` the tensors read before.
///
/// # Errors
/// [`ImportError::Mismatch`] with everything that does not fit; the first tensor that cannot be read.
pub(super) fn canonical(
    architecture: &Architecture,
    raw: RawStore,
    file: &Path,
    origin: impl Fn(&str) -> Origin,
    mut problems: Vec<String>,
    used: &[&str],
) -> Result<Canonical, ImportError> {
    let mut used: BTreeSet<String> = used.iter().map(|name| (*name).to_owned()).collect();
    let mut store = Canonical { raw, infos: Vec::new(), origins: BTreeMap::new() };
    for (name, shape) in canonical::tensors(architecture) {
        let origin = origin(&name);
        let wanted = origin.shape(&shape);
        used.insert(origin.name.clone());
        match store.raw.tensors.get(&origin.name) {
            None => problems.push(format!("`{}` {wanted:?} is missing", origin.name)),
            Some(found) if found.shape != wanted => {
                let (name, found) = (&origin.name, &found.shape);
                problems.push(format!("`{name}` has the shape {found:?}, the configuration says {wanted:?}"));
            }
            Some(found) => {
                if let Some(dtype) = found.element.dtype() {
                    store.infos.push(TensorInfo { name: name.clone(), dtype, shape });
                }
                store.origins.insert(name, origin);
            }
        }
    }
    for (name, tensor) in &store.raw.tensors {
        if !used.contains(name) && !is_harmless(name) {
            problems.push(format!("`{}` {:?} is not part of this model", shown(name), tensor.shape));
        }
    }
    // A projection cut in three is named once a part.
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    if !problems.is_empty() {
        return Err(ImportError::Mismatch { file: file.to_owned(), problems });
    }
    for origin in store.origins.values() {
        store.raw.check(&origin.name)?;
    }
    Ok(store)
}

/// Buffers that older versions saved beside the parameters: they can be computed and nobody needs them.
fn is_harmless(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| matches!(last, "position_ids" | "attn_mask"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_transposed() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(transposed(&[], 0), [0.0; 0]);
    }
}
