//! How fast events are committed and delivered, and what that does to a call's 20 ms: `make bench-webhooks`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/support/postgres.rs"]
mod postgres;

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use hark::{
    call::{CallEvent, CallId, Envelope, EventId, Role},
    webhook::{
        Config, Entry, Outbox, Outcome, Recipient, Report, Webhooks, client_builder,
        store::{self, Store},
    },
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use postgres::Postgres;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CALLS: usize = 1_000;
const EVENTS: usize = 30_000;
const PENDING: usize = 1_000_000;
/// In the environment of the process that is the receiver.
const RECEIVER: &str = "HARK_BENCH_RECEIVER";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::var_os(RECEIVER).is_some() {
        return runtime.block_on(receive());
    }
    runtime.block_on(async {
        println!("20 ms tick of an idle machine:        {}", ticks(async {}).await.1);
        let dir = tempfile::tempdir().unwrap();
        bench("SQLite", &store::Config { data_dir: dir.path().to_owned(), ..store::Config::default() }).await;
        // as in production: it waits for the disk
        let postgres = Postgres::with(&["fsync=on"]).await;
        assert_eq!(postgres.psql("SHOW fsync").unwrap(), "on");
        bench("PostgreSQL", &store::Config { url: Some(postgres.url()), ..store::Config::default() }).await;
        backlog().await;
    });
}

async fn bench(name: &str, config: &store::Config) {
    println!("{name}");
    let store = Store::open(config).await.unwrap();
    let calls: Vec<_> = (0..CALLS).map(|_| CallId::new()).collect();
    let (took, tick) = ticks(commit(&store, &calls)).await;
    println!("  committed:  {:>7.0} events/s   20 ms tick {tick}", rate(EVENTS, took));
    let (receiver, url) = receiver();
    let (ours, theirs) = (cpu("self"), cpu(&receiver.0.id().to_string()));
    let (took, tick) = ticks(deliver(&store, url)).await;
    println!("  delivered:  {:>7.0} events/s   20 ms tick {tick}", rate(EVENTS, took));
    let (ours, theirs) = (cpu("self") - ours, cpu(&receiver.0.id().to_string()) - theirs);
    println!("              CPU per event: Hark {:.0} us, the receiver {:.0} us", micros(ours), micros(theirs));
    drop(receiver);
    let mut alone: Vec<_> = Vec::new();
    for call in &calls[..200] {
        let begin = Instant::now();
        store.put(said(*call)).await.unwrap();
        alone.push(begin.elapsed());
    }
    println!("  one event alone, until committed: {}", percentiles(alone));
    store.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
}

fn rate(events: usize, took: Duration) -> f64 {
    events as f64 / took.as_secs_f64()
}

fn said(call: CallId) -> Entry {
    let text = "I would like to know when my parcel will arrive, please.".to_owned();
    let event = CallEvent::Transcription { role: Role::User, text };
    let envelope = Envelope { id: EventId::new(), call, uuid: call.into(), at: SystemTime::now(), event };
    Entry::of(&envelope, vec![Recipient::plain("default".into())])
}

/// As the event task does: what came while the last ones were written is written together.
async fn commit(store: &Store, calls: &[CallId]) {
    for batch in 0..EVENTS / 500 {
        let puts = (0..500).map(|n| store.put(said(calls[(batch * 500 + n) % CALLS])));
        futures_util::future::try_join_all(puts.collect::<Vec<_>>()).await.unwrap();
    }
}

async fn deliver(store: &Store, url: String) {
    let config = Config { url: Some(url), ..Config::default() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    let client = client_builder(&tls).no_proxy().build().unwrap();
    let cancel = CancellationToken::new();
    let webhooks = Webhooks::with_outbox(&config, client, Arc::new(store.clone()), &TaskTracker::new(), cancel.clone());
    let left = webhooks.flush(tokio::time::Instant::now() + Duration::from_secs(300)).await;
    assert_eq!(left, 0, "not delivered in five minutes");
    cancel.cancel();
}

/// The receiver, in a process of its own that gets what CPU time is left over: its load is none of Hark's.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn receiver() -> (Receiver, String) {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(std::env::current_exe().unwrap()).env(RECEIVER, "1").stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    (Receiver(child), url.trim().to_owned())
}

async fn receive() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!("http://{}/", listener.local_addr().unwrap());
    let answer = |request: Request<Incoming>| async move {
        let _ = request.into_body().collect().await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    };
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

/// CPU time of a process so far, in clock ticks of 10 ms.
fn cpu(process: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn micros(ticks: u64) -> f64 {
    ticks as f64 * 10_000.0 / EVENTS as f64
}

/// A million pending events of 100,000 calls: start, claims, and the first of them drained.
async fn backlog() {
    let dir = tempfile::tempdir().unwrap();
    let config = store::Config { data_dir: dir.path().to_owned(), ..store::Config::default() };
    Store::open(&config).await.unwrap().close(tokio::time::Instant::now() + Duration::from_secs(5)).await;
    fill(&dir.path().join("hark.db")).await;
    println!("SQLite with {PENDING} pending events of {} calls", PENDING / 10);
    let begin = Instant::now();
    let store = Store::open(&config).await.unwrap();
    println!("  start:      {:>7.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let first = store.next("default").await;
    println!("  first event:{:>7.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    store.mark(&first, Outcome::Delivered, Report::default());
    let begin = Instant::now();
    for _ in 0..20_000 {
        let due = store.next("default").await;
        store.mark(&due, Outcome::Delivered, Report::default());
    }
    println!("  claimed and marked: {:.0} events/s", rate(20_000, begin.elapsed()));
    // most of the calls are old and over: their numbers are looked through
    let begin = Instant::now();
    let purge = store.purge(Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400));
    let mut alone = Vec::new();
    let call = CallId::new();
    let puts = async {
        loop {
            let begin = Instant::now();
            store.put(said(call)).await.unwrap();
            alone.push(begin.elapsed());
        }
    };
    let deleted = tokio::select! { deleted = purge => deleted.unwrap(), () = puts => 0 };
    let took = begin.elapsed().as_secs_f64();
    println!(
        "  purge: {deleted} deliveries in {took:.1} s; an event put meanwhile, until committed: {}",
        percentiles(alone)
    );
    store.close(tokio::time::Instant::now() + Duration::from_secs(10)).await;
}

async fn fill(path: &std::path::Path) {
    use sqlx::Connection;
    let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let calls = PENDING / 10;
    for sql in [
        "BEGIN".to_owned(),
        format!(
            "CREATE TEMP TABLE c AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {calls} - 1) SELECT i, randomblob(16) AS call FROM n"
        ),
        format!(
            "CREATE TEMP TABLE e AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {PENDING} - 1) SELECT i, randomblob(16) AS id FROM n"
        ),
        format!(
            "INSERT INTO events SELECT e.id, c.call, c.call, 'transcription', 0, CAST(printf('%0300d', e.i) AS BLOB) FROM e JOIN c ON c.rowid = e.i % {calls} + 1"
        ),
        format!(
            "INSERT INTO deliveries (endpoint, call, seq, event, at, state, attempt) SELECT 'default', c.call, e.i / {calls} + 1, e.id, 0, 'pending', 1 FROM e JOIN c ON c.rowid = e.i % {calls} + 1"
        ),
        "INSERT INTO lanes SELECT 'default', call, 11, 1, 0, 10, 1, NULL, NULL, 0 FROM c".to_owned(),
        // numbers of calls that were over long ago
        format!(
            "INSERT INTO lanes WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {PENDING} - 1) SELECT 'default', CAST(x'00000000' || randomblob(12) AS BLOB), 11, 11, 0, 0, NULL, NULL, NULL, 0 FROM n"
        ),
        "COMMIT".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

/// How long `work` takes, and how late the 20 ms ticks of a media thread are meanwhile.
async fn ticks(work: impl Future<Output = ()>) -> (Duration, String) {
    let (stop, stopped) = mpsc::channel::<()>();
    let media = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut late = Vec::new();
            let mut due = Instant::now() + Duration::from_millis(20);
            while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) || late.len() < 250 {
                tokio::time::sleep_until(due.into()).await;
                late.push(due.elapsed());
                due += Duration::from_millis(20);
            }
            late
        })
    });
    let begin = Instant::now();
    work.await;
    let took = begin.elapsed();
    drop(stop);
    let late = tokio::task::spawn_blocking(move || media.join().unwrap()).await.unwrap();
    (took, format!("late by {}", percentiles(late)))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.2}  p99 {:.2}  max {:.2} ms", at(0.5), at(0.99), at(1.0))
}
