//! `carebell completions` and `carebell manual`: for shells and for `man`, made from the commands themselves.

use std::{fs, path::PathBuf};

use clap::Command;
use clap_complete::Shell;

use super::{
    examples,
    failed::Failed,
    print::{print, say},
};

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Manual {
    /// Where the pages go, one for each command; the directory is made
    dir: PathBuf,
}

/// Of this command.
pub(super) fn completions(args: &Completions, mut command: Command) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "carebell", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}

/// Of this command.
pub(super) fn manual(args: &Manual, command: Command) -> Result<(), Failed> {
    let place = |error| Failed(format!("{}: {error}", args.dir.display()));
    fs::create_dir_all(&args.dir).map_err(place)?;
    let count = examples::leaves(&command).len();
    clap_mangen::generate_to(command, &args.dir).map_err(place)?;
    say!("{count} commands: `man {}/carebell.1`", args.dir.display());
    Ok(())
}
