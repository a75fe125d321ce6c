"""Processor time of a codec: ``python -m benchmarks.codec_speed [--codec FOLDER]``.

Encoder (ONNX Runtime, one thread, one frame at a time; only where the folder has one), what encoding adds to the vision
tower (both in torch, one thread, side by side), range coder both ways, by themselves and given a key frame, prefix
decoder (torch, one thread, and on all cores). Processor time, median over the runs, on frames of the rendered test
scenes; on all cores the time that passes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from analysis.markdown import table, value_text, words
from edge_nodes.encoder import OnnxEncoder
from latentbus.reports.results_page import write_page
from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder, load_transform
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from training.codec.prefixes import encode_all
from training.codec.vlm import open_vlm

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


def passed_ms(call: Callable[[], object], runs: int) -> float:
    """Median time that a call takes on all cores, in milliseconds; the first call warms up and does not count."""
    torch.set_num_threads(os.cpu_count() or 1)
    call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    torch.set_num_threads(1)
    return statistics.median(times)


def measure(folder: Path, runs: int) -> dict[str, object]:
    """Times of one codec folder."""
    spec = load_codec_spec(folder)
    frames = [render(sample_scene(FIRST_SEED + i), spec.image_size_px) for i in range(BATCH)]
    _, frozen = open_vlm(bundled_vlm_dir(), spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    transform = load_transform(folder, spec)
    pixels = np.stack(frames[:1])
    tokens = frozen.image_path.of_frames(np.stack(frames))
    tower_ms = cpu_ms(lambda: frozen.image_path.of_frames(pixels), runs)
    beyond_ms = cpu_ms(lambda: encode_all(transform, tokens[:1]), runs)
    tables = FrequencyTables.load(folder / TABLES_FILE)
    decoder = load_prefix_decoder(folder)
    symbols = encode_all(transform, tokens)
    latent = EncodedLatent(symbols[0], tables)
    payload = latent.payload(0, spec.latent_count)
    lengths = np.full(BATCH, spec.base_latents)
    figures: dict[str, object] = {"codec": folder.name, "whole_latent_bytes": len(payload)}
    if spec.encoder_sha256 is not None and (folder / ENCODER_FILE).is_file():
        encoder = OnnxEncoder(folder, threads=1)
        figures["encoder_ms_per_frame"] = round(cpu_ms(lambda: encoder.encode(frames[:1]), runs), 3)
    if latent.can_be_key:
        given = EncodedLatent(symbols[1], tables, latent.as_key())
        coded = given.payload(0, spec.latent_count)
        key = latent.as_key()
        figures |= {
            "range_encode_given_key_ms": round(cpu_ms(lambda: given.payload(0, spec.latent_count), runs), 3),
            "range_decode_given_key_ms": round(
                cpu_ms(lambda: decode_chunk(coded, 0, spec.latent_count, tables, key), runs), 3
            ),
        }
    return figures | {
        "vision_tower_torch_ms": round(tower_ms, 3),
        "beyond_the_tower_torch_ms": round(beyond_ms, 3),
        "beyond_the_tower_share": round(beyond_ms / tower_ms, 4),
        "range_encode_ms": round(cpu_ms(lambda: latent.payload(0, spec.latent_count), runs), 3),
        "range_decode_ms": round(cpu_ms(lambda: decode_chunk(payload, 0, spec.latent_count, tables), runs), 3),
        "prefix_decode_ms_per_frame": round(cpu_ms(lambda: decoder.decode(symbols, lengths), runs) / BATCH, 3),
        "prefix_decode_on_all_cores_ms_per_frame": round(
            passed_ms(lambda: decoder.decode(symbols, lengths), runs) / BATCH, 3
        ),
        "prefix_decode_alone_ms": round(cpu_ms(lambda: decoder.decode(symbols[:1], lengths[:1]), runs), 3),
    }


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--codec", type=Path, action="append", help="codec folder; the bundled learned ones unless given"
    )
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--markdown", type=Path, help="write the figures as a page to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders = arguments.codec or [bundled_codec_dir("meta_autoencoder"), bundled_codec_dir("meta_autoencoder_detailed")]
    measured = [measure(folder, arguments.runs) for folder in folders]
    json.dump(measured, sys.stdout, indent=2)
    print()
    names = dict.fromkeys(name for figures in measured for name in figures)
    head, *rows = [[words(name), *(value_text(figures.get(name)) for figures in measured)] for name in names]
    write_page(arguments.markdown, "Time of the codec", table(head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
