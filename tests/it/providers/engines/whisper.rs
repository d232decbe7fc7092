//! Whisper by faster-whisper: behind OpenAI's interface (`tests/sdk/whisper_server.py`), and by its own Wyoming server.

use super::{caller, is_right, understood};
use crate::{
    embedded::prompt,
    support::engines::{Engine, free_port, listening, module, whisper},
};

#[tokio::test(flavor = "multi_thread")]
async fn faster_whisper_behind_openais_interface_understands_people_in_a_call() {
    let Some(engine) = Engine::whisper().await else { return };
    let (hello, said) = caller();
    let heard = understood(&engine.as_openai(), &[hello, prompt("transfer")]).await;
    is_right(&heard, &format!("{said} please hold while i try that extension"));
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
    let _engine = module(&python, &arguments.concat());
    listening(port).await;
    let heard = understood(&format!("wyoming:{uri}?language=en"), &[prompt("transfer"), prompt("vm-sorry")]).await;
    is_right(&heard, "please hold while i try that extension i'm sorry i did not understand your response");
}
