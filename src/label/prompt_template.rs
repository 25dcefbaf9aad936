//! Templates: texts with a place for a prompt, such as "a photo of {}". Pure; whoever reads one checks it here, be it from a
//! label set or from the command line.

use vtagd_pictures::rows::normalise;

/// What a prompt replaces.
pub const SLOT: &str = "{}";

/// What to do about a template with a problem.
pub const REMEDY: &str = "put {} once, where the prompt goes, and the template in quotes: \"a photo of {}\"";

/// What is wrong with `template`, if anything is: it must hold `{}` exactly once.
pub fn problem(template: &str) -> Option<String> {
    match template.matches(SLOT).count() {
        1 => None,
        0 => Some("has no {}".to_owned()),
        count => Some(format!("has {{}} {count} times")),
    }
}

/// `prompt` in each of `templates`, or as it is when there are none.
pub fn apply<'a>(templates: &'a [String], prompt: &'a str) -> impl Iterator<Item = String> + 'a {
    let bare = templates.is_empty().then(|| prompt.to_owned());
    templates.iter().map(move |template| template.replacen(SLOT, prompt, 1)).chain(bare)
}

/// Prompt ensembling (Radford et al. 2021, section 3.1.4): the mean of L2-normalised embeddings of `dim` values, normalised
/// again. `None` when they cancel out, or there are none.
pub fn mean<'a>(embeddings: impl Iterator<Item = &'a Vec<f32>>, dim: usize) -> Option<Vec<f32>> {
    let mut mean = vec![0.0; dim];
    for embedding in embeddings {
        mean.iter_mut().zip(embedding).for_each(|(sum, value)| *sum += value);
    }
    normalise(&mut mean).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_holds_its_place_exactly_once() {
        assert_eq!(problem("a photo of {}"), None);
        assert_eq!(problem("a photo of {"), Some("has no {}".to_owned()));
        assert_eq!(problem("{} {}{}"), Some("has {} 3 times".to_owned()));
    }

    #[test]
    fn a_prompt_with_braces_of_its_own_is_put_in_as_it_is() {
        let templates = ["a {}.".to_owned(), "{}".to_owned()];
        assert_eq!(apply(&templates, "{} sign").collect::<Vec<_>>(), ["a {} sign.", "{} sign"]);
        assert_eq!(apply(&[], "cat").collect::<Vec<_>>(), ["cat"]);
    }

    #[test]
    fn embeddings_that_cancel_out_have_no_mean() {
        assert_eq!(mean([vec![1.0, 0.0], vec![-1.0, 0.0]].iter(), 2), None);
        assert_eq!(mean([].iter(), 2), None);
        assert_eq!(mean([vec![3.0, 4.0]].iter(), 2), Some(vec![0.6, 0.8]));
    }
}
