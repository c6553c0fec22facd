//! `allidb man` and `allidb completions`: what the command line says of itself, for `man` and for shells.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;

use crate::output::Output;

/// Writes a page for `man` of each command.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages go, such as /usr/local/share/man/man1. Made, if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints a script that has a shell complete commands and options.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs `man`.
pub(crate) fn man(args: ManArgs, command: Command, output: Output) -> Result<()> {
    let written = write_pages(command, &args.dir)
        .with_context(|| format!("cannot write pages to {}", args.dir.display()))?;
    let told = format!("{written} pages written to {}", args.dir.display());
    output.either(told, json!({ "dir": args.dir, "pages": written }))?;
    Ok(())
}

/// Runs `completions`.
pub(crate) fn completions(args: CompletionsArgs, command: Command, output: Output) -> Result<()> {
    // Written to memory first: to a pipe that nobody reads any more this would panic.
    output.line(script(args.shell, command).trim_end())?;
    Ok(())
}

fn script(shell: Shell, mut command: Command) -> String {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// How many pages were written.
fn write_pages(command: Command, dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let pages = commands(&command).len();
    clap_mangen::generate_to(command, dir)?;
    Ok(pages)
}

/// The names of a command and all those beneath it, as their pages are called: `allidb-cluster-layout`.
fn commands(command: &Command) -> Vec<String> {
    let mut names = vec![command.get_name().to_owned()];
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        names.extend(commands(inner).into_iter().map(|name| format!("{}-{name}", command.get_name())));
    }
    names
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};
    use tempfile::TempDir;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_has_a_page_that_names_what_is_beneath_it() {
        let dir = TempDir::new().expect("a directory");
        let written = write_pages(Cli::command(), dir.path()).expect("written");
        let names = commands(&Cli::command());
        assert_eq!(written, names.len());
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), names.len());
        for expected in ["allidb", "allidb-doctor", "allidb-top", "allidb-cluster-layout-stage"] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
        }
        for name in &names {
            let page = fs::read_to_string(dir.path().join(format!("{name}.1"))).expect(name);
            assert!(page.contains(".TH "), "{name}: {page}");
            let beneath = names.iter().filter(|other| {
                other.strip_prefix(&format!("{name}-")).is_some_and(|rest| !rest.contains('-'))
            });
            // Roff writes hyphens with a backslash.
            let page = page.replace('\\', "");
            for beneath in beneath {
                assert!(page.contains(beneath.as_str()), "{name} does not name {beneath}: {page}");
            }
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        let command = Cli::command();
        let words = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect::<Vec<_>>();
        assert!(words.len() > 20, "{words:?}");
        for shell in Shell::value_variants() {
            let script = script(*shell, Cli::command());
            for word in &words {
                assert!(script.contains(word.as_str()), "{shell}: {word} is missing");
            }
        }
    }
}
