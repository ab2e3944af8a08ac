# SPDX-License-Identifier: GPL-2.0-or-later
"""xl.cfg to a configuration of a domain and back, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.errors import PyxenError
from pyxen.toolstack.config import (
    DomainConfig,
    format_config,
    from_json,
    options,
    read_file,
    read_text,
    to_json,
)
from pyxen.toolstack.config.cpulist import parse_cpus
from pyxen.toolstack.config.domain import ACTIONS
from pyxen.toolstack.config.writer import format_disk, format_nic
from pyxen.toolstack.console_log import parse_console_log
from pyxen.toolstack.devices.channel import parse_channel
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import parse_nic

MINIMAL = 'name = "web"\nkernel = "/boot/vmlinuz"\n'


def read(text: str, *overrides: str) -> DomainConfig:
    return read_text(MINIMAL + text, "g.cfg", overrides).config


def test_the_least() -> None:
    assert read("") == DomainConfig(Path("/boot/vmlinuz"), name="web")


def test_everything() -> None:
    text = """
        type = "pv"
        builder = "generic"
        ramdisk = '/boot/initrd'
        root = "/dev/xvda ro"; extra = "console=hvc0"
        uuid = "3f0e5e2c-1b7f-4c3a-9d45-0a1b2c3d4e5f"
        memory = 0x100
        maxmem = "512"
        vcpus = 2
        maxvcpus = 010      # octal, as in C
        cpu_weight = 512
        cap = 50
        cpus = [ "0", "400" ]
        cpus_soft = "401-402"
        cpuid = "host,avx=0"
        disk = [ "/images/root.img,raw,xvda,rw",
                 "/images/a,b.img,raw,xvdb,ro", ]
        vif = [ "" , "bridge=xenbr0,rate=10Mb/s" ]
        channel = [ "name=agent,connection=socket,path=/run/agent" ]
        console_log = "/var/log/web.log,timestamp"
        on_poweroff = "preserve"
        on_reboot = "rename-restart"
        on_crash = "restart"
        on_watchdog = "destroy"
        max_grant_frames = 32
        max_maptrack_frames = 0
        max_grant_version = 1
        max_event_channels = 127
        engine = "emulator"
        system_map = "/boot/System.map"
    """.replace("/images/a,b.img,raw,xvdb,ro", "xvdb,ro,target=/images/a,b.img").replace(
        "xvdb,ro,", "vdev=xvdb,access=ro,"
    )
    config = read(text)
    assert config == DomainConfig(
        kernel=Path("/boot/vmlinuz"),
        ramdisk=Path("/boot/initrd"),
        command_line="root=/dev/xvda ro console=hvc0",
        name="web",
        uuid="3f0e5e2c-1b7f-4c3a-9d45-0a1b2c3d4e5f",
        memory_mib=256,
        max_memory_mib=512,
        vcpus=2,
        max_vcpus=8,
        weight=512,
        cap=50,
        hard_affinity=(parse_cpus("0"), 1 << 400),
        soft_affinity=(3 << 401,) * 8,
        cpuid={(1, None, 2): "xxx0" + "x" * 28},
        disks=(
            parse_disk("/images/root.img,raw,xvda,rw"),
            parse_disk("vdev=xvdb,access=ro,target=/images/a,b.img"),
        ),
        nics=(parse_nic(""), parse_nic("bridge=xenbr0,rate=10Mb/s")),
        channels=(parse_channel("name=agent,connection=socket,path=/run/agent"),),
        console_log=parse_console_log("/var/log/web.log,timestamp"),
        on_poweroff="preserve",
        on_reboot="rename-restart",
        on_crash="restart",
        on_watchdog="destroy",
        max_grant_frames=32,
        max_maptrack_frames=0,
        max_grant_version=1,
        max_event_channels=127,
        engine="emulator",
        system_map=Path("/boot/System.map"),
    )


def test_overrides_come_after_the_file() -> None:
    text = "memory = 64\nextra = 'a'\ndisk = ['/a,raw,xvda']\n"
    config = read(text, "memory=128", "extra+=' b'", "disk += ['/b,raw,xvdb']")
    assert (config.memory_mib, config.command_line) == (128, "a b")
    assert [disk.target for disk in config.disks] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    (
        ("memory = 0", (), "g.cfg:3: memory: 0 is not from 1 to 16777216"),
        ("memory = 'much'", (), "g.cfg:3: memory: 'much' is no number"),
        ("memory = '1 '", (), "g.cfg:3: memory: '1 ' is no number"),
        ("memory = 089", (), "g.cfg:3: memory: '089' is no number"),
        ("memory = [1]", (), "g.cfg:3: memory: is a list, and should be a single value"),
        ("memory = 1\nmemory += 2", (), "g.cfg:4: memory: += cannot be used with numbers"),
        ("\nvcpus = 2\nmaxvcpus = 1", (), "g.cfg:5: maxvcpus: 1 is less than vcpus, 2"),
        ("vcpus = 129", (), "g.cfg:3: vcpus: 129 asked for, expected 1 to 128"),
        ("memory = 64\nmaxmem = 32", (), "g.cfg:4: maxmem: 32 MiB is less than memory, 64"),
        ("disk = '/a,raw,xvda'", (), "g.cfg:3: disk: is a single value, and should be a list"),
        ("disk = [\n'/a,raw,xvda',\n'/b']", (), "g.cfg:5: disk '/b': no vdev, such as xvda"),
        ("disk = [['/a,raw,xvda']]", (), "g.cfg:3: disk: has a list in its list"),
        (
            "disk = ['/a,raw,xvda', '/b,raw,xvda']",
            (),
            "g.cfg:3: disk: there are several disks xvda",
        ),
        ("vif = ['mac=1']", (), "g.cfg:3: net 'mac=1': mac: '1' is not like"),
        ("cpuid = 'host,foo=1'", (), "g.cfg:3: cpuid: 'foo=1': expected NAME=VALUE"),
        ("uuid = '17'", (), "g.cfg:3: uuid: '17' is no UUID"),
        ("type = 'hvm'", (), "g.cfg:3: type: pyxen runs PV guests so far"),
        ("type = 'vm'", (), "g.cfg:3: type: unknown type 'vm'"),
        ("builder = 'hvm'", (), "g.cfg:3: builder: pyxen runs PV guests so far"),
        ("on_crash = 'explode'", (), "g.cfg:3: on_crash: 'explode' is none of destroy, restart"),
        (
            "on_crash = 'soft-reset'",
            (),
            "g.cfg:3: on_crash: soft-reset: pyxen cannot do this",
        ),
        ("image = 'debian'", (), "g.cfg:2: kernel: image brings its own"),
        ("kernel = ''", (), "g.cfg:3: kernel: the name of the file is empty"),
        ("name = '17'", (), "g.cfg:3: name: '17': a name of digits alone"),
        ("name = '../a'", (), "g.cfg:3: name: '../a': expected up to 80 letters"),
        ("engine = 'bochs'", (), "g.cfg:3: engine: 'bochs' is none of auto, emulator"),
        ("", ("memory=x",), "command line:1: expected a string, a number or a list (a string"),
        ("", ("vcpus=2", "memory=0"), "command line:2: memory: 0 is not from 1 to"),
        ("memory = 0", ("vcpus=2",), "g.cfg:3: memory: 0 is not from 1 to"),
        ("disk = []", ("disk += 'a'",), "command line:1: disk: += joins list and list"),
    ),
)
def test_mistakes_name_file_and_line(text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(PyxenError) as refused:
        read(text, *overrides)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("name = 'a'", "g.cfg:1: no kernel is given (nor an image)"),
        ("kernel = '/a'", "g.cfg:1: no name is given"),
        ("name = 'a'\nbootloader = 'pygrub'", "g.cfg:2: bootloader: pyxen runs none yet"),
    ),
)
def test_what_must_be_there(text: str, message: str) -> None:
    with pytest.raises(PyxenError) as refused:
        read_text(text, "g.cfg")
    assert str(refused.value).startswith(message)


def test_what_is_left_out_is_told() -> None:
    text = (
        "memroy = 1\nhap = 1\nxyzzy = []\npci = ['00:01.0']\nacpi = 0\ncmdline = 'a'\nroot = 'b'\n"
    )
    reading = read_text(MINIMAL + text, "g.cfg")
    assert reading.notes == (
        "g.cfg:3: memroy: unknown option (is memory meant?); left out",
        "g.cfg:5: xyzzy: unknown option; left out",
        "g.cfg:6: pci: pyxen has nothing for it yet; left out",
        "g.cfg: of no meaning for a PV guest: hap, acpi",
        "g.cfg:9: root: left out, as cmdline is given",
    )
    assert reading.config.command_line == "a"


def test_an_image_is_kernel_and_ramdisk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "pyxen" / "images" / "mine"
    folder.mkdir(parents=True)
    (folder / "kernel").write_bytes(b"k")
    (folder / "ramdisk").write_bytes(b"r")
    meta = {"description": "d", "packages": {}, "recipe": "r", "pulled": "p"}
    (folder / "meta.json").write_text(json.dumps(meta))
    config = read_text("name = 'a'\nimage = 'mine'", "g.cfg").config
    assert (config.kernel, config.ramdisk) == (folder / "kernel", folder / "ramdisk")
    assert config.command_line == "console=hvc0"
    (folder / "disk").write_bytes(b"d")
    (folder / "meta.json").write_text(json.dumps(meta | {"disk": True}))
    with pytest.raises(PyxenError, match=r"^g\.cfg:2: image: it has a disk, and each domain needs"):
        read_text("name = 'a'\nimage = 'mine'", "g.cfg")
    config = read_text("name='a'\nimage='mine'\ndisk=['/copy,raw,xvda']", "g.cfg").config
    assert config.command_line == "console=hvc0 root=/dev/xvda ro"
    with pytest.raises(PyxenError, match=r"^g\.cfg:2: image: no image none"):
        read_text("name = 'a'\nimage = 'none'", "g.cfg")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "g.cfg"
    path.write_text(MINIMAL)
    assert read_file(path, ["memory=64"]).config.memory_mib == 64
    overrides = ["name='a'", "kernel='/k'"]
    assert read_file(Path("/dev/null"), overrides).config == DomainConfig(Path("/k"), name="a")
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(PyxenError, match=r"g\.cfg: the configuration is no text in UTF-8"):
        read_file(path)
    with pytest.raises(PyxenError, match="missing: cannot read the configuration: No such file"):
        read_file(tmp_path / "missing")


# The way back

NAMES = st.sampled_from(("web", "a-1", "A.b_c+d:e", "1a"))
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
PATHS = TEXTS.filter(lambda text: text not in ("", ".")).map(lambda text: Path("/x") / text)
RATES = st.builds(
    "{}{}/s{}".format,
    st.integers(1000, 4000),
    st.sampled_from(("KB", "Kb", "MB", "Mb")),
    st.sampled_from(("", "@20ms", "@333us", "@2s")),
)


@st.composite
def disks(draw: Callable[..., str], vdev: str) -> str:
    parts = draw(
        st.lists(
            st.sampled_from(("no-discard", "untrusted", "direct-io-safe", "cache=writethrough")),
            unique=True,
        )
    )
    parts += draw(st.sampled_from(([], ["persistent-grants=1"], ["sector-size=4096"])))
    rates = draw(st.lists(RATES, max_size=1))
    parts += [f"rate={rate}" for rate in rates]
    parts += draw(st.sampled_from(([], ["iops=500"], ["access=ro"], ["devtype=cdrom"])))
    image_format = draw(st.sampled_from(("raw", "qcow2", "vmdk")))
    target = draw(st.sampled_from(("/a", "/a,b", "/a=b, c", "/vdev=x", "nbd", "a b")))
    return ",".join([*parts, f"format={image_format}", f"vdev={vdev}", f"target={target}"])


@st.composite
def nics(draw: Callable[..., str]) -> str:
    mode = draw(st.sampled_from(("", "user", "bridge=xenbr1", "bridge", "tap=tap0", "switch=lan")))
    parts = [mode] if mode else []
    if mode in ("", "user"):
        parts += draw(
            st.lists(
                st.sampled_from(
                    ("hostfwd=tcp:2222:22", "hostfwd=udp:[::1]:53:53", "host-loopback")
                ),
                unique=True,
            )
        )
    parts += draw(
        st.lists(
            st.sampled_from(
                (
                    "mac=0:16:3e:1:2:ff",
                    "devid=3",
                    "mtu=9000",
                    "untrusted",
                    "ip=10.0.0.2",
                    "pcap=/tmp/a.pcap",
                    "gatewaydev=eth0",
                    "vifname=web0",
                )
            ),
            unique=True,
        )
    )
    parts += [f"rate={rate}" for rate in draw(st.lists(RATES, max_size=1))]
    return ",".join(parts)


CPUID = st.dictionaries(
    st.tuples(st.integers(0, 0xFFFF_FFFF), st.none() | st.integers(0, 9), st.integers(0, 3)),
    st.text("01xk", min_size=32, max_size=32),
    max_size=3,
)
ENDS = st.sampled_from(ACTIONS)
CHANNELS = st.sampled_from(
    (
        "name=a,connection=pty",
        "name=b,connection=socket,path=/run/b,overflow=keep",
        "name=c,connection=pty,limit=9",
    )
)
LOGS = st.sampled_from(("/log", "log,timestamp", "log,limit=10M", "log,limit=1,keep=2"))


@st.composite
def configs(draw: Callable[..., int]) -> DomainConfig:
    memory, vcpus = draw(st.integers(1, 4096)), draw(st.integers(1, 64))
    more = st.none() | st.integers(1, 64)
    more_memory, more_vcpus = draw(more), draw(more)
    return draw(  # type: ignore[return-value]
        st.builds(
            DomainConfig,
            kernel=PATHS,
            ramdisk=st.none() | PATHS,
            command_line=TEXTS,
            name=NAMES,
            uuid=st.just("") | st.uuids().map(str),
            memory_mib=st.just(memory),
            max_memory_mib=st.just(more_memory and memory + more_memory),
            vcpus=st.just(vcpus),
            max_vcpus=st.just(more_vcpus and vcpus + more_vcpus),
            weight=st.integers(1, 65535),
            cap=st.integers(0, 400),
            cpuid=CPUID,
            disks=st.tuples(disks("xvda").map(parse_disk), disks("d3p1").map(parse_disk)).map(
                lambda both: both[: vcpus % 3]
            ),
            nics=st.lists(nics().map(parse_nic), max_size=2).map(tuple),
            channels=st.lists(CHANNELS.map(parse_channel), max_size=2).map(tuple),
            console_log=st.none() | LOGS.map(parse_console_log),
            on_poweroff=ENDS,
            on_reboot=ENDS,
            on_crash=ENDS,
            on_watchdog=ENDS,
            max_grant_frames=st.integers(1, 1000),
            max_maptrack_frames=st.integers(0, 1000),
            max_grant_version=st.integers(1, 2),
            max_event_channels=st.integers(1, 100_000),
            engine=st.sampled_from(("auto", "emulator")),
            system_map=st.none() | PATHS,
        )
    )


@given(configs())
@settings(deadline=None, max_examples=60)
def test_what_is_printed_is_the_same_again(config: DomainConfig) -> None:
    reading = read_text(format_config(config), "printed")
    assert reading.config == config
    assert reading.notes == ()
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_the_shape_of_libxl() -> None:
    text = "memory = 64\nvcpus = 2\ndisk = ['/a,raw,xvda']\nvif = ['bridge=br0']\n"
    shown = to_json(read(text + "on_crash = 'rename-restart'\n"))
    assert shown["c_info"] == {"type": "pv", "name": "web"}
    build = shown["b_info"]
    assert (build["max_vcpus"], build["avail_vcpus"]) == (2, [0, 1])
    assert (build["max_memkb"], build["target_memkb"]) == (65536, 65536)
    assert build["sched_params"] == {"weight": 256, "cap": 0}
    assert shown["disks"][0]["pdev_path"] == "/a"
    assert shown["nics"][0]["bridge"] == "br0"
    assert shown["on_crash"] == "restart_rename"


@pytest.mark.parametrize("shown", ([], {}, None, {"c_info": {}, "b_info": 1}))
def test_json_that_is_no_configuration(shown: object) -> None:
    with pytest.raises(PyxenError, match=r"^configuration in JSON: "):
        from_json(shown)


@pytest.mark.parametrize("spec", (",hdc:cdrom,r", "/a,qcow2,xvda,ro"))
def test_disks_are_written_as_they_are_read(spec: str) -> None:
    assert parse_disk(format_disk(parse_disk(spec))) == parse_disk(spec)


def test_cards_are_written_as_they_are_read() -> None:
    assert format_nic(parse_nic("")) == "user"


def refusal(work: Callable[[], object]) -> str:
    """What is said against it; nothing if all is well."""
    try:
        work()
    except PyxenError as error:
        return str(error)
    return ""


@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=2))
@settings(deadline=None, max_examples=100)
def test_any_text_is_read_or_refused(text: str, overrides: list[str]) -> None:
    assert "\n" not in refusal(lambda: read_text(MINIMAL + text, "g.cfg", overrides))


OPTIONS = ("memory", "vcpus", "disk", "vif", "name", "uuid", "cpuid", "on_crash", "kernel", "cap")
VALUES = ("1", "-1", "0x", "'a'", "['a']", "[['a']]", "[]", "''", "'host,avx=9'", "'1:eax=1'")


@given(st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)), max_size=4))
@settings(deadline=None, max_examples=100)
def test_any_value_of_an_option_is_read_or_refused(given: list[tuple[str, str]]) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in given)
    assert refusal(lambda: read_text(MINIMAL + text, "g.cfg"))[:6] in ("", "g.cfg:")


def test_no_option_is_of_two_kinds() -> None:
    kinds = (options.USED, options.OWN, options.NOT_YET, options.FOREIGN)
    assert sum(map(len, kinds)) == len(options.KNOWN)
