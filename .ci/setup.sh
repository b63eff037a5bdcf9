#!/usr/bin/env bash
# Makes .venv: the locked packages, llama-cpp-python built for this machine, and this project, editable.
#
# Everything is printed to stderr. When nothing has changed since the last run it returns at once. Read from the
# environment: PYTHON (the interpreter to use), VENV (another folder than .venv, for another build), CMAKE_ARGS (added to
# the flags below, as in CMAKE_ARGS=-DGGML_CUDA=ON), CC, CXX, CFLAGS, CXXFLAGS, CMAKE_BUILD_PARALLEL_LEVEL,
# XDG_CACHE_HOME (where the built wheel is kept).
set -euo pipefail
exec 1>&2
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
python=$venv/bin/python
flags="-DGGML_RPC=ON -DGGML_NATIVE=ON ${CMAKE_ARGS:-}"
wheels="${XDG_CACHE_HOME:-$HOME/.cache}/qwenctl/wheels"

# Why, and until when: qwenctl/machine/llama_build.py.
without_amx=$(sed -n 's/^WITHOUT_AMX = "\(.*\)"$/\1/p' qwenctl/machine/llama_build.py)

fail() {
    echo "setup: error: $1"
    exit 1
}

# Compilers for other processors, and old ones, do not know the flag; they have no AMX either.
knows() {
    "$1" "$without_amx" -E -x c /dev/null >/dev/null 2>&1
}

# Fails with one line unless a compiler makes a program: COMPILER LANGUAGE
check_compiler() {
    local said
    command -v "$1" >/dev/null ||
        fail "no compiler called $1 (on Debian: apt-get install build-essential; CC and CXX name others)"
    said=$(echo 'int main(void) { return 0; }' | "$1" -x "$2" -o /dev/null - 2>&1) ||
        fail "$1 cannot compile a program: $(echo "${said:-it says nothing}" | grep -m 1 . | cut -c1-200)
  hint: on Debian: apt-get install build-essential; CC and CXX name other compilers"
}

digest() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16
}

# What a compiled library depends on: the processor, the compilers, the C library and every flag.
build_inputs() {
    uname -sm
    if [ -r /proc/cpuinfo ]; then
        grep -E '^(model name|flags|Features|CPU (implementer|part))' /proc/cpuinfo | sort -u
    else
        sysctl -n machdep.cpu.brand_string
    fi
    getconf GNU_LIBC_VERSION || true
    "${CC:-cc}" --version || true
    "${CXX:-c++}" --version || true
    case "$flags" in
        *CUDA*) nvcc --version || true ;;
        *HIP*) hipcc --version || true ;;
        *VULKAN*) glslc --version || true ;;
    esac
    echo "$flags|${CFLAGS:-}|${CXXFLAGS:-}|${LDFLAGS:-}"
    cat .ci/llama-cpp-python.lock .ci/llama-cpp-python.cmake
}

# What .venv depends on.
setup_inputs() {
    pwd
    echo "$1"
    echo "${PYTHON:-}"
    cat pyproject.toml qwenctl/__init__.py .ci/requirements.lock .ci/setup.sh
}

is_usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if is_usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    if [ -x "$python" ] && is_usable "$python" && "$python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    local base
    base=$(find_python) ||
        fail "no Python 3.11 or later with venv (looked for ${PYTHON:-python3 and python3.11 to python3.14}; on Debian: apt-get install python3-venv)"
    echo "setup: making $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv"
}

# All of pip's words go to a log that is shown when it fails.
install() {
    if ! "$python" -m pip install --disable-pip-version-check --no-input --no-deps "$@" >"$venv/pip.log" 2>&1; then
        tail -n 30 "$venv/pip.log"
        fail "pip could not install $*"
    fi
}

is_whole() {
    [ -f "$1" ] && "$python" -c 'import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)' \
        "$1" 2>/dev/null
}

report_build() {
    local step
    while sleep 20; do
        step=$(grep -oE '\[[0-9]+/[0-9]+\]' "$1" | tail -n 1) || continue
        echo "setup: compiling $step"
    done
}

build_llama() (
    target=$1
    mkdir -p "$target"
    # In the cache folder itself, so that the finished wheel is put in place by a rename.
    work=$(mktemp -d "$wheels/.build.XXXXXX")
    log=$target/build.log
    echo "setup: building llama-cpp-python with: $flags ${CXXFLAGS:-}"
    echo "setup: once, some minutes; log: $log"
    : >"$log"
    report_build "$log" &
    reporter=$!
    trap 'kill "$reporter" 2>/dev/null; rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # No cache of pip's own: it would take a wheel built with other flags for this one.
    if ! TMPDIR=$work \
        CMAKE_ARGS="$flags '-DCMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/.ci/llama-cpp-python.cmake'" \
        CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(getconf _NPROCESSORS_ONLN)}" \
        PATH="$PWD/$venv/bin:$PATH" \
        "$python" -m pip wheel --disable-pip-version-check --no-input --verbose --no-cache-dir --no-deps \
        --no-build-isolation --no-binary llama-cpp-python --require-hashes --requirement .ci/llama-cpp-python.lock \
        --wheel-dir "$work/wheel" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log"
        fail "llama-cpp-python could not be built; the whole log is $log"
    fi
    mv -f "$work"/wheel/llama_cpp_python-*.whl "$target/"
)

install_llama() {
    local key=$1 target=$wheels/$1 wheel
    [ "$(cat "$venv/.llama-cpp-python" 2>/dev/null)" = "$key" ] && return
    wheel=$(ls "$target"/llama_cpp_python-*.whl 2>/dev/null || true)
    if ! is_whole "$wheel"; then
        rm -f "$target"/*.whl
        build_llama "$target"
        wheel=$(ls "$target"/llama_cpp_python-*.whl)
    fi
    install --force-reinstall "$wheel"
    "$python" -c 'import llama_cpp' || fail "the built llama-cpp-python cannot be imported; remove $target and try again"
    echo "$key" >"$venv/.llama-cpp-python"
}

main() {
    local key stamp
    if knows "${CC:-cc}"; then export CFLAGS="${CFLAGS:-} $without_amx"; fi
    if knows "${CXX:-c++}"; then export CXXFLAGS="${CXXFLAGS:-} $without_amx"; fi
    key=$(build_inputs 2>/dev/null | digest)
    stamp=$(setup_inputs "$key" | digest)
    if [ -x "$python" ] && [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    if ! ls "$wheels/$key"/llama_cpp_python-*.whl >/dev/null 2>&1; then  # before anything is installed
        check_compiler "${CC:-cc}" c
        check_compiler "${CXX:-c++}" c++
    fi
    make_venv
    rm -f "$venv/.stamp"
    echo "setup: installing the locked packages"
    install --require-hashes --requirement .ci/requirements.lock
    install_llama "$key"
    install --no-build-isolation --editable .
    echo "$stamp" >"$venv/.stamp"
    echo "setup: done"
}

main
