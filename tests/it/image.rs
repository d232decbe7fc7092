//! The container image, built by `docker/Dockerfile` without a registry and started with avr-infra's environment.

use std::{
    io::{Write as _, stderr},
    process::Command,
};

/// Everything is asserted by the script, which is also there to be run by hand. Where there is no builder it says why, and so does this
/// test: nextest is told to show its output whatever comes of it (`.config/nextest.toml`).
#[test]
fn the_image_serves_with_the_environment_of_avr_infra_and_stops_in_time() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/test-image.sh");
    let output = Command::new(script).arg(env!("CARGO_BIN_EXE_hark")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => assert!(out.ends_with("image: ok: all\n"), "{out}\n{err}"),
        Some(77) => writeln!(stderr(), "\n**** SKIPPED: the container image has not been tested ****\n{err}").unwrap(),
        code => panic!("{code:?}\n{out}\n{err}"),
    }
}
