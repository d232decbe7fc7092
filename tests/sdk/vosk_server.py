"""Vosk's protocol over WebSockets with the real engine behind it, as alphacep/vosk-server speaks it.

    vosk_server.py MODEL_DIRECTORY

A text with "config" first, then audio: exactly one reply to each message. '{"reset" : 1}' and '{"eof" : 1}' are compared byte by byte, and
any other text breaks the connection (1011), as it does there. Prints "listening on PORT", and what each session was about.
"""
import asyncio
import concurrent.futures
import json
import sys

import vosk
import websockets

RESET, EOF = '{"reset" : 1}', '{"eof" : 1}'


def heard(recogniser, message):
    if message in (RESET, EOF):
        return recogniser.FinalResult()
    if recogniser.AcceptWaveform(message):
        return recogniser.Result()
    return recogniser.PartialResult()


class Server:
    def __init__(self, model):
        self.model = vosk.Model(model)
        self.pool = concurrent.futures.ThreadPoolExecutor(1)

    async def session(self, socket):
        config, recogniser, counts = {}, None, {"partial": 0, "text": 0, "reset": 0}
        async for message in socket:
            if isinstance(message, str) and "config" in message:
                config = json.loads(message)["config"]
                continue
            if recogniser is None:
                phrases = config.get("phrase_list")
                grammar = [json.dumps(phrases, ensure_ascii=False)] if phrases else []
                recogniser = vosk.KaldiRecognizer(self.model, float(config.get("sample_rate", 8000)), *grammar)
                recogniser.SetWords(True)
            reply = await asyncio.get_running_loop().run_in_executor(self.pool, heard, recogniser, message)
            counts["partial" if "partial" in json.loads(reply) else "text"] += 1
            counts["reset"] += message == RESET
            await socket.send(reply)
            if message == EOF:
                print(json.dumps({"config": config, "ended": "eof", **counts}), flush=True)
                return
        print(json.dumps({"config": config, "ended": "left", **counts}), flush=True)


async def main():
    vosk.SetLogLevel(-1)
    server = Server(sys.argv[1])
    async with websockets.serve(server.session, "127.0.0.1", 0) as listening:
        print(f"listening on {listening.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
