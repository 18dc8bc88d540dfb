//! `completion`: scripts for shells.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::{
    arguments::{Arguments, CompletionShell},
    failure::Failure,
    output::Output,
};

/// Prints the script for a shell.
pub(crate) fn run(shell: CompletionShell, output: &mut Output<'_>) -> Result<(), Failure> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    // It is written whole, because the generator does not expect that writing fails.
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "sunbearctl", &mut script);
    output.out.write_all(&script)?;
    Ok(())
}
