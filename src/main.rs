//! The `vtagd` program. Everything is in the library; see [`vtagd::cli`].

fn main() -> std::process::ExitCode {
    vtagd::cli::main()
}
