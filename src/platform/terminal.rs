//! Whether somebody looks at what is written, and with what. Pure but for the environment and one system call.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether `out` is a terminal on which colours are wanted: <https://no-color.org>, and no dumb one.
pub fn wants_colours(out: &impl IsTerminal) -> bool {
    out.is_terminal() && !is_dumb() && !is_refused(std::env::var_os("NO_COLOR").as_deref())
}

/// Whether the terminal shows escape sequences instead of following them, as an editor's may.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// An empty value counts as none.
fn is_refused(no_color: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_refuses_no_colours() {
        assert!(is_refused(Some(OsStr::new("1"))) && is_refused(Some(OsStr::new("0"))));
        assert!(!is_refused(Some(OsStr::new(""))) && !is_refused(None));
    }
}
