# SPDX-License-Identifier: GPL-2.0-or-later
"""xl's syntax for channels."""

from __future__ import annotations

import logging

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.channel import ChannelConfig, parse_channel


@pytest.mark.parametrize(
    ("spec", "config"),
    (
        ("name=a,connection=pty", ChannelConfig("a", "pty")),
        (" connection = pty , name = org.my.1 ", ChannelConfig("org.my.1", "pty")),
        ("name=a,connection=socket,path=/run/a", ChannelConfig("a", "socket", "/run/a")),
        ("name=a,connection=pty,path=/run/a,backend=0", ChannelConfig("a", "pty")),
        ("name=a,connection=pty,limit=4096", ChannelConfig("a", "pty", limit=4096)),
        ("name=a,connection=pty,overflow=keep", ChannelConfig("a", "pty", overflow="keep")),
    ),
)
def test_what_users_write(spec: str, config: ChannelConfig) -> None:
    assert parse_channel(spec) == config


@pytest.mark.parametrize(
    ("spec", "message"),
    (
        ("", "connection: '' is none of pty, socket"),
        ("connection=pty", "it has no name"),
        ("name=a,connection=tcp", "connection: 'tcp' is none of pty, socket"),
        ("name=a,connection=PTY", "connection: 'PTY' is none of pty, socket"),
        ("name=a,connection=socket", "a socket needs path="),
        ("name,connection=pty", "'name' is not like name=value"),
        ("name=a=b,connection=pty", "'name=a=b' is not like name=value"),
        ("name=a,connection=pty,backend=driver", "backend: pyxen serves its consoles itself"),
        ("name=a,connection=pty,overflow=no", "overflow: 'no' is none of discard, keep"),
        ("name=a,connection=pty,limit=0", "limit: '0' is no number of bytes"),
        ("name=a,connection=pty,limit=1e6", "limit: '1e6' is no number of bytes"),
    ),
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(PyxenError) as caught:
        parse_channel(spec)
    assert str(caught.value).startswith(f"channel {spec!r}: {message}")


def test_an_unknown_parameter_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pyxen"):
        assert parse_channel("name=a,connection=pty,x=y") == ChannelConfig("a", "pty")
    assert "unknown parameter 'x'" in caplog.text


def test_the_nodes_are_libxls() -> None:
    config = ChannelConfig("agent", "socket", "/run/a", devid=2)
    assert config.backend_nodes() == {
        "protocol": "vt100",
        "name": "agent",
        "connection": "socket",
        "path": "/run/a",
    }
    assert config.frontend_nodes() == {"protocol": "vt100"}
    assert config.readonly_nodes() == {
        "name": "agent",
        "limit": "1048576",
        "type": "ioemu",
        "output": "chardev:libxl-channel2",
        "tty": "",
    }
    assert ChannelConfig("agent", "pty", devid=1).readonly_nodes()["output"] == "pty"
