#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prepares the virtual environment .venv of this tree; `make` calls it before anything else.
#
#   scripts/setup.sh run     what running needs
#   scripts/setup.sh dev     and what the tests and checks need
#
# Missing system packages are installed when root calls, and named otherwise. A second call
# finds the stamp of the first one and does nothing.
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

# Prints the Debian packages that are missing, on one line.
missing_packages() {
    if ! command -v "${PYTHON:-python3}" >/dev/null; then
        printf 'python3 python3-venv '
    elif ! "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null; then
        printf 'python3-venv '
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || printf 'ca-certificates '
    if [ "$scope" = dev ]; then
        command -v gcc >/dev/null || printf 'gcc libc6-dev '
        command -v as >/dev/null || printf 'binutils '
        command -v cpio >/dev/null || printf 'cpio '
        [ -e /usr/include/xen/xen.h ] || printf 'libxen-dev '
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
# A moved tree, another Python or a changed project file asks for a new installation.
key=$({ pwd; "$python" -VV; cat pyproject.toml; } | sha256sum)
stamp=".venv/stamp-$scope"
if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

echo "setup: installing pyxen into .venv"
"$python" -m venv --clear .venv
case $scope in
    run) .venv/bin/python -m pip install -q --disable-pip-version-check --editable . ;;
    dev) .venv/bin/python -m pip install -q --disable-pip-version-check --editable '.[dev]' ;;
    *) fail "unknown scope $scope" ;;
esac
# The development environment can run everything.
echo "$key" >.venv/stamp-run
echo "$key" >"$stamp"
