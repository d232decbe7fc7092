#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::call::Role;

fn recorder(dir: &Path) -> Recorder {
    Recorder::start(dir.to_owned(), None).unwrap()
}

fn tap(at: u64, value: i16, length: usize) -> Tap {
    Tap { at, samples: [value, -value].repeat(length) }
}

/// The samples of both directions.
fn read(path: &Path) -> Vec<i16> {
    let reader = hound::WavReader::open(path).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 8_000));
    reader.into_samples().map(Result::unwrap).collect()
}

/// Waits until the thread has done what was asked before.
async fn sync(recorder: &Recorder) {
    recorder.end(CallId::new()).await.unwrap_err();
}

#[tokio::test]
async fn a_recording_is_a_file_at_every_moment_and_silent_where_pieces_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(&dir.path().join("deep/er"));
    let (call, at) = (CallId::new(), SystemTime::now());
    let path = recorder.dir().join(name(call, "wav"));
    let mut sink = recorder.begin(call, call.into(), Rate::R8K, at).unwrap();
    sync(&recorder).await;
    assert_eq!(read(&path), Vec::<i16>::new());
    sink.take(tap(0, 1_000, 4_000));
    sync(&recorder).await;
    assert_eq!(read(&path).len(), 8_000, "what a killed gateway leaves can be played");
    assert_eq!(sink.spare().unwrap().len(), 8_000, "vectors come back");
    sink.take(tap(12_000, 7, 4_000));
    recorder.said(call, Said { role: Role::User, text: "hello".to_owned(), at });
    sync(&recorder).await;
    let json = fs::read_to_string(recorder.dir().join(name(call, "json"))).unwrap();
    assert!(json.contains("hello"), "a killed gateway leaves the words beside it: {json}");
    let finished = recorder.end(call).await.unwrap();
    let expected = Finished { duration: Duration::from_secs(2), complete: false, transcript: true };
    assert_eq!(finished, expected);
    let samples = read(&path);
    assert_eq!(samples.len(), 32_000);
    assert_eq!(
        (&samples[..2], &samples[8_000..8_002], &samples[24_000..24_002]),
        (&[1_000, -1_000][..], &[0, 0][..], &[7, -7][..])
    );
    let json = fs::read_to_string(recorder.dir().join(name(call, "json"))).unwrap();
    assert!(json.contains("hello") && json.contains(&call.to_string()), "{json}");
    assert!(fs::read_to_string(recorder.dir().join(name(call, "vtt"))).unwrap().starts_with("WEBVTT\n"));
    assert!(recorder.end(call).await.is_err(), "once");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0, "not for everybody");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_costs_the_recording_and_nothing_else() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = recorder(&file.path().join("x"));
    let call = CallId::new();
    let mut sink = recorder.begin(call, call.into(), Rate::R8K, SystemTime::now()).unwrap();
    sink.take(tap(0, 1, 4_000));
    let reason = recorder.end(call).await.unwrap_err();
    assert!(reason.contains(&file.path().display().to_string()), "{reason}");
    assert_eq!(recorder.stats().failed.load(Relaxed), 1);
}

/// `/dev/full` says "no space left on device" to everybody who writes.
#[tokio::test]
async fn a_full_disk_ends_the_recording_and_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let call = CallId::new();
    std::os::unix::fs::symlink("/dev/full", dir.path().join(name(call, "wav"))).unwrap();
    let mut sink = recorder.begin(call, call.into(), Rate::R8K, SystemTime::now()).unwrap();
    for n in 0..100 {
        sink.take(tap(n * 4_000, 1, 4_000));
    }
    let reason = recorder.end(call).await.unwrap_err();
    assert!(reason.contains("No space left"), "{reason}");
    assert_eq!(recorder.stats().failed.load(Relaxed), 1);
}

#[test]
fn a_queue_that_is_full_drops_pieces_and_no_call_waits() {
    let (jobs, _kept) = sync_channel(1);
    let stats = Arc::new(Stats::default());
    let (_spares, spare) = sync_channel(1);
    let mut sink = ToThread { call: CallId::new(), jobs, spare, stats: Arc::clone(&stats), loud: None };
    for n in 0..10 {
        sink.take(tap(n, 1, 1));
    }
    assert_eq!(stats.lost.load(Relaxed), 9);
}

#[test]
fn only_old_recordings_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let [old, open, fresh] = [(); 3].map(|()| CallId::new());
    let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    let write = |name: String, at: SystemTime| {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        file.set_modified(at).unwrap();
    };
    for ending in ["wav", "json", "vtt"] {
        write(name(old, ending), hour_ago);
        write(name(open, ending), hour_ago);
        write(name(fresh, ending), SystemTime::now());
    }
    write("notes.txt".to_owned(), hour_ago);
    let before = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(retention::delete(dir.path(), before, |call| call == open).unwrap(), 3);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 7);
    assert_eq!(retention::delete(&dir.path().join("none"), before, |_| false).unwrap(), 0);
}

#[test]
fn names_lead_nowhere_else() {
    let call = CallId::new();
    for ending in ["wav", "json", "vtt"] {
        assert!(is_name(&name(call, ending)));
    }
    for bad in [
        "",
        "wav",
        ".wav",
        "../x.wav",
        "a.wav",
        &format!("{call}"),
        &format!("{call}.exe"),
        &format!("../{call}.wav"),
        &format!("{call}.wav/"),
    ] {
        assert!(!is_name(bad), "{bad}");
    }
}
