//! Who is let in, and what becomes of others.

use super::*;

#[tokio::test]
async fn the_oldest_without_a_uuid_is_closed_for_a_newcomer() {
    let config = Config { max_pending: 2, ..config() };
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phones = Vec::new();
    let mut pending = Vec::new();
    for _ in 0..3 {
        phones.push(Phone::connect(&listener).await);
        pending.push(listener.accept().await);
    }
    let oldest = pending.remove(0).identify(&config).await;
    assert!(matches!(oldest, Err(Refused::Evicted)), "{oldest:?}");
    assert_eq!(phones[0].read().await, None);
    for (phone, pending) in phones[1..].iter_mut().zip(pending) {
        phone.write(&uuid_frame()).await;
        pending.identify(&config).await.unwrap().into_leg().await.close().await;
    }
    assert_eq!(listener.stats().evicted.get(), 1);
}

#[tokio::test]
async fn whoever_sends_the_uuid_too_slowly_is_left() {
    let config = Config { uuid_timeout_ms: 100, ..config() };
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::connect(&listener).await;
    let writer = tokio::spawn(async move {
        for byte in &uuid_frame()[..18] {
            let _ = phone.stream.write_all(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        phone
    });
    let result = listener.accept().await.identify(&config).await;
    assert!(matches!(result, Err(Refused::Timeout(_))), "{result:?}");
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn what_begins_with_no_uuid_is_no_call() {
    let config = config();
    let mut listener = Listener::bind(&config).await.unwrap();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &raw(0x01, &[0; 17]), &raw(0x10, &[0; 320]), &[0x01, 0xff, 0xff]] {
        let mut phone = Phone::connect(&listener).await;
        phone.write(bytes).await;
        let result = listener.accept().await.identify(&config).await;
        assert!(matches!(result, Err(Refused::NotUuid(..))), "{result:?}");
    }
    // an unanswered channel: Asterisk connects and closes
    drop(Phone::connect(&listener).await);
    let result = listener.accept().await.identify(&config).await;
    assert!(matches!(result, Err(Refused::Closed)), "{result:?}");
    assert_eq!(listener.stats().unidentified.get(), 5);
    // and the next call works
    let mut phone = Phone::connect(&listener).await;
    phone.write(&[uuid_frame(), audio(&numbered(Rate::R8K, 1))].concat()).await;
    let mut leg = listener.accept().await.identify(&config).await.unwrap().into_leg().await;
    assert_eq!(next_audio(&mut leg).await, numbered(Rate::R8K, 1));
}

#[tokio::test]
async fn addresses_that_are_not_allowed_are_closed() {
    let config = Config { allow: vec!["10.0.0.0/8".parse().unwrap()], ..config() };
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::connect(&listener).await;
    tokio::select! {
        _ = listener.accept() => panic!("127.0.0.1 is not in 10.0.0.0/8"),
        end = phone.read() => assert_eq!(end, None),
    }
    assert_eq!(listener.stats().denied.get(), 1);
}

#[tokio::test]
async fn one_too_many_of_an_address_is_refused_in_order() {
    let config = Config { max_per_address: 1, ..config() };
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut first = Phone::connect(&listener).await;
    first.write(&[uuid_frame(), audio(&numbered(Rate::R8K, 1))].concat()).await;
    let leg = listener.accept().await.identify(&config).await.unwrap().into_leg().await;
    let mut second = Phone::connect(&listener).await;
    second.write(&uuid_frame()).await;
    tokio::select! {
        _ = listener.accept() => panic!("the second is one too many"),
        () = expect_orderly_end(second) => {}
    }
    drop(leg);
    let _third = Phone::connect(&listener).await;
    let _ = listener.accept().await;
    assert_eq!(listener.stats().over_limit.get(), 1);
}
