#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepares the virtual environment .venv of this tree; `make` calls it before anything else.
#
#   scripts/setup.sh run     what running needs
#   scripts/setup.sh dev     and what the tests and checks need
#
# Missing system packages are installed when root calls, and named otherwise. A second call
# finds the stamps of the first one and does nothing.
#
# With a C compiler and Python's headers, parts of pyxen are compiled; without, it runs all the same,
# slower. Tests and checks ask for a compiler; to run, it is used if it is there.
set -eu
cd "$(dirname "$0")/.."
scope=$1
oldest="3.11"

fail() {
    echo "setup: $*" >&2
    exit 1
}

new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (${oldest%.*}, ${oldest#*.}))" 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    found=$(python3 --version 2>&1) || found="no python3"
    fail "Python $oldest or later is needed, and this machine has $found." \
        "Install one and name it: make PYTHON=/path/to/python3"
}

# Whether the Python $1 has the C headers that extension modules need.
has_headers() {
    "$1" -c 'import os, sysconfig as s, sys
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' 2>/dev/null
}

# Prints the Debian packages that are missing, on one line.
missing_packages() {
    if ! command -v "${PYTHON:-python3}" >/dev/null; then
        printf 'python3 python3-venv '
        [ "$scope" != dev ] || printf 'python3-dev '
    elif ! "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null; then
        printf 'python3-venv '
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || printf 'ca-certificates '
    if [ "$scope" = dev ]; then
        command -v gcc >/dev/null || printf 'gcc libc6-dev '
        # Only for Debian's Python: another one brings its headers or does without.
        if [ "$(command -v "${PYTHON:-python3}")" = /usr/bin/python3 ]; then
            has_headers /usr/bin/python3 || printf 'python3-dev '
        fi
        command -v as >/dev/null || printf 'binutils '
        command -v cpio >/dev/null || printf 'cpio '
        [ -e /usr/include/xen/xen.h ] || printf 'libxen-dev '
        command -v xenstore-ls >/dev/null || printf 'xenstore-utils '
        command -v ip >/dev/null || printf 'iproute2 '
        command -v passt >/dev/null || printf 'passt '
        command -v mmdebstrap >/dev/null || printf 'mmdebstrap '
        command -v ssh >/dev/null || printf 'openssh-client '
        [ "$(id -u)" = 0 ] || command -v fakeroot >/dev/null || printf 'fakeroot '
        PATH="$PATH:/usr/sbin" command -v mke2fs >/dev/null || printf 'e2fsprogs '
        # For those who are not root it may be outside of the path.
        PATH="$PATH:/usr/sbin" command -v tcpdump >/dev/null || printf 'tcpdump '
    fi
}

have_package_lists() {
    ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    have_package_lists || apt-get update -q
    # shellcheck disable=SC2086  # several words
    apt-get install -q -y --no-install-recommends $1 && return
    # The lists may name versions that the server no longer has.
    apt-get update -q
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends $1
}

missing=$(missing_packages)
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        fail "missing, under the names that Debian gives them: $missing"
    elif [ "$(id -u)" = 0 ]; then
        install_packages "$missing"
    else
        echo "setup: system packages are missing. Install them and call make again:" >&2
        echo "sudo apt-get install ${missing% }" >&2
        exit 1
    fi
fi

python=$(find_python)
if command -v "${CC:-gcc}" >/dev/null && has_headers "$python"; then
    compiler=yes
else
    compiler=no
fi

pip_install() {
    .venv/bin/python -m pip install -q --disable-pip-version-check "$@"
}

# A compiled module is found before the .py it was made of, even if that is newer.
remove_compiled() {
    rm -f .venv/stamp-sources
    find src -name '*.so' -delete
}

# The sums of all that goes into compiled modules: their .py files have a compiled form beside them.
compiled_sources() {
    {
        find src -name '*.so' | sed 's/\.[^/]*$/.py/'
        find src setup.py -name '*.pxd' -o -name '*.pyx' -o -name setup.py
    } | LC_ALL=C sort | xargs sha256sum 2>/dev/null | sha256sum
}

# What was installed, and from which sources it was compiled: without a compiler they are run as
# they are.
environment=$({ pwd; "$python" -VV; cat pyproject.toml; } | sha256sum)
sources=none
[ "$compiler" = no ] || sources=$(compiled_sources)
stamp=".venv/stamp-$scope"

if [ "$(cat "$stamp" 2>/dev/null)" != "$environment" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    echo "setup: installing pyxen into .venv"
    if [ "$compiler" = no ]; then
        echo "setup: no C compiler or no Python.h (Debian: gcc python3-dev); pyxen will be slower"
    fi
    "$python" -m venv --clear .venv
    remove_compiled
    case $scope in
        run) pip_install --editable . ;;
        dev) pip_install --editable '.[dev]' ;;
        *) fail "unknown scope $scope" ;;
    esac
    [ "$compiler" = no ] || sources=$(compiled_sources)
    echo "$sources" >.venv/stamp-sources
    # The development environment can run everything.
    echo "$environment" >.venv/stamp-run
    echo "$environment" >"$stamp"
elif [ "$(cat .venv/stamp-sources 2>/dev/null)" != "$sources" ]; then
    remove_compiled
    if [ "$compiler" = yes ]; then
        echo "setup: compiling pyxen anew"
        pip_install --no-deps --editable .
        sources=$(compiled_sources)
    fi
    echo "$sources" >.venv/stamp-sources
fi

# Bytecode of what has changed. Python would make and keep it when a module is first used, but in
# containers it is often told not to (PYTHONDONTWRITEBYTECODE), and then makes it at each start.
.venv/bin/python -m compileall -q src
