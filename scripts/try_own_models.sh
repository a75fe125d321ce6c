#!/bin/sh
# Calibrates a codec for a tiny model of each of some families on your pictures, and answers through it with the demo:
# try_own_models.sh PICTURES [FAMILY...]
set -eu
[ $# -ge 1 ] || { echo "try_own_models.sh PICTURES [FAMILY...]" >&2; exit 2; }
pictures=$1
shift
[ $# -ge 1 ] || set -- qwen3_vl llava internvl gemma3
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for family in "$@"; do
    "$python" -m tests.tiny_models "$family" "$work/$family"
    "$python" -m latentbus codec calibrate --vlm "$work/$family" --images "$pictures" --output "$work/out-$family" \
        --cache "$work/cache" --threads 1 --json "$work/$family.json" >/dev/null
    # What a random model says has the form of no answer type, so that some questions fail: exit status 1.
    "$python" -m latentbus demo --models "$work/out-$family" --duration 8 --cameras 2 --workers 1 --no-compare \
        --work-dir "$work/demo" --json "$work/demo.json" >/dev/null || [ $? -eq 1 ]
    "$python" - "$family" "$work/$family.json" "$work/demo.json" <<'END'
import json, sys

family, report, demo = sys.argv[1], *(json.load(open(path)) for path in sys.argv[2:])
codec, rates = report["codec"], report["expect"]["rates"]
print(
    f"{family}: {codec['token_count']} tokens of {codec['token_dim']}, fingerprint {codec['fingerprint4']}, "
    f"{rates[0]['payload_bytes']:.0f} to {rates[-1]['payload_bytes']:.0f} bytes, agreement of the whole latent "
    f"{rates[-1]['agreement']:.0%}; demo: {demo['answered'] + demo['degraded']} of {demo['questions']} answered"
)
sys.exit(not demo["answered"] + demo["degraded"])
END
done
