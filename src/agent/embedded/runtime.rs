//! ONNX Runtime, loaded from a file when it is first needed.

use std::{path::Path, sync::Mutex, sync::PoisonError};

use ort::{environment::Environment, session::Session};

use super::EngineError;

/// There can be one environment in a process, says ONNX Runtime: this is the one thing here that is not the gateway's own.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads the library at `library` unless that has been done. A process has one: another file than the first is not looked at.
pub fn environment(library: &Path) -> Result<Environment, EngineError> {
    let mut loaded = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let broken = |error: String| EngineError::Runtime { path: library.to_owned(), reason: error };
    let builder = ort::init_from(library).map_err(|error| broken(error.to_string()))?;
    let environment =
        builder.with_name("hark").with_telemetry(false).build().map_err(|error| broken(error.to_string()))?;
    *loaded = Some(environment.clone());
    Ok(environment)
}

/// Opens a model for one thread, which is all that it ever uses: calls share the machine.
pub fn session(environment: &Environment, model: &Path) -> Result<Session, EngineError> {
    let open = || -> Result<Session, String> {
        let builder = Session::builder(environment).map_err(|error| error.to_string())?;
        let builder = builder.with_intra_threads(1).map_err(|error| error.to_string())?;
        let mut builder = builder.with_inter_threads(1).map_err(|error| error.to_string())?;
        builder.commit_from_file(model).map_err(|error| error.to_string())
    };
    open().map_err(|reason| EngineError::Model { path: model.to_owned(), reason })
}
