//! Which provider it will be: the first of the list that works, and why the others did not. Pure.
//!
//! Comes in: the list and something that opens one. Goes out: what was opened with everything that was refused before it, so
//! that nobody has to guess why a slower one computes. Nothing falls back by itself: only what the list names is tried.

use serde::Serialize;
use tracing::warn;

use super::options::ProviderChoice;
use super::{InferError, Provider};

/// A provider that was wanted and does not compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub provider: Provider,
    pub reason: String,
}

/// The first of `choices` that `open` opens, and what was refused before. With `strict` only the first is tried.
///
/// # Errors
/// What the CPU says, because what it cannot read nobody can; [`InferError::Provider`] with all reasons when none works.
pub fn first_that_works<T>(
    choices: &[ProviderChoice],
    strict: bool,
    open: &mut dyn FnMut(&ProviderChoice) -> Result<T, InferError>,
) -> Result<(T, Vec<Refused>), InferError> {
    let mut refused: Vec<Refused> = Vec::new();
    for choice in if strict { choices.get(..1).unwrap_or_default() } else { choices } {
        let provider = choice.provider();
        match open(choice) {
            Ok(opened) => return Ok((opened, refused)),
            Err(error) if provider == Provider::Cpu => return Err(error),
            Err(error) => {
                warn!(provider = provider.as_str(), %error, "provider refused");
                refused.push(Refused { provider, reason: error.to_string() });
            }
        }
    }
    let advice = if strict {
        "`runtime.strict` allows no other; install what it needs or set strict: false"
    } else {
        "add `cpu` at the end of `runtime.providers`, or install what they need"
    };
    let reasons: Vec<_> = refused.iter().map(|r| format!("{}: {}", r.provider.as_str(), r.reason)).collect();
    Err(InferError::Provider(format!("no execution provider works ({}); {advice}", reasons.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Provider; 4] = [Provider::Tensorrt, Provider::Cuda, Provider::Openvino, Provider::Cpu];

    type FrameOutcome = Result<(Provider, Vec<Refused>), InferError>;

    /// Tries `list` on a machine where only `working` work; what was opened, and what was asked for.
    fn select(list: &[Provider], strict: bool, working: &[Provider]) -> (FrameOutcome, Vec<Provider>) {
        let choices: Vec<ProviderChoice> = list.iter().map(|provider| (*provider).into()).collect();
        let mut asked = Vec::new();
        let outcome = first_that_works(&choices, strict, &mut |choice| {
            asked.push(choice.provider());
            if working.contains(&choice.provider()) {
                return Ok(choice.provider());
            }
            Err(InferError::Provider(format!("no {}", choice.provider().as_str())))
        });
        (outcome, asked)
    }

    #[test]
    fn the_first_that_works_is_taken_and_the_others_are_told_in_order() {
        let (outcome, asked) = select(&ALL, false, &[Provider::Openvino, Provider::Cpu]);
        let (opened, refused) = outcome.unwrap();
        assert_eq!(opened, Provider::Openvino);
        let told: Vec<_> = refused.iter().map(|r| (r.provider, r.reason.as_str())).collect();
        assert_eq!(told, [(Provider::Tensorrt, "no tensorrt"), (Provider::Cuda, "no cuda")]);
        assert_eq!(asked, ALL[..3], "nothing is tried after it");
    }

    #[test]
    fn strict_means_the_first_or_nothing() {
        let (outcome, asked) = select(&ALL, true, &[Provider::Cpu]);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("no tensorrt") && error.contains("runtime.strict"), "{error}");
        assert_eq!(asked, [Provider::Tensorrt]);
    }

    #[test]
    fn the_cpu_is_never_taken_where_the_list_does_not_name_it() {
        let (outcome, asked) = select(&ALL[..3], false, &[Provider::Cpu]);
        let error = outcome.unwrap_err();
        assert!(matches!(error, InferError::Provider(_)));
        for told in ["no tensorrt", "no cuda", "no openvino", "add `cpu` at the end"] {
            assert!(error.to_string().contains(told), "{error}");
        }
        assert_eq!(asked, ALL[..3]);
    }

    #[test]
    fn what_the_cpu_says_is_about_the_model_and_is_told_as_it_is() {
        let choices = ALL.map(ProviderChoice::from);
        let outcome: Result<((), _), _> = first_that_works(&choices[2..], false, &mut |choice| {
            Err(match choice.provider() {
                Provider::Cpu => InferError::Model("x.onnx is damaged".into()),
                _ => InferError::Provider("absent".into()),
            })
        });
        assert!(matches!(outcome.unwrap_err(), InferError::Model(message) if message == "x.onnx is damaged"));
    }
}
