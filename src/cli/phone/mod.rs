//! A telephone that calls a gateway the way Asterisk does: an AudioSocket client with its 20 ms pace, its codecs and its digits.

mod caller;
mod codec;
mod ear;
mod report;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

pub use self::{
    caller::Step,
    codec::{Codec, UnknownCodec},
    report::{Ending, Quantiles, Report, Span, stereo},
};
use self::{
    caller::{Caller, Slot},
    ear::Ear,
};
use crate::{
    asterisk::audiosocket::wire::{self, Decoder, Message},
    audio::Frame,
    call::Digit,
};

const FRAME: Duration = Duration::from_millis(20);
/// As long as Asterisk tries (`MAX_CONNECT_TIMEOUT_MSEC`).
const CONNECT: Duration = Duration::from_secs(2);
/// A gateway that takes no frame for this long has stopped reading.
const STALL: Duration = Duration::from_secs(2);
/// How long the gateway may take to close once we have.
const GOODBYE: Duration = Duration::from_secs(2);

/// What kind of call it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sent in the first frame.
    pub uuid: Uuid,
    /// How the caller's audio is written.
    pub codec: Codec,
    /// What the caller does; then they are silent.
    pub script: Vec<Step>,
    /// The caller hangs up after this long.
    pub limit: Duration,
    /// Whether the report holds all audio.
    pub record: bool,
}

/// Something that happens on the call, as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The connection stands and the UUID is sent.
    Connected,
    /// The first audio frame of the gateway, silence or not.
    FirstFrame,
    /// The agent begins (`true`) or has ended (`false`) to be heard.
    Heard(bool),
    /// The caller begins (`true`) or has ended (`false`) to speak.
    Said(bool),
    /// The caller pressed a key.
    Pressed(Digit),
    /// The caller waited for the agent in vain and goes on.
    WaitedInVain,
}

/// Why there was no call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing accepts connections there.
    #[error("cannot connect to {address}: {source}; is the gateway running, and is this its AudioSocket port?")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing answers there.
    #[error("no answer from {address} within {} s; is there a firewall between?", CONNECT.as_secs())]
    Silence {
        /// Where to.
        address: SocketAddr,
    },
}

/// Calls the gateway at `address` and stays until either side hangs up. `on` hears what happens, with the time since the connect.
///
/// # Errors
/// When there is no connection. What goes wrong later is in the report.
pub async fn call(
    address: SocketAddr,
    options: Options,
    on: impl FnMut(Duration, Moment),
) -> Result<Report, CallError> {
    let dialled = Instant::now();
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| CallError::Silence { address })?
        .map_err(|source| CallError::Connect { address, source })?;
    // Asterisk does the same; without it frames would wait for acknowledgements, and the report would show it
    let _ = stream.set_nodelay(true);
    let mut line = Line::new(stream, &options, dialled.elapsed(), on);
    let ending = line.run(&options).await;
    Ok(line.report(ending))
}

/// A call under way.
struct Line<F> {
    stream: TcpStream,
    decoder: Decoder,
    codec: Codec,
    start: Instant,
    caller: Caller,
    ear: Ear,
    report: Report,
    on: F,
}

impl<F: FnMut(Duration, Moment)> Line<F> {
    fn new(stream: TcpStream, options: &Options, connect: Duration, on: F) -> Self {
        let rate = options.codec.rate();
        Self {
            stream,
            decoder: Decoder::new(),
            codec: options.codec,
            start: Instant::now(),
            caller: Caller::new(rate, options.script.clone()),
            ear: Ear::new(rate, options.record),
            report: Report::new(options.uuid, rate, connect, options.record),
            on,
        }
    }

    async fn run(&mut self, options: &Options) -> Ending {
        let mut bytes = Vec::with_capacity(wire::HEADER + 16);
        wire::put_uuid(&mut bytes, options.uuid);
        if let Err(ending) = self.write(&bytes).await {
            return ending;
        }
        self.tell(Moment::Connected);
        // absolute deadlines: a late wake-up is not added to all later frames
        let mut deadline = tokio::time::Instant::from_std(self.start);
        loop {
            tokio::select! {
                read = self.stream.read(self.decoder.room()) => match read {
                    Ok(0) => return if self.decoder.mid_frame() { Ending::Cut } else { Ending::Closed },
                    Ok(n) => {
                        self.decoder.filled(n);
                        if let Some(ending) = self.hear() {
                            return self.hang_up(ending).await;
                        }
                    }
                    Err(error) => return Ending::Broken(error.to_string()),
                },
                () = tokio::time::sleep_until(deadline) => {
                    deadline += FRAME;
                    if self.start.elapsed() >= options.limit {
                        return self.hang_up(Ending::Caller).await;
                    }
                    match self.speak().await {
                        Ok(true) => {}
                        Ok(false) => return self.hang_up(Ending::Caller).await,
                        Err(ending) => return ending,
                    }
                }
            }
        }
    }

    /// Takes what has arrived; the ending, if it says so.
    fn hear(&mut self) -> Option<Ending> {
        let at = self.start.elapsed();
        let mut moments = VecDeque::new();
        let ending = loop {
            match self.decoder.next_message() {
                None => break None,
                Some(Ok(Message::Audio { rate, payload })) => self.ear.audio(at, rate, payload, &mut moments),
                Some(Ok(Message::Hangup)) => break Some(Ending::Gateway),
                Some(Ok(Message::Error(code))) => break Some(Ending::Error(code)),
                // Asterisk takes none of these and drops the call
                Some(Ok(other)) => break Some(Ending::Protocol(format!("{other:?}"))),
                Some(Err(error)) => break Some(Ending::Protocol(error.to_string())),
            }
        };
        for moment in moments {
            self.tell(moment);
        }
        ending
    }

    /// Sends what belongs into the present 20 ms; `false` when the caller hangs up.
    async fn speak(&mut self) -> Result<bool, Ending> {
        let at = self.start.elapsed();
        if let Some(moment) = self.ear.tick(at) {
            self.tell(moment);
        }
        let mut moments = VecDeque::new();
        let slot = self.caller.next(at, &self.ear, &mut moments);
        let mut bytes = Vec::new();
        match &slot {
            Slot::Audio(frame) => self.codec.put(frame, &mut bytes),
            Slot::Hole => {}
            Slot::Press(digit) => wire::put_dtmf(&mut bytes, *digit),
            Slot::HangUp => return Ok(false),
        }
        self.write(&bytes).await?;
        for moment in moments {
            self.tell(moment);
        }
        self.report.sent(at, &slot, self.codec);
        Ok(true)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        match tokio::time::timeout(STALL, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ending::Broken(error.to_string())),
            Err(_) => Err(Ending::Stalled),
        }
    }

    /// Closes without a reset: our end, then whatever still comes.
    async fn hang_up(&mut self, ending: Ending) -> Ending {
        let _ = self.stream.shutdown().await;
        let mut rest = [0; 4096];
        let drain = async { while self.stream.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
        if tokio::time::timeout(GOODBYE, drain).await.is_err() {
            tracing::debug!("the gateway did not close within {} s of the hang-up", GOODBYE.as_secs());
        }
        ending
    }

    fn tell(&mut self, moment: Moment) {
        let at = self.start.elapsed();
        self.report.moment(at, moment);
        (self.on)(at, moment);
    }

    fn report(mut self, ending: Ending) -> Report {
        self.report.length = self.start.elapsed();
        self.report.ending = ending;
        self.ear.finish(&mut self.report);
        self.report
    }
}

impl Codec {
    /// Appends `frame` as Asterisk would write it.
    fn put(self, frame: &Frame, out: &mut Vec<u8>) {
        match self {
            Self::Slin(_) => wire::put_audio(out, frame),
            Self::G711(law) => {
                let mut codes = Vec::with_capacity(frame.samples().len());
                law.encode(frame.samples(), &mut codes);
                wire::put_raw(out, wire::Kind::Audio(frame.rate()), &codes);
            }
        }
    }
}

#[cfg(test)]
mod tests;
