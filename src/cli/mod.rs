//! Commands, one file each. `main` parses the command line and calls them; `anyhow` stays here and there.

pub mod check;
