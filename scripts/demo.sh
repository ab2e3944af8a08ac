#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Boots Debian's kernel as a Xen guest: to an interactive shell on a terminal; otherwise it runs a
# short script in the guest and powers off.
set -eu
pyxen="$(dirname "$0")/../.venv/bin/pyxen"

"$pyxen" image pull debian
if [ -t 0 ]; then
    exec "$pyxen" run --image debian
fi

# The guest's shell reads this from its console. The first line replaces it by one that neither
# echoes nor prompts, because its error output is no terminal.
"$pyxen" run --image debian --timeout 300 <<'EOF_GUEST'
stty -echo; sh 2>&1 | cat
echo
uname -a
cd /sys/hypervisor
grep . type guest_type version/*
dmesg | grep -i xen | head
poweroff -f
EOF_GUEST
