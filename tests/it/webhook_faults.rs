//! Receivers that are broken below HTTP or in the middle of it: every event reaches them once they work, in order, and the log says why it
//! took so long.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use hark::{
    agent::tls_config,
    call::{CallEvent, CallId, EndReason, Envelope, EventId},
    webhook::{Config, Webhooks, client_builder, schedule::Retry},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    sts_network::authority,
    support::{PATIENCE, client, log::Log, receiver::Receiver},
};

fn config(url: &str) -> Config {
    Config { url: Some(url.to_owned()), timeout_ms: 300, retry: Retry::Times(5), backoff_ms: 1, ..Config::default() }
}

fn start(config: &Config, client: reqwest::Client) -> Webhooks {
    Webhooks::start(config, client, &TaskTracker::new(), CancellationToken::new())
}

async fn put_two(webhooks: &Webhooks) -> [String; 2] {
    let call = CallId::new();
    let events = [CallEvent::Started, CallEvent::Ended(EndReason::CallerHangup)].map(|event| Envelope {
        id: EventId::new(),
        call,
        uuid: call.into(),
        at: SystemTime::now(),
        event,
    });
    let ids = [events[0].id.to_string(), events[1].id.to_string()];
    webhooks.put_all(events.to_vec()).await;
    ids
}

async fn flush(webhooks: &Webhooks) {
    assert_eq!(webhooks.flush(Instant::now() + PATIENCE).await, 0, "events are left");
}

type Fault = fn(TcpStream) -> BoxFuture<'static, ()>;

/// An address whose first `times` connections have this fault; the others lead to a receiver.
async fn faulty(times: usize, fault: Fault) -> (String, Receiver) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let receiver = Receiver::kind().await;
    let behind = receiver.address;
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                if n < times {
                    return fault(stream).await;
                }
                let mut behind = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    (url, receiver)
}

async fn read_to_end(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
}

/// Writes `text`, then nothing more, and keeps the connection.
async fn says(mut stream: TcpStream, text: &[u8]) {
    let _ = stream.write_all(text).await;
    read_to_end(stream).await;
}

const FAULTS: [(&str, Fault); 8] = [
    ("never answers", |stream| Box::pin(read_to_end(stream))),
    ("accepts and reads nothing", |stream| {
        Box::pin(async move {
            sleep(PATIENCE).await;
            drop(stream);
        })
    }),
    ("speaks another protocol", |stream| Box::pin(says(stream, b"SSH-2.0-OpenSSH_9.2p1\r\n"))),
    ("answers bytes", |stream| Box::pin(says(stream, &[0xff; 512]))),
    ("has an impossible status", |stream| Box::pin(says(stream, b"HTTP/1.1 99999 OK\r\n\r\n"))),
    ("stops in its headers", |stream| Box::pin(says(stream, b"HTTP/1.1 200 OK\r\nX-Half: "))),
    ("is half closed", |mut stream| {
        Box::pin(async move {
            let _ = stream.shutdown().await;
            read_to_end(stream).await;
        })
    }),
    ("sends headers for ever", |mut stream| {
        Box::pin(async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream.write_all(b"X-Filler: 0123456789abcdef0123456789abcdef\r\n").await.is_ok() {}
        })
    }),
];

#[tokio::test]
async fn whatever_a_receiver_does_its_events_come_when_it_works_again_and_in_order() {
    for (what, fault) in FAULTS {
        let log = Log::start();
        let (url, receiver) = faulty(3, fault).await;
        let webhooks = start(&config(&url), client());
        let ids = put_two(&webhooks).await;
        flush(&webhooks).await;
        let seen: Vec<_> = receiver.seen().iter().map(|seen| seen.header("webhook-id").unwrap().to_owned()).collect();
        assert_eq!(seen, ids, "a receiver that {what}");
        assert!(log.count("webhook.retry") >= 1, "a receiver that {what}: {}", log.text());
        assert_eq!(webhooks.stats().failed.load(Relaxed), 0, "a receiver that {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_answer_of_five_gigabytes_only_the_beginning_is_read() {
    for status in ["200 OK", "503 Busy"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 5000000000\r\n\r\n");
                    // what answers before it is asked is no answer
                    assert!(stream.read(&mut [0; 65_536]).await.unwrap() > 0);
                    stream.write_all(head.as_bytes()).await.unwrap();
                    while let Ok(n) = stream.write(&[b'x'; 65_536]).await {
                        count.fetch_add(n as u64, Relaxed);
                    }
                });
            }
        });
        let webhooks = start(&Config { retry: Retry::Times(1), timeout_ms: 3_000, ..config(&url) }, client());
        let begin = Instant::now();
        put_two(&webhooks).await;
        flush(&webhooks).await;
        let delivered = webhooks.stats().delivered.load(Relaxed);
        assert_eq!(delivered, if status.starts_with("200") { 2 } else { 0 });
        // what the kernel's buffers hold, four times at most
        let written = written.load(Relaxed);
        assert!(written < 64 << 20, "{written} bytes were taken");
        assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_2xx_counts_even_if_what_follows_takes_longer_than_an_attempt_may() {
    let (url, receiver) =
        faulty(1, |stream| Box::pin(says(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"))).await;
    let webhooks = start(&Config { timeout_ms: 200, ..config(&url) }, client());
    put_two(&webhooks).await;
    flush(&webhooks).await;
    let stats = webhooks.stats();
    assert_eq!((stats.delivered.load(Relaxed), stats.retried.load(Relaxed)), (2, 0));
    assert_eq!(receiver.seen().len(), 1, "the first was sent again");
}

#[tokio::test]
async fn a_certificate_of_nobody_known_or_of_another_name_is_refused_and_the_right_one_taken() {
    let receiver = Receiver::kind().await;
    for (name, known, taken) in [("localhost", true, true), ("other.example", true, false), ("localhost", false, false)]
    {
        let log = Log::start();
        let (ca, acceptor) = authority(&[name]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://localhost:{}/events", listener.local_addr().unwrap().port());
        let behind = receiver.address;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        let tls = Arc::new(tls_config(known.then(|| ca.path().to_owned())).unwrap());
        let client = client_builder(&tls).build().unwrap();
        let webhooks = start(&Config { retry: Retry::Times(1), timeout_ms: 5_000, ..config(&url) }, client);
        let before = receiver.seen().len();
        put_two(&webhooks).await;
        flush(&webhooks).await;
        let stats = webhooks.stats();
        let counts = [&stats.delivered, &stats.failed, &stats.retried].map(|count| count.load(Relaxed));
        assert_eq!(counts, if taken { [2, 0, 0] } else { [0, 2, 2] }, "{name}, {known}: {}", log.text());
        assert_eq!(receiver.seen().len() - before, if taken { 2 } else { 0 });
        if !taken {
            assert!(log.text().to_lowercase().contains("certificate"), "{}", log.text());
        }
    }
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_tried_again_and_given_up() {
    let log = Log::start();
    let webhooks = start(&Config { retry: Retry::Times(2), ..config("http://crm.invalid/events") }, client());
    put_two(&webhooks).await;
    flush(&webhooks).await;
    let stats = webhooks.stats();
    assert_eq!((stats.failed.load(Relaxed), stats.retried.load(Relaxed)), (2, 4));
    assert_eq!(log.count("[WEBHOOK][CALL_ENDED] Retry failed"), 1, "{}", log.text());
}
