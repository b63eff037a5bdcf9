#!/usr/bin/env bash
# Installs what llama.cpp's Vulkan backend needs to build and run without a GPU, on Debian and its derivatives, and
# compiles the layer that gives the software device its own memory. Everything except packages goes to build/vulkan.
#
#   tests/vulkan/setup.sh         prints nothing if everything is installed
#
# Two packages of Debian 12 are too old; newer ones are unpacked there, not installed: the headers (1.3.239; llama.cpp
# needs 1.4, as Debian 13 has it), and Mesa's driver (22.3.6 ends in SIGSEGV; 25.0.7 of the backports, which is Debian
# 13's, does not). VULKAN_SDK names a folder with other headers (include/vulkan/vulkan.h).
set -euo pipefail
exec 1>&2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=build/vulkan
packages=(glslc libvulkan-dev libvulkan1 mesa-vulkan-drivers spirv-headers)
debian=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}" || true)

fail() {
    echo "vulkan: error: $1"
    exit 1
}

has_packages() {
    command -v glslc >/dev/null && compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null &&
        [ -f /usr/include/vulkan/vulkan.h ] && compgen -G '/usr/share/cmake/SPIRV-Headers/*.cmake' >/dev/null
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "as root: apt-get install ${packages[*]}"
    fi
}

install_packages() {
    has_packages && return
    command -v apt-get >/dev/null ||
        fail "without apt-get these have to be there, by their names on Debian: ${packages[*]}"
    echo "vulkan: installing ${packages[*]}"
    as_root apt-get update -qq || fail "apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends -y "${packages[@]}" >/dev/null ||
        fail "apt-get could not install ${packages[*]}"
    has_packages || fail "the packages of this system lack something: ${packages[*]} were installed"
}

# llama.cpp uses names that came with Vulkan 1.4.
are_new_enough() {
    grep -qs VK_API_VERSION_1_4 "$1/vulkan/vulkan_core.h"
}

# The archive that this machine's packages come from; apt-get knows it once it has the package lists.
archive_of() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v release="$1" '$2 == release && $3 == "main" { print $1; exit }'
}

# Unpack a package of another release of Debian, from the same archive, without installing it.
fetch() {
    local release=$1 package=$2 archive apt
    archive=$(archive_of "$debian")
    if [ -z "$archive" ]; then
        as_root apt-get update -qq || fail "apt-get update failed"
        archive=$(archive_of "$debian")
    fi
    [ -n "$archive" ] || fail "apt-get knows no archive of Debian $debian from which to take $package"
    apt=$PWD/$folder/apt
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >"$apt/sources"
    local options=(
        -qq -o "Dir::Etc::SourceList=$apt/sources" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o "APT::Sandbox::User=$(id -un)"
    )
    echo "vulkan: unpacking $package of $release"
    (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$package/$release") ||
        fail "$package of $release cannot be had"
    dpkg-deb -x "$apt/$package"_*.deb "$apt/unpacked"
}

find_headers() {
    if [ -n "${VULKAN_SDK:-}" ]; then
        are_new_enough "$VULKAN_SDK/include" || fail "VULKAN_SDK=$VULKAN_SDK has no Vulkan headers of 1.4 or later"
    elif ! are_new_enough /usr/include && ! are_new_enough "$folder/include"; then
        [ "$debian" = bookworm ] ||
            fail "the Vulkan headers are older than 1.4, and this is not Debian 12: VULKAN_SDK=FOLDER names others"
        fetch trixie libvulkan-dev
        are_new_enough "$folder/apt/unpacked/usr/include" || fail "the Vulkan headers of trixie are older than 1.4"
        rm -rf "$folder/include"
        mv "$folder/apt/unpacked/usr/include" "$folder/include"
        rm -rf "$folder/apt"
    fi
}

find_driver() {
    local library=$folder/libvulkan_lvp.so
    if [ "$debian" != bookworm ] || [ -f "$folder/driver.json" ]; then
        return
    fi
    fetch bookworm-backports mesa-vulkan-drivers
    mv "$folder"/apt/unpacked/usr/lib/*/libvulkan_lvp.so "$library"
    rm -rf "$folder/apt"
    if ldd -r "$library" 2>&1 | grep -E 'not found|undefined symbol'; then
        fail "Mesa's driver of bookworm-backports does not fit this system"
    fi
    echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "./libvulkan_lvp.so", "api_version": "1.4.305"}}' \
        >"$folder/driver.json"
}

# The layer, and the file by which the Vulkan loader finds it.
make_layer() {
    local source=tests/vulkan/memory_layer.c library=$folder/layers/libmemory_layer.so
    [ "$library" -nt "$source" ] && return
    command -v "${CC:-cc}" >/dev/null || fail "no C compiler (on Debian: apt-get install build-essential)"
    mkdir -p "$folder/layers"
    local include=$folder/include
    [ -d "$include" ] || include=${VULKAN_SDK:-/usr}/include
    "${CC:-cc}" -std=c11 -O2 -Wall -Wextra -fPIC -shared -I"$include" -o "$library" "$source" ||
        fail "$source could not be compiled"
    cat >"$folder/layers/memory_layer.json" <<'END'
{
  "file_format_version": "1.1.2",
  "layer": {
    "name": "VK_LAYER_QWENCTL_memory",
    "type": "GLOBAL",
    "library_path": "./libmemory_layer.so",
    "api_version": "1.3.0",
    "implementation_version": "1",
    "description": "Gives a software device a memory of its own"
  }
}
END
}

install_packages
mkdir -p "$folder"
find_headers
find_driver
make_layer
