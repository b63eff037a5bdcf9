#!/usr/bin/env bash
# Runs the tests of this folder on llama.cpp's Vulkan backend, with Mesa's software device (`make test-vulkan`).
#
#   tests/vulkan/run.sh [ARGUMENTS OF PYTEST]
#
# The first time it installs Debian's packages (setup.sh), and builds llama-cpp-python for Vulkan into .venv-vulkan. The
# compiled pipelines of the device are cached in ~/.cache/qwenctl/pipelines; without them each process takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

here=$PWD/build/vulkan
bash tests/vulkan/setup.sh </dev/null
if [ -d "$here/include" ]; then export VULKAN_SDK=${VULKAN_SDK:-$here}; fi
VENV=.venv-vulkan CMAKE_ARGS="-DGGML_VULKAN=ON${CMAKE_ARGS:+ $CMAKE_ARGS}" bash .ci/setup.sh </dev/null

# Only this driver, so that no GPU is used; ggml uses a device of type CPU only if it is named.
VK_DRIVER_FILES=$(compgen -G "$here/driver.json" || compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' | head -n 1)
export VK_DRIVER_FILES VK_ICD_FILENAMES=$VK_DRIVER_FILES GGML_VK_VISIBLE_DEVICES=0
export VK_LAYER_PATH=$here/layers VK_INSTANCE_LAYERS=VK_LAYER_QWENCTL_memory
export MESA_SHADER_CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/qwenctl/pipelines
export TEST_VULKAN=1
exec .venv-vulkan/bin/python -m pytest tests/vulkan --timeout 3600 "$@"
