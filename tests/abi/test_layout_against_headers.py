# SPDX-License-Identifier: GPL-2.0-or-later
"""Every number and layout of `pyxen.abi` against Xen's public headers (Debian: libxen-dev).

A C program made from the modules prints each constant, each size and each offset as the compiler
sees them. In the other direction, every name that a header of 4.17 defines must be in its module or
be listed here with the reason why not.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

import pyxen.abi
from pyxen.abi import arch_x86_64, io_xs_wire
from pyxen.abi.layout import Layout

INCLUDE = Path("/usr/include/xen")

# Modules that describe no header.
OURS = {"layout", "names"}


@dataclass(frozen=True)
class Header:
    """Where a module comes from, and how its names map to C."""

    paths: tuple[str, ...]
    # Beginnings of Python names, and what C has in their place.
    prefixes: dict[str, str] = field(default_factory=dict)
    # Python names that C has only as an expression.
    expressions: dict[str, str] = field(default_factory=dict)
    # Patterns of C names that the module leaves out, and why.
    omitted: dict[str, str] = field(default_factory=dict)


BIT_NUMBER = "number of a bit whose mask has the same name"

HEADERS = {
    "arch_x86_64": Header(
        ("arch-x86/xen.h", "arch-x86/xen-x86_64.h"),
        expressions={
            "TI_DPL_MASK": "TI_GET_DPL(&(struct trap_info){ .flags = 0xff })",
            "TI_IF_MASK": "TI_GET_IF(&(struct trap_info){ .flags = 0xff })",
        },
        omitted={
            "_VGCF_.*|_XEN_X86_EMU_.*": BIT_NUMBER,
            "VGCF_I387_VALID|VGCF_IN_KERNEL|VGCF_IN_SYSCALL": "old spelling, gone after 4.17",
            "__(HYPERVISOR|MACH2PHYS)_VIRT_.*": "the same number for assembly",
            "machine_to_phys_mapping": "a C expression",
            "PRI.?_xen_.*": "formats of printf",
            "XEN_HAVE_.*": "tells C code which members exist",
            "XEN_EMULATE_PREFIX|XEN_CPUID": "assembly, tested by itself",
            "__DECL_REG.*": "helps the header define registers",
            "xen_arch_domainconfig": "between tools and Xen",
        },
    ),
    "callback": Header(("callback.h",), omitted={"_CALLBACKF_.*": BIT_NUMBER}),
    "cpuid": Header(("arch-x86/cpuid.h",), omitted={"_XEN_CPUID_.*": BIT_NUMBER}),
    "elfnote": Header(
        ("elfnote.h",),
        omitted={"XEN_ELFNOTE_MAX": "grows with each version"},
    ),
    "errno": Header(("errno.h",), prefixes={"E": "XEN_E"}),
    "event_channel": Header(
        ("event_channel.h",),
        omitted={"EVTCHNOP_reset_cont": "within Xen only"},
    ),
    "features": Header(("features.h",)),
    "grant_table": Header(
        ("grant_table.h",),
        prefixes={"GNTMAP_guest_avail0": "_GNTMAP_guest_avail0"},
        expressions={"GRANT_STATUS_SIZE": "sizeof(grant_status_t)"},
        omitted={
            "_(GTF|GNTCOPY|GNTMAP)_.*": BIT_NUMBER,
            "grant_entry_v1(_t)?": "name of older versions of the interface",
            "GNTTABOP_error_msgs": "text",
        },
    ),
    "io_blkif": Header(("io/blkif.h",), omitted={"blkif_(vdev|sector)_t": "a C type"}),
    "io_console": Header(
        ("io/console.h",),
        expressions={
            "XENCONS_IN_SIZE": "sizeof(((struct xencons_interface *)0)->in)",
            "XENCONS_OUT_SIZE": "sizeof(((struct xencons_interface *)0)->out)",
        },
    ),
    "io_netif": Header(
        ("io/netif.h",),
        omitted={
            "_NET[TR]XF_.*|_XEN_NETIF_EXTRA_FLAG_MORE": BIT_NUMBER,
            "_?(XEN_NETIF_CTRL|xen_netif_ctrl).*|xen_netif_gref": (
                "of the control ring, for which no Linux asks"
            ),
        },
    ),
    "io_xenbus": Header(("io/xenbus.h",)),
    "io_xs_wire": Header(
        ("io/xs_wire.h",),
        omitted={
            "XS_WRITE_(NONE|CREATE|CREATE_EXCL)": "strings that no message uses",
            "XS_TYPE_COUNT": "grows with each version",
            "xsd_errors": "a table of C, tested by itself",
        },
    ),
    "memory": Header(
        ("memory.h",),
        expressions={
            "XENMEMF_ADDRESS_BITS_MASK": "XENMEMF_get_address_bits(~0u)",
            "XENMEMF_NODE_SHIFT": "__builtin_ctz(XENMEMF_node(0))",
        },
        omitted={
            "XENMEM_add_to_physmap_range|xen_add_to_physmap_range": (
                "name of older versions of the interface"
            ),
            "uint64_aligned_t": "a C type",
            "(XENMEM|xen_mem|mem)_(paging|access|sharing)_op.*": "between tools and Xen",
            "XENMEM_(SHARING_OP|FORK)_.*": "between tools and Xen",
            "XENMEM_access_.*": "between tools and Xen",
        },
    ),
    "nmi": Header(
        ("nmi.h",),
        omitted={
            "_XEN_NMIREASON_.*": BIT_NUMBER,
            "XEN_NMIREASON_parity_error": "name of older versions of the interface",
        },
    ),
    "physdev": Header(
        ("physdev.h",),
        omitted={
            "_XENIRQSTAT_.*": BIT_NUMBER,
            "PHYSDEVOP_pirq_eoi_gmfn": "v1 or v2, by the version of the interface",
            "PHYSDEVOP_(IRQ_STATUS_QUERY|SET_IOPL|SET_IOBITMAP|APIC_READ|APIC_WRITE)": (
                "name of older versions of the interface"
            ),
            "PHYSDEVOP_(ASSIGN_VECTOR|FREE_VECTOR|IRQ_NEEDS_UNMASK_NOTIFY|IRQ_SHARED)": (
                "name of older versions of the interface"
            ),
        },
    ),
    "sched": Header(("sched.h",)),
    "vcpu": Header(("vcpu.h",), omitted={"_VCPU_SSHOTTMR_.*": BIT_NUMBER}),
    "version": Header(
        ("version.h",),
        expressions={"XEN_COMMANDLINE_LEN": "sizeof(xen_commandline_t)"},
    ),
    "xen": Header(
        ("xen.h",),
        prefixes={"HYPERVISOR_": "__HYPERVISOR_"},
        omitted={
            "__HYPERVISOR_dom0_op|NR_EVENT_CHANNELS|MAX_VMASST_TYPE|console_(mfn|evtchn)": (
                "name of older versions of the interface"
            ),
            "XEN_FLEX_ARRAY_DIM|u?int64_aligned_t|__xen_mk_.*|xen_wc_sec_hi": "help for C code",
            "(xen|dom0)_vga_console_info(_t)?|xenctl_bitmap": "for dom0 and the tools",
        },
    ),
}

# Structures to which a version after 4.17 added members at the end; ours are those of 4.17.
GROWN = {"io_console.XENCONS_INTERFACE", "io_xs_wire.XENSTORE_DOMAIN_INTERFACE"}


def modules() -> dict[str, ModuleType]:
    names = (found.name for found in pkgutil.iter_modules(pyxen.abi.__path__))
    return {name: importlib.import_module(f"pyxen.abi.{name}") for name in names}


ABI = {name: module for name, module in modules().items() if name not in OURS}


def constants(module: ModuleType) -> dict[str, int]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int) and not name.startswith("_")
    }


def layouts(module: ModuleType) -> dict[str, Layout]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Layout)}


def exemptions(module: ModuleType) -> dict[str, str]:
    """Constants that the headers of 4.17 do not have, with the reason."""
    table: dict[str, str] = getattr(module, "NOT_IN_HEADERS", {})
    return table


def c_name(module: str, name: str) -> str:
    """How C spells a constant of ours."""
    header = HEADERS[module]
    if name in header.expressions:
        return header.expressions[name]
    for ours, theirs in header.prefixes.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@dataclass(frozen=True)
class Probe:
    """One number that we have and that the C program is to print."""

    name: str
    ours: int
    expression: str
    # A macro that the headers may not have: then there is nothing to compare.
    optional: bool = False

    def c_source(self) -> str:
        """Statements of C: the name, whether the number is below 0, and its 64 bits."""
        value = f"({self.expression})"
        source = (
            f'printf("%s %d %llu\\n", "{self.name}", {value} < 0, (unsigned long long){value});'
        )
        return f"#ifdef {self.expression}\n{source}\n#endif" if self.optional else source


def probes() -> Iterator[Probe]:
    for module_name, module in ABI.items():
        for name, value in constants(module).items():
            optional = name in exemptions(module)
            yield Probe(f"{module_name}.{name}", value, c_name(module_name, name), optional)
        for name, layout in layouts(module).items():
            where = f"{module_name}.{name}"
            yield Probe(f"{where}:sizeof", layout.size, f"sizeof({layout.ctype})")
            for member, offset in layout.offsets.items():
                at = f"offsetof({layout.ctype}, {member})"
                length = f"sizeof((({layout.ctype} *)0)->{member})"
                yield Probe(f"{where}:offsetof({member})", offset, at)
                yield Probe(f"{where}:sizeof({member})", layout.sizes[member], length)


def program(items: list[Probe]) -> str:
    """The C program. A line directive before each probe lets an error name the probe."""
    lines = [
        "#define __XEN_TOOLS__ 1",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#include <stdio.h>",
        "#include <xen/xen.h>",
        *(f"#include <xen/{path}>" for header in HEADERS.values() for path in header.paths),
        # Emulated cpuid is text for the assembler: let it assemble that.
        '__asm__(".text\\nforced_cpuid:\\n" XEN_CPUID "\\nforced_cpuid_end:\\n");',
        "extern const unsigned char forced_cpuid[], forced_cpuid_end[];",
        "int main(void)",
        "{",
        "const unsigned char *byte;",
    ]
    for number, probe in enumerate(items, 1):
        lines += [f'#line {number} "probe"', probe.c_source()]
    lines += [
        'printf("forced_cpuid ");',
        "for (byte = forced_cpuid; byte < forced_cpuid_end; byte++)",
        '    printf("%02x", *byte);',
        'printf("\\n");',
        "return 0;",
        "}",
    ]
    return "\n".join(lines) + "\n"


def compile_and_run(source: str, folder: Path) -> tuple[str, str]:
    """What the program prints, or else what the compiler complains about."""
    path = folder / "probe.c"
    path.write_text(source)
    command = ["gcc", "-w", "-fmax-errors=0", "-o", "probe", str(path)]
    built = subprocess.run(
        command,
        cwd=folder,
        # The complaints are read below: in English.
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        return "", built.stderr
    run = subprocess.run([folder / "probe"], capture_output=True, text=True, check=True)
    return run.stdout, ""


@pytest.fixture(scope="module")
def needs() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    if not (INCLUDE / "xen.h").exists():
        pytest.skip(f"no headers of Xen in {INCLUDE} (Debian: libxen-dev)")


@dataclass(frozen=True)
class Answers:
    """What C says: numbers by the name of the probe, complaints, and the bytes of XEN_CPUID."""

    numbers: dict[str, int]
    refused: dict[str, str]
    forced_cpuid: bytes


@pytest.fixture(scope="module")
def answers(needs: None, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("headers")
    items = list(probes())
    output, complaints = compile_and_run(program(items), folder)
    refused: dict[str, str] = {}
    if complaints:
        # Note those that do not compile, and ask again for the others.
        for number, text in re.findall(r"^probe:(\d+):.*?error: (.*)$", complaints, re.M):
            refused.setdefault(items[int(number) - 1].name, text)
        assert refused, complaints
        items = [item for item in items if item.name not in refused]
        output, complaints = compile_and_run(program(items), folder)
        assert not complaints, complaints
    numbers: dict[str, int] = {}
    forced_cpuid = b""
    for line in output.splitlines():
        name, *values = line.split()
        if name == "forced_cpuid":
            forced_cpuid = bytes.fromhex(values[0])
        else:
            negative, bits = map(int, values)
            numbers[name] = bits - (1 << 64) if negative else bits
    return Answers(numbers, refused, forced_cpuid)


@pytest.fixture(scope="module")
def newer(answers: Answers) -> bool:
    """The headers are of a version after 4.17."""
    return "vcpu.VCPUOP_register_runstate_phys_area" in answers.numbers


def test_every_module_has_its_header() -> None:
    assert set(HEADERS) == set(ABI)


def test_numbers_sizes_and_offsets_are_those_of_the_headers(answers: Answers, newer: bool) -> None:
    wrong = [f"{name}: {text}" for name, text in answers.refused.items()]
    compared = 0
    for probe in probes():
        if probe.name in answers.refused:
            continue
        if probe.optional and probe.name not in answers.numbers:
            continue
        theirs = answers.numbers[probe.name]
        grown = newer and probe.name.removesuffix(":sizeof") in GROWN
        if theirs != probe.ours and not (grown and theirs > probe.ours):
            wrong.append(f"{probe.name}: ours {probe.ours:#x}, the header's {theirs:#x}")
        compared += 1
    assert not wrong, "\n".join(wrong)
    assert compared > 1000


def test_forced_cpuid_is_the_instruction_of_the_header(answers: Answers) -> None:
    assert answers.forced_cpuid == arch_x86_64.XEN_CPUID


def test_errors_of_xenstore_are_those_of_the_header(needs: None, tmp_path: Path) -> None:
    source = """
        #include <errno.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <xen/io/xs_wire.h>
        int main(void)
        {
            for (unsigned i = 0; i < sizeof(xsd_errors) / sizeof(xsd_errors[0]); i++)
                puts(xsd_errors[i].errstring);
            return 0;
        }
    """
    output, complaints = compile_and_run(source, tmp_path)
    assert not complaints
    assert tuple(output.split()) == io_xs_wire.XSD_ERRORS


def test_exemptions_name_what_exists() -> None:
    for name, module in ABI.items():
        assert set(exemptions(module)) <= set(constants(module)), name


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S).replace("\\\n", " ")


def defined(text: str) -> Iterator[str]:
    """Names of the object-like macros, enumerators, structures and unions of a header."""
    yield from re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\S", text, re.M)
    yield from (f"XEN_{name}" for name in re.findall(r"^XEN_ERRNO\((\w+),", text, re.M))
    for body in re.findall(r"^(?:typedef )?enum\s*\w*\s*\{(.*?)^\}", text, re.M | re.S):
        body = re.sub(r"^\s*(#|XEN_ERRNO).*$", "", body, flags=re.M)
        yield from (item.split("=")[0].strip() for item in body.split(",") if item.strip())
    yield from re.findall(r"^(?:typedef )?(?:struct|union) (\w+)\s*\{", text, re.M)


@pytest.mark.parametrize("module", sorted(HEADERS))
def test_module_has_all_that_its_header_defines(module: str, answers: Answers, newer: bool) -> None:
    if newer:
        pytest.skip("the headers are of a version after 4.17, and define more")
    covered = {c_name(module, name) for name in constants(ABI[module])}
    covered |= {
        layout.ctype.removeprefix("struct ").removesuffix("_t")
        for layout in layouts(ABI[module]).values()
    }
    header = HEADERS[module]
    names = [
        name
        for path in header.paths
        for name in defined(without_comments((INCLUDE / path).read_text()))
    ]
    assert names
    left_out = dict.fromkeys(header.omitted, False)
    missing = []
    for name in names:
        reasons = [pattern for pattern in header.omitted if re.fullmatch(pattern, name)]
        left_out |= dict.fromkeys(reasons, True)
        if name not in covered and not reasons:
            missing.append(name)
    assert not missing, f"{module} lacks {', '.join(missing)}"
    unused = [pattern for pattern, used in left_out.items() if not used]
    assert not unused, f"{module}: left out, but not in the header: {', '.join(unused)}"
