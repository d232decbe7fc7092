#!/usr/bin/env python3
"""Takes the weights of Silero VAD v6 out of its ONNX file, and computes reference probabilities for Hark's own forward pass.

    python3 -m venv /tmp/silero && cd /tmp/silero
    bin/pip install onnx numpy onnxruntime
    bin/pip download --no-deps silero-vad==6.2.3 && unzip -q silero_vad-*.whl
    bin/python HARK/assets/silero/extract.py silero_vad/data/silero_vad.onnx HARK

Writes HARK/assets/silero/silero{8,16}k.bin and HARK/fixtures/audio/caller.silero{8,16}k.txt. Each .bin is flat little-endian f32, C order:

    stft          [2 * bins, window]     bins = window / 2 + 1; window = 128 at 8 kHz, 256 at 16 kHz; cosines first, then sines
    4 x conv      [out, in, 3], [out]    bins->128, 128->64, 64->64, 64->128
    output conv   [128], [1]
    LSTM          hidden weights [512, 128], bias [512], input weights [512, 128], bias [512]; gates in the order i, f, g, o

The 8 kHz weights of silero_vad_op18_ifless.onnx are different ones: do not take those.
"""

import sys
import wave

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper


def weights(model):
    """Yields (kHz, flat array): both models are the branches of one If node."""
    branches = next(node for node in model.graph.node if node.op_type == "If").attribute
    for branch in branches:
        tensors = {
            node.output[0].split("__")[-1]: numpy_helper.to_array(node.attribute[0].t)
            for node in branch.g.node
            if node.op_type == "Constant" and node.attribute[0].HasField("t")
        }

        def get(suffix):
            (name,) = [name for name in tensors if name.endswith(suffix)]
            return tensors[name].astype("<f4").ravel()

        parts = [get("stft.forward_basis_buffer")]
        for layer in range(4):
            parts += [get(f"encoder.{layer}.reparam_conv.weight"), get(f"encoder.{layer}.reparam_conv.bias")]
        parts += [get("decoder.decoder.2.weight"), get("decoder.decoder.2.bias")]
        parts += [get("rnn.weight_hh"), get("rnn.bias_hh"), get("rnn.weight_ih"), get("rnn.bias_ih")]
        yield (16 if branch.name == "then_branch" else 8), np.concatenate(parts)


def speech(path, khz):
    """The samples of an 8 kHz file; for 16 kHz each twice. (Crude, but the same everywhere: the images are a test of the upper bins.)"""
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return np.repeat(samples, khz // 8).astype(np.float32) / 32768


def probabilities(path, samples, khz):
    """One per 32 ms, each window with the end of the one before it in front."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    length = 32 * khz
    context, state = np.zeros(length // 8, np.float32), np.zeros((2, 1, 128), np.float32)
    for start in range(0, len(samples) - length + 1, length):
        window = np.concatenate([context, samples[start : start + length]])
        context = window[-(length // 8) :]
        inputs = {"input": window[None], "state": state, "sr": np.array(khz * 1000, np.int64)}
        output, state = session.run(None, inputs)
        yield float(output[0, 0])


def main(model_path, hark):
    for khz, flat in weights(onnx.load(model_path)):
        flat.tofile(f"{hark}/assets/silero/silero{khz}k.bin")
        samples = speech(f"{hark}/fixtures/audio/caller.wav", khz)
        with open(f"{hark}/fixtures/audio/caller.silero{khz}k.txt", "w") as file:
            for probability in probabilities(model_path, samples, khz):
                print(f"{probability:.8f}", file=file)
        print(khz, "kHz:", flat.size, "weights")


if __name__ == "__main__":
    main(*sys.argv[1:])
