#!/usr/bin/env bash
# The README's one command for a machine that only trains, run for real: an environment without TensorFlow,
# SeqIO and TFDS trains 5 steps from a cache that the full environment built.
#     bash tests/trainer_only.sh [UV]
set -euo pipefail
cd "$(dirname "$0")/.."
UV="${1:-uv}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
data=(configs/quickstart.py --quick "--data.cache_dir=$folder/cache" --train.steps=5 --train.checkpoint_every=5 --train.log_every=1)

$UV run itx data build "${data[@]}" --json "$folder/build.json"
lock=$(python3 -c "import json, sys; print(json.load(open(sys.argv[1]))['lock'])" "$folder/build.json")

export UV_PROJECT_ENVIRONMENT="$folder/venv"
$UV sync --quiet --only-group trainer && $UV pip install --quiet --no-deps -e . --python "$folder/venv"
for name in tensorflow seqio tensorflow_datasets; do
    if "$folder/venv/bin/python" -c "import $name" 2>/dev/null; then echo "$name is installed"; exit 1; fi
done
"$folder/venv/bin/itx" train "${data[@]}" --lock "$lock" --run_dir "$folder/run" --eval.max_examples=1
tail -1 "$folder/run/metrics.jsonl"
