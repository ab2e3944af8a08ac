# SPDX-License-Identifier: GPL-2.0-or-later
"""From a card's configuration to what it is connected to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pyxen.backends.net import Link
from pyxen.backends.net.links.none import NoLink
from pyxen.backends.net.links.pcap import PcapLink
from pyxen.backends.net.links.switch import SwitchLink
from pyxen.backends.net.links.user import UserLink
from pyxen.errors import PyxenError
from pyxen.testing.fake_doors import FakeDoors
from pyxen.toolstack.devices.nic import NicConfig, parse_nic
from pyxen.toolstack.devices.vif import make_link, open_vif


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYXEN_RUN", str(tmp_path / "run"))
    return tmp_path / "run"


def make(fake: FakeDoors, config: NicConfig) -> Link:
    return make_link(fake.doors, config, open_vif(config, 1))


def test_none(fake: FakeDoors) -> None:
    link = make(fake, parse_nic("none"))
    assert isinstance(link, NoLink)


@pytest.mark.usefixtures("passt")
@pytest.mark.parametrize(("spec", "mtu"), [("user", "65520"), ("mtu=1400", "1400")])
def test_user(fake: FakeDoors, spec: str, mtu: str) -> None:
    config = replace(parse_nic(spec), mac="00:16:3e:00:00:01")
    link = make(fake, config)
    assert isinstance(link, UserLink)
    options = Path(f"/proc/{link._opened.pid}/cmdline").read_text().split("\0")
    assert options[options.index("--mtu") + 1] == mtu
    assert "--no-map-gw" in options
    link.release()


def test_a_switch_is_in_the_run_folder_for_its_owner_alone(fake: FakeDoors, run: Path) -> None:
    link = make(fake, parse_nic("switch=lan"))
    assert isinstance(link, SwitchLink)
    for folder in (run, run / "switches", run / "switches" / "lan"):
        assert folder.stat().st_mode & 0o777 == 0o700
    link.release()
    (run / "switches" / "lan").chmod(0o750)
    with pytest.raises(PyxenError, match="others can get into it"):
        make(fake, parse_nic("switch=lan"))


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b"])
def test_names_of_switches(fake: FakeDoors, run: Path, name: str) -> None:
    with pytest.raises(PyxenError, match="is no name for a switch"):
        make(fake, parse_nic(f"switch={name}"))
    assert not run.exists()


def test_pcap(fake: FakeDoors, tmp_path: Path) -> None:
    link = make(fake, parse_nic(f"none,pcap={tmp_path}/card.pcap"))
    assert isinstance(link, PcapLink)
    link.release()
    assert (tmp_path / "card.pcap").stat().st_size == 24


def test_tap_and_bridge_say_what_they_need(fake: FakeDoors) -> None:
    needed = "/dev/net/tun|needs root|there is no device nobridge"
    for spec in ("tap=tap5", "bridge=nobridge"):
        if spec.startswith("tap") and os.geteuid() == 0:
            continue
        with pytest.raises(PyxenError, match=needed):
            make(fake, replace(parse_nic(spec), devid=0))
    with pytest.raises(PyxenError, match="'nowhere' is no address"):
        make(fake, parse_nic("tap=tap5,ip=nowhere"))
