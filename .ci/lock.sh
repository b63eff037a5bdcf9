#!/usr/bin/env bash
# Renews both lock files: what pyproject.toml asks for, for every platform, with hashes. What is locked already stays as
# it is, unless the first argument is --upgrade. Takes uv from a temporary environment; the project does not need it.
#
#   bash .ci/lock.sh [--upgrade] [VERSION of llama-cpp-python]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --disable-pip-version-check uv
uv=$tools/venv/bin/uv
options=(--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header)
if [ "${1:-}" = --upgrade ]; then
    options+=(--upgrade)
    shift
fi

pinned=$tools/pinned.txt
cp .ci/requirements.lock "$pinned"
"$uv" pip compile "${options[@]}" --extra build --extra dev --no-emit-package llama-cpp-python pyproject.toml \
    --output-file "$pinned"
{
    echo "# Every package of the runtime, the tests and the build, but llama-cpp-python. Renewed by \`make lock\`."
    grep -v '^# Every package' "$pinned"
} >"$tools/requirements.lock"
{
    echo "# The inference library, built from source by .ci/setup.sh with this machine's CPU features." \
        "Renewed by \`make lock\`."
    version=${1:-$(sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' .ci/llama-cpp-python.lock)}
    echo "llama-cpp-python==$version" | "$uv" pip compile "${options[@]}" --no-deps --no-annotate \
        --no-binary llama-cpp-python -
} >"$tools/llama-cpp-python.lock"
if grep -l '://' "$tools"/*.lock; then
    echo "lock: error: a lock file names an address" >&2
    exit 1
fi
mv "$tools"/*.lock .ci/
