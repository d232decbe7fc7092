//! What a frame to the caller and one from them cost in each kind of leg, without the call behind it: legs that send back what they hear,
//! in a thread of their own, whose time alone counts.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use hark::{
    asterisk::{audiosocket, rtp, websocket},
    audio::{AudioFormat, Encoding, Rate},
    call::{Leg, LegCommand, LegEvent},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
    task::LocalSet,
    time::{MissedTickBehavior, interval_at, sleep},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use uuid::Uuid;

use crate::{Result, phone::PERIOD};

const KINDS: [&str; 3] = ["AudioSocket", "chan_websocket", "RTP"];
const WARM_UP: Duration = Duration::from_secs(1);
const SLIN: usize = 320;

/// Work that makes legs on the thread that is measured, from what the phones told them.
type Make = Box<dyn FnOnce(Rc<Cell<u64>>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Prints the table: medians of `runs`.
pub async fn table(calls: u32, runs: u32, window: Duration) -> Result<()> {
    println!();
    println!("Legs alone, {calls} of each kind, slin at 8 kHz; µs of CPU time for a frame each way.");
    println!("| leg | µs per pair | beside AudioSocket |\n|---|---|---|");
    let mut all = KINDS.map(|_| Vec::new());
    for _ in 0..runs {
        // in turn: such a machine varies against itself
        for (kind, costs) in KINDS.iter().zip(&mut all) {
            let cost = run(kind, calls, window).await?;
            eprintln!("  {kind}: {cost:.2} µs");
            costs.push(cost);
        }
    }
    let medians = all.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    });
    for (kind, cost) in KINDS.iter().zip(medians) {
        println!("| {kind} | {cost:.2} | {:.2} |", cost / medians[0]);
    }
    Ok(())
}

async fn run(kind: &str, calls: u32, window: Duration) -> Result<f64> {
    let (make, made) = mpsc::unbounded_channel();
    let (report, reported) = std::sync::mpsc::channel();
    let measured = thread::spawn(move || report.send(measure(made, window)));
    let mut phones = tokio::task::JoinSet::new();
    match kind {
        "AudioSocket" => audiosocket_phones(calls, &make, &mut phones).await?,
        "RTP" => rtp_phones(calls, &make, &mut phones).await?,
        _ => websocket_phones(calls, &make, &mut phones).await?,
    }
    let (cpu, pairs) = loop {
        // the phones go on meanwhile
        sleep(PERIOD).await;
        if let Ok(result) = reported.try_recv() {
            break result?;
        }
        if measured.is_finished() {
            return Err("the measured thread has ended".into());
        }
    };
    phones.abort_all();
    drop(make);
    Ok(cpu as f64 / 1_000.0 / pairs.max(1) as f64)
}

/// Nanoseconds of CPU time, and pairs of frames, within the window.
fn measure(mut made: mpsc::UnboundedReceiver<Make>, window: Duration) -> std::result::Result<(u64, u64), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let pairs = Rc::new(Cell::new(0));
    LocalSet::new().block_on(&runtime, async {
        let counted = Rc::clone(&pairs);
        tokio::task::spawn_local(async move {
            while let Some(make) = made.recv().await {
                tokio::task::spawn_local(make(Rc::clone(&counted)));
            }
        });
        sleep(WARM_UP).await;
        let (cpu, before) = (cpu_ns()?, pairs.get());
        sleep(window).await;
        Ok((cpu_ns()? - cpu, pairs.get() - before))
    })
}

fn cpu_ns() -> std::result::Result<u64, String> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").map_err(|error| error.to_string())?;
    text.split(' ').next().and_then(|ns| ns.parse().ok()).ok_or_else(|| format!("{text:?} is no schedstat"))
}

/// Sends back what it hears.
async fn echo(mut leg: impl Leg, pairs: Rc<Cell<u64>>) {
    while let Some(event) = leg.next().await {
        match event {
            LegEvent::Audio(frame) => {
                let _ = leg.send(LegCommand::Audio(frame));
                pairs.set(pairs.get() + 1);
            }
            LegEvent::Hangup(_) => return,
            _ => {}
        }
    }
}

/// Ticks of the n-th phone.
fn ticks(n: u32, calls: u32) -> tokio::time::Interval {
    let mut ticks = interval_at((Instant::now() + PERIOD * n / calls).into(), PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn audiosocket_phones(
    calls: u32,
    make: &mpsc::UnboundedSender<Make>,
    phones: &mut tokio::task::JoinSet<()>,
) -> Result<()> {
    let config = audiosocket::Config { listen: ([127, 0, 0, 1], 0).into(), ..audiosocket::Config::default() };
    let mut listener = audiosocket::Listener::bind(&config).await?;
    let address = listener.local_addr()?;
    for n in 0..calls {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let pending = listener.accept().await;
        let config = config.clone();
        make.send(Box::new(move |pairs| {
            Box::pin(async move {
                if let Ok(identified) = pending.identify(&config).await {
                    echo(identified.into_leg().await, pairs).await;
                }
            })
        }))?;
        phones.spawn(async move {
            let mut hello = vec![1, 0, 16];
            hello.extend(Uuid::new_v4().as_bytes());
            if stream.write_all(&hello).await.is_err() {
                return;
            }
            let mut frame = vec![0x10, 1, 64];
            frame.resize(3 + SLIN, 7);
            let (mut ticks, mut heard) = (ticks(n, calls), [0; 4_096]);
            loop {
                tokio::select! {
                    _ = ticks.tick() => if stream.write_all(&frame).await.is_err() { return },
                    read = stream.read(&mut heard) => if !matches!(read, Ok(1..)) { return },
                }
            }
        });
    }
    // one that is dropped takes no more, and its legs live on
    Ok(())
}

async fn websocket_phones(
    calls: u32,
    make: &mpsc::UnboundedSender<Make>,
    phones: &mut tokio::task::JoinSet<()>,
) -> Result<()> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = websocket::Listener::bind(anywhere, Arc::default(), Arc::default()).await?;
    let address = listener.local_addr()?;
    for n in 0..calls {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let pending = listener.accept().await;
        make.send(Box::new(move |pairs| {
            Box::pin(async move {
                if let Ok(identified) = pending.identify().await {
                    echo(identified.into_leg().await, pairs).await;
                }
            })
        }))?;
        let mut request = format!("ws://{address}/media").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "media".parse()?);
        phones.spawn(async move {
            let Ok((mut phone, _)) = client_async(request, stream).await else { return };
            let start =
                "MEDIA_START connection_id:c channel:c channel_id:1 format:slin optimal_frame_size:320 ptime:20";
            if phone.send(Message::text(start)).await.is_err() {
                return;
            }
            let mut ticks = ticks(n, calls);
            loop {
                tokio::select! {
                    _ = ticks.tick() => if phone.send(Message::binary(vec![7; SLIN])).await.is_err() { return },
                    heard = phone.next() => if !matches!(heard, Some(Ok(_))) { return },
                }
            }
        });
    }
    Ok(())
}

async fn rtp_phones(
    calls: u32,
    make: &mpsc::UnboundedSender<Make>,
    phones: &mut tokio::task::JoinSet<()>,
) -> Result<()> {
    let sockets = rtp::Sockets::new(&rtp::Config::default(), Arc::default());
    let slin = AudioFormat { encoding: Encoding::Linear16, rate: Rate::R8K };
    for n in 0..calls {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let opened = sockets.open()?;
        socket.connect(opened.local).await?;
        let (pending, line) = opened.call(Uuid::new_v4(), slin, rtp::Told(Some(socket.local_addr()?)));
        make.send(Box::new(move |pairs| {
            Box::pin(async move {
                if let Ok(identified) = pending.identify() {
                    echo(identified.into_leg().await, pairs).await;
                }
            })
        }))?;
        phones.spawn(async move {
            // as long as the phone lives the leg does
            let _line = line;
            let (mut ticks, mut heard, mut sequence) = (ticks(n, calls), [0; 4_096], 0_u16);
            let mut datagram = Vec::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        sequence = sequence.wrapping_add(1);
                        let timestamp = u32::from(sequence) * 160;
                        datagram.clear();
                        let packet = rtp::wire::Packet { marker: false, payload_type: 11, sequence, timestamp, source: n, payload: &[7; SLIN] };
                        rtp::wire::put(&mut datagram, &packet);
                        if socket.send(&datagram).await.is_err() { return }
                    }
                    read = socket.recv(&mut heard) => if read.is_err() { return },
                }
            }
        });
    }
    Ok(())
}
