//! Peers that are none, or more than one takes.

use super::*;

#[tokio::test]
async fn junk_costs_the_call_nothing() {
    let (mut phone, mut leg, listener) = call().await;
    let mut samples = vec![0x11_u8; 65_535];
    samples[65_534] = 0x7f;
    let junk = [
        raw(0x10, &[]),
        raw(0x18, &[]),
        raw(0x42, &[0; 65_535]),
        raw(0x02, &[]),
        raw(0x03, b"xx"),
        raw(0x03, b"\n"),
        raw(0x01, &[9; 16]),
        raw(0x01, &[]),
        raw(0x10, &samples),
    ];
    let writer = tokio::spawn(async move {
        phone.write(&junk.concat()).await;
        phone.write(&audio(&numbered(Rate::R8K, 5))).await;
        phone.stream.shutdown().await.unwrap();
        phone
    });
    // 32,767 samples are 204 frames and 127 samples, which the next frame completes
    for _ in 0..204 {
        assert_eq!(next_audio(&mut leg).await.samples(), [0x1111; 160]);
    }
    let frame = next_audio(&mut leg).await;
    assert_eq!(frame.samples()[..127], [0x1111; 127]);
    assert_eq!(frame.samples()[127..], numbered(Rate::R8K, 5).samples()[..33]);
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);
    let stats = listener.stats();
    assert_eq!((stats.unknown_kinds.get(), stats.bad_frames.get(), stats.odd_frames.get()), (2, 6, 1));
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn compressed_audio_is_left_out() {
    let bytes: Vec<u8> = [33, 33, 90, 33].into_iter().flat_map(|len| raw(0x10, &vec![0x5a; len])).collect();
    let (mut phone, mut leg, listener) = call_with(&config(), &[bytes, raw(0x03, b"7")].concat()).await;
    assert!(matches!(leg.next().await, Some(LegEvent::Dtmf(_))), "not a sound");
    assert_eq!(listener.stats().foreign_frames.get(), 4);
    phone.write(&audio(&numbered(Rate::R8K, 5))).await;
    assert_eq!(next_audio(&mut leg).await, numbered(Rate::R8K, 5));
}

#[tokio::test]
async fn a_burst_gives_others_their_turn() {
    let (mut phone, mut leg, _listener) = call().await;
    let writer = tokio::spawn(async move {
        for number in 0..3000 {
            phone.write(&audio(&numbered(Rate::R8K, number))).await;
        }
        phone
    });
    let (mut frames, mut in_a_row) = (0, 0);
    while frames < 3000 {
        match futures_util::poll!(leg.next()) {
            Poll::Ready(Some(LegEvent::Audio(frame))) => {
                assert_eq!(frame, numbered(Rate::R8K, frames));
                frames += 1;
                in_a_row += 1;
                assert!(in_a_row <= 8, "the burst of one caller holds up the thread");
            }
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    drop(writer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_can_be_held_on_another_runtime() {
    let config = config();
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::connect(&listener).await;
    let pending = listener.accept().await;
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut leg = pending.identify(&config).await.unwrap().into_leg().await;
            let frame = next_audio(&mut leg).await;
            assert!(matches!(leg.send(LegCommand::Audio(frame)), Sent::Whole));
            hangup_of(&mut leg).await
        })
    });
    let frame = audio(&numbered(Rate::R16K, 3));
    phone.write(&[uuid_frame(), frame.clone()].concat()).await;
    assert_eq!(phone.read().await, Some((0x12, frame[3..].to_vec())));
    drop(phone);
    assert_eq!(thread.join().unwrap(), Cause::Normal);
}
