//! The newcomer's first command: a whole call with the embedded agent, by the program itself.

use std::process::Command;

/// Everything is asserted by the program, in `cli/demo/verdict.rs`; here it has to say so, and to leave the call behind.
#[test]
fn the_demonstration_shows_a_call_from_beginning_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("call.wav");
    let output = Command::new(env!("CARGO_BIN_EXE_hark"))
        .args(["demo", "--save"])
        .arg(&wav)
        .current_dir(dir.path())
        // settings of a gateway on this machine are not those of the demonstration, nor are its models
        .env("XDG_DATA_HOME", dir.path())
        .env("PORT", "1")
        .env("STS_URL", "ws://127.0.0.1:1")
        // and what is on loopback is reached past any proxy
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for line in ["event   call_started", "event   interruption", "caller  presses 5", "event   call_ended"] {
        assert!(out.contains(line), "{line:?} is missing in\n{out}");
    }
    let call = hound::WavReader::open(&wav).unwrap();
    assert_eq!(call.spec().channels, 2);
    assert!(call.duration() > 10 * call.spec().sample_rate);
}

/// A demonstration that is cut short has not shown what it was to show, and says so.
#[test]
fn a_demonstration_cut_short_fails_with_the_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hark"))
        .args(["demo", "--seconds", "1"])
        .current_dir(dir.path())
        .env("XDG_DATA_HOME", dir.path())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("not shown: it hung up (the caller hung up)"), "{err}");
    assert!(dir.path().join("hark-demo.wav").exists());
}
