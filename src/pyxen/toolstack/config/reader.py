# SPDX-License-Identifier: GPL-2.0-or-later
"""From the text of xl.cfg to a ``DomainConfig``.

xl warns of a value that makes no sense and goes on without it; here it is an error, with file and
line. Options that pyxen has nothing for are told and left out.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.toolstack.config import options
from pyxen.toolstack.config.domain import ACTIONS, ENGINES, MAX_WEIGHT, DomainConfig
from pyxen.toolstack.config.syntax import Setting, Text, parse
from pyxen.toolstack.console_log import ConsoleLogConfig, parse_console_log
from pyxen.toolstack.devices.channel import parse_channel
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import parse_nic

if TYPE_CHECKING:
    from pyxen.hypervisor.cpuid_names import Place
    from pyxen.toolstack.images import Image

COMMAND_LINE: Final = "command line"
_NUMBER: Final = re.compile(r"\s*([-+]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_DIGITS: Final = 20
_INT_MAX: Final = (1 << 31) - 1
_MIB_MAX: Final = 1 << 24
_NAME: Final = re.compile(r"[A-Za-z0-9_+.:-]{1,80}")

Item = TypeVar("Item")


class Reading(Struct, frozen=True):
    """A configuration, and what has to be said of it: one line each."""

    config: DomainConfig
    notes: tuple[str, ...]


def read_file(path: Path, overrides: Sequence[str] = ()) -> Reading:
    """Read a file; each override is ``name=value`` as it would be in it.

    ``/dev/null`` is an empty file, as for xl. Raises PyxenError with the file and the line.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise PyxenError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PyxenError(f"{path}: the configuration is no text in UTF-8: {error.reason}") from None
    return read_text(text, str(path), overrides)


def read_text(text: str, source: str, overrides: Sequence[str] = ()) -> Reading:
    """The same of a text; ``source`` is its name in messages."""
    # An override may add to what the file has set, so both are one text; and the lines of the
    # second part are not those of the file.
    if not overrides:
        return _Reader(parse(text, source), lambda line: f"{source}:{line}").read()
    first = text.count("\n") + 2
    parse(text, source)
    more = "\n".join(overrides)
    parse(more, COMMAND_LINE)

    def place(line: int) -> str:
        return f"{source}:{line}" if line < first else f"{COMMAND_LINE}:{line - first + 1}"

    try:
        settings = parse(f"{text}\n{more}", "")
    except PyxenError as error:  # a += that does not fit what is in the file
        _, line, message = str(error).split(":", 2)
        raise PyxenError(f"{place(int(line))}:{message}") from None
    return _Reader(settings, place).read()


class _Reader:
    """Takes the settings one by one; ``place`` tells where a line is."""

    def __init__(self, settings: dict[str, Setting], place: Callable[[int], str]) -> None:
        self._settings = settings
        self._place = place
        self._notes: list[str] = []

    def read(self) -> Reading:
        self._note_unused()
        self._check_type()
        image = self._image()
        kernel, ramdisk = (image.kernel, image.ramdisk) if image is not None else self._kernel()
        command_line = self._command_line()
        if command_line is None and image is not None:
            command_line = image.command_line
        vcpus = self._number("vcpus", 0, _INT_MAX) or 1  # xl takes 0 for 1
        max_vcpus = self._number("maxvcpus", 1, _INT_MAX)
        given = {
            "kernel": kernel,
            "ramdisk": ramdisk,
            "command_line": command_line,
            "name": self._name(),
            "uuid": self._uuid(),
            "memory_mib": self._number("memory", 1, _MIB_MAX),
            "max_memory_mib": self._number("maxmem", 1, _MIB_MAX),
            "vcpus": vcpus,
            "max_vcpus": max_vcpus,
            "weight": self._number("cpu_weight", 1, MAX_WEIGHT),
            "cap": self._number("cap", 0, _INT_MAX),
            "hard_affinity": self._affinity("cpus", max_vcpus or vcpus),
            "soft_affinity": self._affinity("cpus_soft", max_vcpus or vcpus),
            "cpuid": self._cpuid(),
            "disks": self._items("disk", parse_disk),
            "nics": self._items("vif", parse_nic),
            "channels": self._items("channel", parse_channel),
            "console_log": self._console_log(),
            "max_grant_frames": self._number("max_grant_frames", 1, _INT_MAX),
            "max_maptrack_frames": self._number("max_maptrack_frames", 0, _INT_MAX),
            "max_grant_version": self._number("max_grant_version", 1, 2),
            "max_event_channels": self._number("max_event_channels", 1, _INT_MAX),
            "engine": self._one_of("engine", ENGINES),
            "system_map": self._path("system_map"),
        }
        given |= {f"on_{name}": self._action(f"on_{name}") for name in ("poweroff", "reboot")}
        given |= {f"on_{name}": self._action(f"on_{name}") for name in ("crash", "watchdog")}
        config = self._build(given)
        if image is not None and image.disk is not None and not config.disks:
            raise self._fail(
                "image",
                f"it has a disk, and each domain needs its own: copy {image.disk} and give the "
                "copy as disk, such as ['copy.img,raw,xvda']",
            )
        return Reading(config, tuple(self._notes))

    def _build(self, given: dict[str, Any]) -> DomainConfig:
        values = {name: value for name, value in given.items() if value is not None}
        for top, start in (("max_memory_mib", "memory_mib"), ("max_vcpus", "vcpus")):
            if top in values and values[top] == values.get(start):
                del values[top]
        try:
            return DomainConfig(**values)
        except PyxenError as error:
            option = str(error).partition(":")[0]
            setting = self._settings.get(option)
            where = self._place(setting.line) if setting is not None else self._place(1)
            raise PyxenError(f"{where}: {error}") from None

    # What is told, and what is refused as a whole

    def _note_unused(self) -> None:
        foreign = []
        for name, setting in sorted(self._settings.items(), key=lambda item: item[1].line):
            where = self._place(setting.line)
            if name in options.NOT_YET:
                self._notes.append(f"{where}: {name}: pyxen has nothing for it yet; left out")
            elif name in options.FOREIGN:
                foreign.append(name)
            elif name not in options.KNOWN:
                self._notes.append(f"{where}: {name}: unknown option{_similar(name)}; left out")
        if foreign:
            self._notes.append(
                f"{self._place(1).rpartition(':')[0]}: of no meaning for a PV guest: "
                + ", ".join(foreign)
            )

    def _check_type(self) -> None:
        kind, builder = self._text("type"), self._text("builder")
        for option, value, pv in (("type", kind, "pv"), ("builder", builder, "generic")):
            if value not in (None, pv):
                known = value in ("hvm", "pvh")
                problem = "pyxen runs PV guests so far" if known else f"unknown type {value!r}"
                raise self._fail(option, problem)

    def _image(self) -> Image | None:
        name = self._text("image")
        if name is None:
            return None
        for option in ("kernel", "ramdisk"):
            if option in self._settings:
                raise self._fail(option, "image brings its own, so give one or the other")
        from pyxen.toolstack import images

        try:
            return images.find(name)
        except PyxenError as error:
            raise self._fail("image", str(error)) from None

    def _kernel(self) -> tuple[Path, Path | None]:
        kernel, ramdisk = self._path("kernel"), self._path("ramdisk")
        if kernel is None:
            if "bootloader" in self._settings:
                raise self._fail("bootloader", "pyxen runs none yet; give kernel and ramdisk")
            raise PyxenError(f"{self._place(1)}: no kernel is given (nor an image)")
        return kernel, ramdisk

    # Single options

    def _command_line(self) -> str | None:
        whole = self._text("cmdline")
        root, extra = self._text("root"), self._text("extra")
        if whole is not None:
            for option in ("root", "extra"):
                if option in self._settings:
                    where = self._place(self._settings[option].line)
                    self._notes.append(f"{where}: {option}: left out, as cmdline is given")
            return whole
        parts = ([f"root={root}"] if root is not None else []) + ([extra] if extra else [])
        return " ".join(parts) if parts else None

    def _name(self) -> str:
        name = self._text("name")
        if name is None:
            raise PyxenError(f"{self._place(1)}: no name is given")
        try:
            return check_name(name)
        except PyxenError as error:
            raise self._fail("name", str(error)) from None

    def _uuid(self) -> str | None:
        text = self._text("uuid")
        if text is None:
            return None
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise self._fail("uuid", f"{text!r} is no UUID") from None

    def _action(self, option: str) -> str | None:
        if self._text(option) == "soft-reset":
            raise self._fail(option, "soft-reset: pyxen cannot do this")
        return self._one_of(option, ACTIONS)

    def _affinity(self, option: str, vcpus: int) -> tuple[int, ...] | None:
        """A mask for each vCPU; a single string is for all of them."""
        texts = [item.text for item in self._texts(option, single=True)]
        if not texts:
            return None
        from pyxen.toolstack.config.cpulist import parse_cpus

        try:
            masks = tuple(parse_cpus(text) for text in texts)
        except PyxenError as error:
            raise self._fail(option, str(error)) from None
        whole = isinstance(self._settings[option].value, Text)
        return masks * vcpus if whole else masks

    def _cpuid(self) -> dict[Place, str] | None:
        if "cpuid" not in self._settings:
            return None
        from pyxen.toolstack.cpuid_config import parse_cpuid

        try:
            return parse_cpuid([item.text for item in self._texts("cpuid", single=True)])
        except PyxenError as error:
            raise self._fail("cpuid", str(error).removeprefix("cpuid: ")) from None

    def _console_log(self) -> ConsoleLogConfig | None:
        text = self._text("console_log")
        if text is None:
            return None
        try:
            return parse_console_log(text)
        except PyxenError as error:
            raise self._fail("console_log", str(error)) from None

    def _items(self, option: str, read: Callable[[str], Item]) -> tuple[Item, ...]:
        items = []
        for text in self._texts(option):
            try:
                items.append(read(text.text))
            except PyxenError as error:
                raise PyxenError(f"{self._place(text.line)}: {error}") from None
        return tuple(items)

    # Kinds of values

    def _fail(self, option: str, message: str) -> PyxenError:
        return PyxenError(f"{self._place(self._settings[option].line)}: {option}: {message}")

    def _text(self, option: str) -> str | None:
        setting = self._settings.get(option)
        if setting is None:
            return None
        if not isinstance(setting.value, Text):
            raise self._fail(option, "is a list, and should be a single value")
        return setting.value.text

    def _texts(self, option: str, *, single: bool = False) -> list[Text]:
        """A list of strings; with ``single`` a string stands for itself."""
        setting = self._settings.get(option)
        if setting is None:
            return []
        if isinstance(setting.value, Text):
            if not single:
                raise self._fail(option, "is a single value, and should be a list")
            return [setting.value]
        texts = [item for item in setting.value.items if isinstance(item, Text)]
        if len(texts) < len(setting.value.items):
            raise self._fail(option, "has a list in its list")
        return texts

    def _number(self, option: str, low: int, high: int) -> int | None:
        text = self._text(option)
        if text is None:
            return None
        if self._settings[option].added:
            raise self._fail(option, "+= cannot be used with numbers")
        number = _strtol(text)
        if number is None:
            raise self._fail(option, f"{text!r} is no number")
        if not low <= number <= high:
            raise self._fail(option, f"{number} is not from {low} to {high}")
        return number

    def _one_of(self, option: str, values: Sequence[str]) -> str | None:
        value = self._text(option)
        if value is not None and value not in values:
            raise self._fail(option, f"{value!r} is none of {', '.join(values)}")
        return value

    def _path(self, option: str) -> Path | None:
        text = self._text(option)
        if text == "":
            raise self._fail(option, "the name of the file is empty")
        return Path(text) if text is not None else None


def check_name(name: str) -> str:
    """What xenstore and the names of our files allow. Raises PyxenError."""
    if _NAME.fullmatch(name) is None:
        raise PyxenError(f"{name!r}: expected up to 80 letters, digits and any of - _ + . :")
    if name.isdigit():
        raise PyxenError(f"{name!r}: a name of digits alone could not be told from a domain id")
    return name


def _strtol(text: str) -> int | None:
    """As C's ``strtol`` with base 0 reads a whole string."""
    match = _NUMBER.fullmatch(text)
    if match is None or len(match[2]) > _DIGITS:
        return None
    digits = match[2]
    octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    return int(match[1] + digits, 8 if octal else 0)


def _similar(name: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, options.USED | options.OWN, 1)
    return f" (is {found[0]} meant?)" if found else ""
