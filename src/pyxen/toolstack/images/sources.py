# SPDX-License-Identifier: GPL-2.0-or-later
"""Where this machine gets Debian's packages from, so that an image can be made from the same place.

apt's configuration may be spread over many files in two formats. `apt-get indextargets` prints what
came of it, one line for each list of packages: the repository, the suite, the component, and, once
the list has been fetched, who publishes it. Other publishers' repositories are left out: an image
is Debian and nothing else.

A guest can use a repository if it is reached by HTTP, and if it is not on the machine's own
loopback address, which is another machine in the guest. The same holds for a proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from pyxen.toolstack.images.packages import Apt, AptError

_FIELDS: Final = ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN", "CODENAME", "ARCHITECTURE")
_FORMAT: Final = "|".join(f"$({field})" for field in _FIELDS)
_PUBLISHERS: Final = ("Debian", "Debian Backports")
_RELEASE: Final = re.compile(r"[a-z]+")
_PROXIES: Final = {
    "Acquire::http::Proxy": "http_proxy",
    "Acquire::https::Proxy": "https_proxy",
}
"""apt's settings, and the variables of the environment that hold where they are not set."""


class Source(Struct, frozen=True):
    """One repository, as a line of `sources.list` names it."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


class Sources(Struct, frozen=True):
    """What an image is made from.

    Attributes:
        codename: the Debian release, such as "bookworm".
        here: this machine's sources of that release.
        guest: those that a guest can use.
        proxies: lines of apt's configuration, for a guest.
    """

    codename: str
    here: tuple[Source, ...]
    guest: tuple[Source, ...]
    proxies: tuple[str, ...]


def machine_sources(apt: Apt) -> Sources:
    """Find the sources that apt uses on this machine.

    Raises:
        AptError: none of them is Debian's, or their lists were never fetched.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in apt.index_targets(_FORMAT):
        uri, suite, component, publisher, codename, architecture = line.split("|")
        if publisher in _PUBLISHERS and architecture == "amd64":
            found.setdefault((uri.rstrip("/"), suite, codename), []).append(component)
    # "bookworm", of which "bookworm-updates" is a part
    releases = [codename for _, _, codename in found if _RELEASE.fullmatch(codename)]
    if not releases:
        raise AptError("apt has no lists of Debian's packages: is this Debian?")
    here = tuple(
        Source(uri, suite, tuple(dict.fromkeys(components)))
        for (uri, suite, codename), components in found.items()
        if codename.partition("-")[0] == releases[0]
    )
    return Sources(
        codename=releases[0],
        here=here,
        guest=tuple(source for source in here if reachable_from_guest(source.uri)),
        proxies=tuple(_proxies(apt)),
    )


def reachable_from_guest(address: str) -> bool:
    """Whether a repository or proxy at this address can be used in a guest."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a name


def _proxies(apt: Apt) -> Iterator[str]:
    for setting, variable in _PROXIES.items():
        proxy = apt.setting(setting) or os.environ.get(variable, "")
        if reachable_from_guest(proxy):
            yield f'{setting} "{proxy}";'
