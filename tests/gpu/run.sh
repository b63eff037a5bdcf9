#!/usr/bin/env bash
# Measures plans on a machine with an NVIDIA GPU; not part of CI, which has none.
#
#   tests/gpu/run.sh [FOLDER]     FOLDER (default: build/gpu) needs up to 95 GB for a while
#
# 1. Builds llama-cpp-python for this GPU's architecture only, with all cores, into .venv.
# 2. Makes a random checkpoint in the shape of the 35B, with as many layers as fit, and quantizes it to Q4_K_M.
# 3. Under caps of 12, 16, 24 and 32 GB of GPU memory: planned against actual memory, forecast against measured tokens/s,
#    against llama-bench --fit-target, and against the best of a sweep over --n-cpu-moe.
#
# Read from the environment: LAYERS (of the model; default: what fits), CAPS ("12G 16G 24G 32G"), STEP (of the sweep, 2),
# LLAMA_BENCH (llama.cpp's program, built for CUDA; default: built here from the sources of llama-cpp-python; "none").
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=${1:-build/gpu}
cores=$(nproc)
python=.venv/bin/python

fail() {
    echo "gpu: error: $1" >&2
    exit 1
}

command -v nvidia-smi >/dev/null || fail "no nvidia-smi: is there an NVIDIA GPU and its driver?"
command -v nvcc >/dev/null || fail "no nvcc: the CUDA toolkit is needed to build llama.cpp"
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
flags="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$architecture"

CMAKE_ARGS=$flags CMAKE_BUILD_PARALLEL_LEVEL=$cores bash .ci/setup.sh </dev/null
mkdir -p "$folder"

# llama-bench, built from the same sources as the library.
llama_bench=${LLAMA_BENCH:-$folder/llama/bin/llama-bench}
if [ "$llama_bench" != none ] && [ ! -x "$llama_bench" ]; then
    version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
    "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation \
        --dest "$folder" "llama-cpp-python==$version"
    tar -xzf "$folder"/llama_cpp_python-"$version".tar.gz -C "$folder"
    sources=$folder/llama_cpp_python-$version/vendor/llama.cpp
    # shellcheck disable=SC2086 # the flags are words
    .venv/bin/cmake -S "$sources" -B "$folder/llama" -DCMAKE_BUILD_TYPE=Release -DGGML_RPC=ON -DLLAMA_CURL=OFF $flags
    .venv/bin/cmake --build "$folder/llama" --target llama-bench --parallel "$cores"
fi

model=$folder/35B-cut-Q4_K_M.gguf
if [ ! -f "$model" ]; then
    rm -rf "$folder/checkpoint"
    # shellcheck disable=SC2086 # no argument if there is none
    "$python" -m tests.gpu.model "$folder/checkpoint" ${LAYERS:-}
    .venv/bin/qwenctl quantize "$folder/checkpoint" --type Q4_K_M --threads "$cores" -o "$model"
    rm -rf "$folder/checkpoint"
fi

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
.venv/bin/qwenctl doctor --measure --disk || true
options=()
for cap in ${CAPS:-12G 16G 24G 32G}; do options+=(--cap "$cap"); done
[ "$llama_bench" = none ] || options+=(--llama-bench "$llama_bench")
"$python" -m tests.gpu.measure "$model" "${options[@]}" --step "${STEP:-2}" | tee "$folder/results.md"
