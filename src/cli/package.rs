//! `vtagd package-files`: what a package needs beside the binary and can be had from the command line's definition alone. Writes
//! `man/*.1`, one page a command, and completions for bash, zsh and fish into a folder that it makes. On the main thread; `make deb`
//! is its only caller.

use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write into.
    folder: PathBuf,
}

/// Writes the files for `command`; the exit code.
pub fn run(args: &Args, command: clap::Command) -> u8 {
    match write(&args.folder, command) {
        Ok(()) => 0,
        Err(error) => {
            super::complain(&format!("cannot write into {}: {error}", args.folder.display()));
            1
        }
    }
}

fn write(folder: &Path, command: clap::Command) -> io::Result<()> {
    let pages = folder.join("man");
    std::fs::create_dir_all(&pages)?;
    let mut command = visible(command);
    clap_mangen::generate_to(command.clone(), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "vtagd", folder)?;
    }
    Ok(())
}

/// Without the commands that are not for people: completions would offer them.
pub(super) fn visible(command: clap::Command) -> clap::Command {
    let mut kept = clap::Command::new("vtagd").version(env!("CARGO_PKG_VERSION")).max_term_width(100);
    if let Some(about) = command.get_about() {
        kept = kept.about(about.clone());
    }
    kept.args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_for_people_has_a_page_and_the_others_have_none() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), crate::cli::Cli::command()).unwrap();
        let mut pages: Vec<String> = std::fs::read_dir(folder.path().join("man"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        for wanted in ["vtagd.1", "vtagd-run.1", "vtagd-check.1", "vtagd-model-import.1"] {
            assert!(pages.iter().any(|page| page == wanted), "{wanted}: {pages:?}");
        }
        let all = crate::cli::Cli::command();
        let hidden: Vec<&str> =
            all.get_subcommands().filter(|c| c.is_hide_set()).map(clap::Command::get_name).collect();
        assert!(hidden.len() >= 3, "{hidden:?}");
        for name in &hidden {
            assert!(!pages.contains(&format!("vtagd-{name}.1")), "{pages:?}");
            for shell in ["vtagd.bash", "_vtagd", "vtagd.fish"] {
                let text = std::fs::read_to_string(folder.path().join(shell)).unwrap();
                // Functions of the completions are called after commands: `vtagd__bench` is that of `bench`.
                let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_');
                assert!(text.contains("discover") && !words.any(|word| word == *name), "{shell} offers {name}");
            }
        }
        let page = std::fs::read_to_string(folder.path().join("man/vtagd-run.1")).unwrap();
        assert!(page.contains("SIGTERM or Ctrl\\-C") || page.contains("SIGTERM or Ctrl-C"), "{page}");
    }
}
