//! `sipwake completions` and `sipwake man`: what a shell and a reader of manuals want, made from the commands themselves.
//!
//! Invariant: nothing is written but what was asked for.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::CommandError;

/// Print completions for a shell
#[derive(Args)]
pub struct Completions {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Write man pages, one for each command
#[derive(Args)]
pub struct Man {
    /// The folder that they are written into; made when it is not there
    directory: PathBuf,
}

/// Prints completions of `command`.
///
/// # Errors
/// [`CommandError::Output`] when nothing can be printed.
pub fn completions(arguments: &Completions, mut command: Command) -> Result<(), CommandError> {
    let shell = match arguments.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "sipwake", &mut text);
    Ok(std::io::Write::write_all(&mut std::io::stdout(), &text)?)
}

/// Writes the pages of `command`.
///
/// # Errors
/// [`CommandError::File`] when one cannot be written.
pub fn man(arguments: &Man, command: Command) -> Result<(), CommandError> {
    let written = std::fs::create_dir_all(&arguments.directory)
        .and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), &arguments.directory));
    written.map_err(|why| CommandError::NotWritten { file: arguments.directory.clone(), why })
}
