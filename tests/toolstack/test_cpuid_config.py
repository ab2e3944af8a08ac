# SPDX-License-Identifier: GPL-2.0-or-later
"""``cpuid=``: the two forms, and what a guest then sees."""

from __future__ import annotations

import pytest

from pyxen.engine.emulator.engine import EmulatorEngine
from pyxen.errors import PyxenError
from pyxen.hypervisor.cpuid import CpuidPolicy
from pyxen.toolstack.cpuid_config import parse_cpuid

NOTHING = "x" * 32


def policy(*specifications: str) -> CpuidPolicy:
    """Of the emulated CPU."""
    engine = EmulatorEngine(64, 1)
    return CpuidPolicy(engine.native_cpuid, 1000, 1, 0, 0x20000, parse_cpuid(specifications))


def test_names_become_bits() -> None:
    assert parse_cpuid(["host,sse3=0,pclmulqdq=k,fpu=1"]) == {
        (1, None, 2): NOTHING[:30] + "k0",
        (1, None, 3): NOTHING[:31] + "1",
    }
    assert parse_cpuid(["host"]) == {}


def test_fields_of_several_bits() -> None:
    overrides = parse_cpuid(["host,family=0x17,model=0x31,stepping=2"])
    assert overrides == {(1, None, 0): "xxxx00001000" + "0011" + "xxxx" + "1111" + "0001" + "0010"}
    assert policy("host,family=6,model=0x3c,stepping=1").leaf(1, 0)[0] == 0x306C1


def test_registers() -> None:
    bits = "x" * 11 + "0" + "x" * 20
    assert parse_cpuid([f"1:ecx={bits},edx={NOTHING}", f"0x7,0:ebx={bits}"]) == {
        (1, None, 2): bits,
        (1, None, 3): NOTHING,
        (7, 0, 1): bits,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sse3=0",
        "host,nonsense=1",
        "host,sse3",
        "host,sse3=y",
        "1:ecx=01",
        "1:efx=" + NOTHING,
        "z:ecx=" + NOTHING,
        "1:ecx=" + "2" * 32,
    ],
)
def test_mistakes_are_named(text: str) -> None:
    with pytest.raises(PyxenError, match="cpuid: "):
        parse_cpuid([text])


def test_features_can_be_taken_away_but_not_invented() -> None:
    plain = policy()
    sse3, avx, htt = 1, 1 << 28, 1 << 28
    assert plain.leaf(1, 0)[2] & sse3
    assert not policy("host,sse3=0").leaf(1, 0)[2] & sse3
    assert not policy("host,avx=1,vmx=1").leaf(1, 0)[2] & (avx | 1 << 5)
    assert not policy("host,avx=k").leaf(1, 0)[2] & avx
    assert policy("host,htt=1").leaf(1, 0)[3] & htt
    assert policy("host,sse3=x").leaf(1, 0) == plain.leaf(1, 0)
    assert not policy("7,0:ebx=" + "0" * 32).leaf(7, 0)[1]


def test_features_built_on_one_that_is_gone_go_too() -> None:
    ecx = policy("host,sse3=0").leaf(1, 0)[2]
    assert not ecx & (1 << 9 | 1 << 19 | 1 << 20)  # ssse3, sse4_1, sse4_2
    assert not policy("host,sse2=0").leaf(1, 0)[2] & 1


def test_leaves_can_end_earlier() -> None:
    assert policy("host,maxleaf=4").leaf(0, 0)[0] == 4
    assert policy("host,maxleaf=4").leaf(7, 0) == (0, 0, 0, 0)
    assert policy("host,maxleaf=99").leaf(0, 0)[0] == 13
    for wanted, limit in ((3, 3), (1, 2), (9, 5), (0, 5)):
        shown = policy(f"host,maxhvleaf={wanted}")
        assert shown.leaf(0x40000000, 0)[0] == 0x40000000 + limit
        assert any(shown.leaf(0x40000000 + limit, 0)) or limit == 4
        if limit < 5:
            assert not any(shown.leaf(0x40000005, 0))
