"""OpenAI's transcriptions over HTTP with a real engine behind them: faster-whisper, on this machine.

    whisper_server.py MODEL_DIRECTORY

Takes POST /v1/audio/transcriptions as OpenAI describes it (multipart form; response_format json, text or verbose_json; stream) and
refuses what is none of that. Prints "listening on PORT" once the model is loaded.
"""
import email.parser
import email.policy
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faster_whisper import WhisperModel

MODEL = "whisper-tiny"
FORMATS = ("json", "text", "verbose_json")
KNOWN = {"file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]"}
LONGEST = 25 * 1024 * 1024


class Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


def fields(content_type, body):
    """What a multipart form holds: name to (filename, bytes)."""
    if not content_type.startswith("multipart/form-data"):
        raise Refused(400, "invalid_content_type", "the body is no multipart form")
    head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    if not form.is_multipart() or form.defects:
        raise Refused(400, "invalid_form", f"the form cannot be read: {form.defects}")
    return {
        part.get_param("name", header="content-disposition"): (part.get_filename(), part.get_payload(decode=True))
        for part in form.iter_parts()
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = None
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, "application/json", json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(min(length, LONGEST))
        try:
            if self.path != "/v1/audio/transcriptions":
                raise Refused(404, "unknown_url", f"there is no {self.path}")
            self.transcribe(fields(self.headers.get("Content-Type", ""), body))
        except Refused as refused:
            error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": refused.code}
            self.answer(refused.status, "application/json", json.dumps({"error": error}).encode())

    def transcribe(self, form):
        if unknown := set(form) - KNOWN:
            raise Refused(400, "unknown_parameter", f"unknown: {sorted(unknown)}")
        if "file" not in form or not form["file"][0]:
            raise Refused(400, "missing_file", "there is no file with a name")
        text = {name: data.decode() for name, (_, data) in form.items() if name != "file"}
        if text.get("model") != MODEL:
            raise Refused(404, "model_not_found", f"the model {text.get('model')!r} does not exist")
        shape = text.get("response_format", "json")
        if shape not in FORMATS:
            raise Refused(400, "invalid_response_format", f"{shape!r} is none of {FORMATS}")
        audio = io.BytesIO(form["file"][1])
        with self.lock:
            segments, info = self.engine.transcribe(
                audio, beam_size=1, language=text.get("language"), initial_prompt=text.get("prompt"),
                temperature=float(text.get("temperature", "0")), condition_on_previous_text=False,
            )
            if text.get("stream") == "true":
                return self.stream(segments)
            segments = list(segments)
        said = "".join(segment.text for segment in segments).strip()
        if shape == "text":
            return self.answer(200, "text/plain; charset=utf-8", f"{said}\n".encode())
        answer = {"text": said}
        if shape == "verbose_json":
            parts = [{"id": n, "start": s.start, "end": s.end, "text": s.text} for n, s in enumerate(segments)]
            answer |= {"task": "transcribe", "language": info.language, "duration": info.duration, "segments": parts}
        self.answer(200, "application/json", json.dumps(answer).encode())

    def stream(self, segments):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        said = ""
        for segment in segments:
            said += segment.text
            self.event({"type": "transcript.text.delta", "delta": segment.text})
        self.event({"type": "transcript.text.done", "text": said.strip()})
        self.close_connection = True

    def event(self, event):
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


def main():
    Handler.engine = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
