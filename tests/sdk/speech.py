"""Has a vendor's own library talk to a fake of the tests: speech.py VENDOR HOST:PORT KEY.

Prints what the library understood, one line each: "text ..." for words, "audio N" for bytes of speech.
"""

import asyncio
import base64
import sys
import threading

AUDIO = b"\xff" * 160 * 40


def say(*words):
    print(*words, flush=True)


def deepgram(address, key):
    from deepgram import DeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    base = f"ws://{address}"
    environment = DeepgramClientEnvironment(base=f"http://{address}", production=base, agent=base, agent_rest=base)
    return DeepgramClient(api_key=key, environment=environment)


def nova(address, key):
    with deepgram(address, key).listen.v1.connect(
        model="nova-3", encoding="mulaw", sample_rate="8000", channels="1", interim_results="true", vad_events="true",
        endpointing="300", utterance_end_ms="1000", smart_format="true", language="en",
    ) as socket:
        socket.send_media(AUDIO)
        socket.send_finalize()
        while True:
            event = socket.recv()
            if getattr(event, "type", None) == "Results" and event.is_final:
                return say("text", event.channel.alternatives[0].transcript)


def flux(address, key):
    with deepgram(address, key).listen.v2.connect(
        model="flux-general-en", encoding="mulaw", sample_rate="8000", eot_threshold="0.8"
    ) as socket:
        socket.send_media(AUDIO)
        while True:
            event = socket.recv()
            if getattr(event, "event", None) == "EndOfTurn":
                return say("text", event.transcript)


def soniox(address, key):
    from soniox import SonioxClient
    from soniox.types import RealtimeSTTConfig

    client = SonioxClient(api_key=key, websocket_base_url=f"ws://{address}/transcribe-websocket")
    config = RealtimeSTTConfig(
        model="stt-rt-v5", audio_format="mulaw", num_channels=1, sample_rate=8000, enable_endpoint_detection=True,
        language_hints=["en"],
    )
    with client.realtime.stt.connect(config=config) as session:
        session.send_byte_chunk(AUDIO)
        session.finalize()
        words = ""
        for event in session.receive_events():
            words += "".join(token.text for token in event.tokens if token.is_final)
            if "<end>" in words:
                return say("text", words.replace("<end>", ""))


def assemblyai(address, key):
    from assemblyai.streaming import v3

    client = v3.StreamingClient(v3.StreamingClientOptions(api_key=key, api_host=f"ws://{address}"))
    heard = threading.Event()

    def turn(_client, event):
        if event.end_of_turn and not heard.is_set():
            say("text", event.transcript)
            heard.set()

    client.on(v3.StreamingEvents.Turn, turn)
    client.connect(
        v3.StreamingParameters(
            sample_rate=8000, encoding="pcm_mulaw", speech_model="universal-streaming-english", format_turns=False,
            min_turn_silence=400,
        )
    )
    client.stream(AUDIO)
    client.force_endpoint()
    heard.wait(10)


def speechmatics(address, key):
    from speechmatics.rt import (
        AsyncClient, AudioEncoding, AudioFormat, ConversationConfig, ServerMessageType, TranscriptionConfig,
    )

    async def run():
        heard = asyncio.Event()
        client = AsyncClient(api_key=key, url=f"ws://{address}/v2")

        @client.on(ServerMessageType.ADD_TRANSCRIPT)
        def transcript(message):
            say("text", message["metadata"]["transcript"])
            heard.set()

        await client.start_session(
            transcription_config=TranscriptionConfig(
                language="en", model="enhanced", max_delay=1.0, max_delay_mode="flexible", enable_partials=True,
                conversation_config=ConversationConfig(end_of_utterance_silence_trigger=0.5),
            ),
            audio_format=AudioFormat(encoding=AudioEncoding.MULAW, sample_rate=8000),
        )
        await client.send_audio(AUDIO)
        await client.force_end_of_utterance()
        await asyncio.wait_for(heard.wait(), 10)

    asyncio.run(run())


def scribe(address, key):
    from elevenlabs.realtime.connection import RealtimeEvents
    from elevenlabs.realtime.scribe import AudioFormat, CommitStrategy, ScribeRealtime

    async def run():
        heard = asyncio.Event()
        connection = await ScribeRealtime(api_key=key, base_url=f"ws://{address}").connect(
            {
                "model_id": "scribe_v2_realtime", "audio_format": AudioFormat("ulaw_8000"), "sample_rate": 8000,
                "commit_strategy": CommitStrategy.MANUAL, "language_code": "en",
            }
        )

        def committed(data):
            say("text", data["text"])
            heard.set()

        connection.on(RealtimeEvents.COMMITTED_TRANSCRIPT, committed)
        await connection.send({"audio_base_64": base64.b64encode(AUDIO).decode()})
        await connection.commit()
        await asyncio.wait_for(heard.wait(), 10)

    asyncio.run(run())


def aura(address, key):
    from deepgram.speak.v1.types import SpeakV1Text

    with deepgram(address, key).speak.v1.connect(
        model="aura-2-thalia-en", encoding="linear16", sample_rate="8000"
    ) as socket:
        socket.send_text(SpeakV1Text(type="Speak", text="Say this."))
        socket.send_flush()
        audio = 0
        while True:
            event = socket.recv()
            if isinstance(event, bytes):
                audio += len(event)
            elif getattr(event, "type", None) == "Flushed":
                return say("audio", audio)


def cartesia(address, key):
    from cartesia import Cartesia

    client = Cartesia(api_key=key, base_url=f"http://{address}", websocket_base_url=f"ws://{address}")
    with client.tts.websocket_connect() as connection:
        context = connection.context(
            "c1", model_id="sonic-3", voice={"mode": "id", "id": "v1"}, language="en", add_timestamps=True,
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}, max_buffer_delay_ms=0,
        )
        context.send(
            model_id="sonic-3", transcript="Say this.", voice={"mode": "id", "id": "v1"}, language="en", continue_=False,
            add_timestamps=True, output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
        )
        audio = 0
        for event in context.receive():
            if event.type == "chunk":
                audio += len(event.audio)
            elif event.type == "timestamps":
                say("words", *event.word_timestamps.words)
        return say("audio", audio)


def multi_models(_address, _key):
    """Validates what our client says to ElevenLabs (lines of JSON) by the library's own models of its several contexts."""
    import json
    import typing

    from elevenlabs.v_1_text_to_speech_voice_id_multi_stream_input.types.send_message_multi import SendMessageMulti
    from pydantic import ConfigDict, ValidationError

    strict = {"model_config": ConfigDict(extra="forbid")}
    models = [type(model.__name__, (model,), strict) for model in typing.get_args(SendMessageMulti)]
    for line in sys.stdin:
        message, fits = json.loads(line), []
        for model in models:
            try:
                model.model_validate(message)
                fits.append(model.__name__)
            except ValidationError:
                pass
        say(*fits)


def realtime(address, key):
    from openai import OpenAI

    client = OpenAI(api_key=key, base_url=f"http://{address}/v1")
    with client.realtime.connect(model="gpt-realtime-2.1") as connection:
        telephone = {"type": "audio/pcmu"}
        detection = {"type": "server_vad", "create_response": True, "interrupt_response": True}
        connection.session.update(session={
            "type": "realtime", "instructions": "You are kind.", "output_modalities": ["audio"],
            "audio": {"input": {"format": telephone, "turn_detection": detection},
                      "output": {"format": telephone, "voice": "marin"}},
        })
        connection.input_audio_buffer.append(audio=base64.b64encode(AUDIO).decode())
        audio = 0
        for event in connection:
            if event.type == "response.output_audio.delta":
                audio += len(base64.b64decode(event.delta))
            elif event.type == "conversation.item.input_audio_transcription.completed":
                say("caller", event.transcript)
            elif event.type == "response.output_audio_transcript.done":
                say("text", event.transcript)
            elif event.type == "response.done":
                return say("audio", audio, event.response.usage.input_tokens)


def conversation(connection, session, delta, words):
    """A session in a dialect of OpenAI's interface; what its models do not know the library hands on as it is."""
    connection.send({"type": "session.update", "session": session})
    connection.input_audio_buffer.append(audio=base64.b64encode(AUDIO).decode())
    audio = 0
    for event in connection:
        if event.type == delta:
            audio += len(base64.b64decode(event.delta))
        elif event.type == "conversation.item.input_audio_transcription.completed":
            say("caller", event.transcript)
        elif event.type == words:
            say("text", event.transcript)
        elif event.type == "response.done":
            return say("audio", audio)


def azure(address, key):
    from openai import AzureOpenAI

    client = AzureOpenAI(
        api_key=key, api_version="2024-10-01-preview", azure_endpoint=f"http://{address}",
        websocket_base_url=f"ws://{address}/openai",
    )
    with client.realtime.connect(model="voice-1") as connection:
        session = {"instructions": "You are kind.", "input_audio_format": "g711_ulaw", "output_audio_format": "g711_ulaw"}
        conversation(connection, session, "response.audio.delta", "response.audio_transcript.done")


def xai(address, key):
    from openai import OpenAI

    client = OpenAI(api_key=key, base_url=f"http://{address}/v1")
    with client.realtime.connect(model="grok-voice-latest") as connection:
        telephone = {"format": {"type": "audio/pcmu"}}
        session = {"instructions": "You are kind.", "voice": "ara", "turn_detection": {"type": "server_vad"},
                   "audio": {"input": telephone, "output": telephone}}
        conversation(connection, session, "response.output_audio.delta", "response.output_audio_transcript.done")


def live(address, key):
    """Over TLS: the library knows nothing else; SSL_CERT_FILE names who is to be trusted."""
    from google import genai
    from google.genai import types

    async def run():
        client = genai.Client(api_key=key, http_options={"base_url": f"https://{address}", "api_version": "v1beta"})
        config = {
            "response_modalities": ["AUDIO"], "system_instruction": "You are kind.",
            "input_audio_transcription": {}, "output_audio_transcription": {},
            "speech_config": {"voice_config": {"prebuilt_voice_config": {"voice_name": "Puck"}}},
        }
        async with client.aio.live.connect(model="gemini-3.8-live", config=config) as session:
            await session.send_realtime_input(audio=types.Blob(data=AUDIO, mime_type="audio/pcm;rate=16000"))
            audio, caller, text = 0, "", ""
            # up to the end of the turn
            async for message in session.receive():
                content = message.server_content
                if content and content.input_transcription:
                    caller += content.input_transcription.text
                if content and content.output_transcription:
                    text += content.output_transcription.text
                audio += len(message.data or b"")
            say("audio", audio)
            say("caller", caller)
            say("text", text)

    asyncio.run(run())


def transcription(address, key):
    from openai import OpenAI

    client = OpenAI(api_key=key, base_url=f"http://{address}")
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        connection.session.update(session={"type": "transcription", "audio": {"input": {
            "format": {"type": "audio/pcmu"}, "turn_detection": None,
            "transcription": {"model": "gpt-realtime-whisper", "language": "en"},
        }}})
        connection.input_audio_buffer.append(audio=base64.b64encode(AUDIO).decode())
        for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                return say("text", event.transcript)


def transcriptions(address, key):
    import pathlib

    from openai import NotFoundError, OpenAI

    client = OpenAI(api_key=key, base_url=f"http://{address}/v1", max_retries=0)
    speech = pathlib.Path(__file__).parents[2] / "fixtures/audio/tt-somethingwrong.wav"
    asked = {"model": "whisper-tiny", "file": speech, "language": "en", "response_format": "json"}
    say("text", client.audio.transcriptions.create(**asked).text)
    for event in client.audio.transcriptions.create(**asked, stream=True):
        if event.type == "transcript.text.done":
            say("text", event.text)
    try:
        client.audio.transcriptions.create(**{**asked, "model": "none"})
    except NotFoundError as error:
        say("error", error.status_code, error.code)


def speech(address, key):
    from openai import OpenAI

    client = OpenAI(api_key=key, base_url=f"http://{address}/v1", max_retries=0)
    asked = {"model": "tts-1", "voice": "nova", "input": "All right.", "response_format": "pcm", "speed": 1.5}
    say("audio", len(client.audio.speech.create(**asked).content))


def agent(address, key):
    from deepgram.agent.v1.types import AgentV1Settings

    with deepgram(address, key).agent.v1.connect() as socket:
        assert socket.recv().type == "Welcome"
        telephone = {"encoding": "mulaw", "sample_rate": 8000}
        socket.send_settings(AgentV1Settings.model_validate({
            "type": "Settings", "audio": {"input": telephone, "output": {**telephone, "container": "none"}},
            "agent": {
                "listen": {"provider": {"type": "deepgram", "version": "v2", "model": "flux-general-en"}},
                "think": {"provider": {"type": "open_ai", "model": "gpt-5.4-mini"}, "prompt": "You are kind."},
                "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
            },
        }))
        assert socket.recv().type == "SettingsApplied"
        socket.send_media(AUDIO)
        audio = 0
        while True:
            event = socket.recv()
            kind = getattr(event, "type", None)
            if isinstance(event, bytes):
                audio += len(event)
            elif kind == "ConversationText":
                say("caller" if event.role == "user" else "text", event.content)
            elif kind == "AgentAudioDone":
                return say("audio", audio)


def convai(address, key):
    from elevenlabs import ElevenLabs
    from elevenlabs.conversational_ai.conversation import AudioInterface, Conversation

    done = threading.Event()

    class Telephone(AudioInterface):
        heard = 0

        def start(self, input_callback):
            def speak():
                while not done.wait(0.1):
                    input_callback(AUDIO)

            threading.Thread(target=speak, daemon=True).start()

        def stop(self):
            pass

        def output(self, audio):
            self.heard += len(audio)
            if self.heard >= 1600:
                say("audio", self.heard)
                done.set()

        def interrupt(self):
            pass

    conversation = Conversation(
        ElevenLabs(api_key=key, base_url=f"http://{address}"), "agent_1", requires_auth=True,
        audio_interface=Telephone(), callback_agent_response=lambda text: say("text", text),
        callback_user_transcript=lambda text: say("caller", text),
    )
    conversation.start_session()
    done.wait(20)
    conversation.end_session()


def sts_models(vendor, _key):
    """Validates messages (lines of JSON: who, what) of a session by the library's own models."""
    import json

    from pydantic import TypeAdapter, ValidationError

    if vendor == "openai":
        from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent

        models = {"client": RealtimeClientEvent, "server": RealtimeServerEvent}
    elif vendor == "deepgram":
        import typing

        from deepgram.agent.v1 import types
        from deepgram.agent.v1.socket_client import V1SocketClientResponse

        client = typing.Union[
            types.AgentV1Settings, types.AgentV1SendFunctionCallResponse, types.AgentV1InjectUserMessage,
            types.AgentV1InjectAgentMessage, types.AgentV1KeepAlive,
        ]
        models = {"client": client, "server": V1SocketClientResponse}
    else:
        from google.genai.types import LiveClientMessage, LiveServerMessage

        models = {"client": LiveClientMessage, "server": LiveServerMessage}
    adapters = {who: TypeAdapter(model) for who, model in models.items()}
    count = 0
    for line in sys.stdin:
        who, message = json.loads(line)
        # its model of the setup has this elsewhere
        message.get("setup", {}).pop("realtimeInputConfig", None)
        try:
            model = adapters[who].validate_python(message)
            assert getattr(model, "type", None) == message.get("type"), message
            count += 1
        except ValidationError as error:
            # of a union, what is wrong with the kind of message that it is
            others = {fault["loc"][0] for fault in error.errors() if fault["type"] == "literal_error"}
            wrong = [(fault["loc"], fault["msg"]) for fault in error.errors() if fault["loc"][0] not in others]
            print(who, message, wrong, sep="\n  ", file=sys.stderr)
    say("valid", count)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], sys.argv[3])
