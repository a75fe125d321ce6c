"""Processor time of a codec: ``python -m benchmarks.codec_speed [--codec FOLDER]``.

Encoder (ONNX Runtime, one thread, one frame at a time), range coder both ways, prefix decoder (torch, one thread). CPU
time, median over the runs, on frames of the rendered test scenes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene

FIRST_SEED = 80_000_000
BATCH = 16


def cpu_ms(call: Callable[[], object], runs: int) -> float:
    """Median processor time of a call in milliseconds; the first call warms up and does not count."""
    call()
    times = []
    for _ in range(runs):
        began = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - began))
    return statistics.median(times)


def measure(folder: Path, runs: int) -> dict[str, object]:
    """Times of one codec folder."""
    spec = load_codec_spec(folder)
    frames = [render(sample_scene(FIRST_SEED + i), spec.image_size_px) for i in range(BATCH)]
    encoder = OnnxEncoder(folder, threads=1)
    latents = encoder.encode(frames)
    latent = latents[0]
    payload = latent.payload(0, spec.latent_count)
    tables = FrequencyTables.load(folder / TABLES_FILE)
    decoder = load_prefix_decoder(folder)
    symbols = np.stack([each.symbols for each in latents])
    lengths = np.full(BATCH, spec.base_latents)
    return {
        "codec": spec.name,
        "whole_latent_bytes": len(payload),
        "encoder_ms_per_frame": round(cpu_ms(lambda: encoder.encode(frames[:1]), runs), 3),
        "range_encode_ms": round(cpu_ms(lambda: latent.payload(0, spec.latent_count), runs), 3),
        "range_decode_ms": round(cpu_ms(lambda: decode_chunk(payload, 0, spec.latent_count, tables), runs), 3),
        "prefix_decode_ms_per_frame": round(cpu_ms(lambda: decoder.decode(symbols, lengths), runs) / BATCH, 3),
        "prefix_decode_alone_ms": round(cpu_ms(lambda: decoder.decode(symbols[:1], lengths[:1]), runs), 3),
    }


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, action="append", help="codec folder; both bundled ones unless given")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders = arguments.codec or [bundled_codec_dir("klt"), bundled_codec_dir("meta_autoencoder")]
    json.dump([measure(folder, arguments.runs) for folder in folders], sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
