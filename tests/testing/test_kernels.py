# SPDX-License-Identifier: GPL-2.0-or-later
"""Small kernels: they are built once, run to their end, and the result says how it was."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.testing import kernels
from pyxen.testing.kernels import (
    BuildToolsMissing,
    KernelResult,
    build_kernel,
    check_build_tools,
    prepare_kernel,
    run_kernel,
)

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "hello_kernel"
Run = Callable[..., KernelResult]

try:
    check_build_tools()
except BuildToolsMissing as missing:
    pytestmark = pytest.mark.skip(str(missing))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a kernel whose ``kernel_main`` consists of these statements."""

    def run(body: str, *, before: str = "", **options: object) -> KernelResult:
        source = tmp_path / "kernel.c"
        source.write_text(
            f'#include "runtime.h"\n{before}\nvoid kernel_main(void)\n{{\n{body}\n}}\n'
        )
        return run_kernel(build_kernel(source), **options)  # type: ignore[arg-type]

    return run


class TestEnd:
    def test_shutdown_code(self, run: Run) -> None:
        result = run("shutdown(SHUTDOWN_reboot);")
        assert (result.exit_reason, result.code, result.crash) == ("reboot", 1, None)
        assert result.audit == ()

    def test_checks_that_hold(self, run: Run) -> None:
        result = run("EXPECT(3, 1 + 2); CHECK(start_info->nr_pages == 2048);")
        assert result.lines == ["ok 2 checks"]
        assert result.exit_reason == "poweroff"

    def test_checks_that_fail(self, run: Run) -> None:
        result = run("EXPECT(4, 1 + 2); CHECK(!start_info);")
        assert result.lines == [
            "kernel.c:5: 3, expected 4: 1 + 2",
            "kernel.c:5: not so: !start_info",
            "failed: 2 of 2 checks",
        ]
        assert (result.exit_reason, result.code) == ("crash", 3)

    def test_no_check_at_all_is_a_failure(self, run: Run) -> None:
        assert run("").exit_reason == "crash"

    def test_unexpected_trap(self, run: Run) -> None:
        result = run('asm volatile("ud2");')
        assert result.output.startswith("failed: trap 6,")
        assert result.exit_reason == "crash"

    def test_crash_by_the_hypervisor(self, run: Run) -> None:
        result = run('hypercall(set_trap_table, NULL); asm volatile("ud2");')
        assert result.exit_reason == "crash"
        assert result.code == 3
        assert result.crash is not None

    @pytest.mark.parametrize("body", ["for (;;) ;", "for (;;) hypercall(sched_op, SCHEDOP_block);"])
    def test_time_limit(self, run: Run, body: str) -> None:
        result = run(body, timeout=0.2)
        assert result.exit_reason == "timeout"
        assert 0.15 < result.seconds < 5


class TestRuntime:
    def test_console(self, run: Run) -> None:
        result = run(
            'printk("%d %ld %u %x %04x %lx %s %c%%\\n", -7, -8l, 9, 10, 11, 12ul, "a", 98);'
        )
        assert result.lines[0] == "-7 -8 9 a 000b c a b%"

    def test_memory_and_arguments(self, run: Run) -> None:
        result = run(
            'printk("%s %lu\\n", (char *)start_info->cmd_line, start_info->nr_pages);',
            command_line="a=1 b",
            memory_mib=12,
        )
        assert result.lines[0] == "a=1 b 3072"

    def test_try_catches_faults(self, run: Run) -> None:
        body = """
            EXPECT(TRAP_PAGE_FAULT, try_read((void *)UNMAPPED));
            EXPECT(UNMAPPED, last_cr2);
            EXPECT(0, last_trap.error);
            EXPECT(TRAP_PAGE_FAULT, try_write((void *)start_info->pt_base, 0));
            EXPECT(3, last_trap.error);
            EXPECT(NO_TRAP, try_read(start_info));
            EXPECT(TRAP_INVALID_OPCODE, TRY(asm volatile("ud2")));
            EXPECT(2, trap_counts[TRAP_PAGE_FAULT]);
        """
        assert run(body).lines == ["ok 8 checks"]

    def test_page_tables(self, run: Run) -> None:
        body = """
            unsigned long *page = alloc_page();
            unsigned long address = (unsigned long)page;
            EXPECT(virt_to_mfn(page) << 12 | PTE_KERNEL | PTE_NX, read_entry(address, 1));
            make_read_only(page);
            EXPECT(TRAP_PAGE_FAULT, try_write(page, 1));
            make_writable(page);
            EXPECT(NO_TRAP, try_write(page, 1));
            EXPECT(0, write_entry(find_entry(address, 1), 0));
            EXPECT(0, mmuext(MMUEXT_INVLPG_LOCAL, address, 0));
            EXPECT(TRAP_PAGE_FAULT, try_read(page));
            EXPECT(0, find_entry(UNMAPPED, 1));
        """
        assert run(body).lines == ["ok 7 checks"]

    def test_user_mode(self, run: Run) -> None:
        before = """
            static USER_DATA unsigned long seen;
            USER_CODE static void call(void) { seen = 5; user_syscall(42); }
            USER_CODE static void peek(void) { *(volatile char *)start_info_address(); }
        """.replace("start_info_address()", "0xffffffff80000000ul")
        body = """
            EXPECT(TRAP_SYSCALL, run_user(call, 0));
            EXPECT(42, last_trap.rax);
            EXPECT(5, seen);
            EXPECT(TRAP_PAGE_FAULT, run_user(peek, 0));
            EXPECT(PTE_USER, last_trap.error);
            EXPECT(3, last_trap.cs & 3);
        """
        assert run(body, before=before).lines == ["ok 6 checks"]

    def test_events(self, run: Run) -> None:
        body = """
            evtchn_bind_ipi_t ipi = {.vcpu = 0};
            evtchn_send_t send;
            EXPECT(0, hypercall(event_channel_op, EVTCHNOP_bind_ipi, &ipi));
            send.port = ipi.port;
            shared_info->evtchn_mask[0] &= ~(1ul << ipi.port);
            EXPECT(0, hypercall(event_channel_op, EVTCHNOP_send, &send));
            EXPECT(0, event_counts[ipi.port]);
            unmask_events();
            EXPECT(1, event_counts[ipi.port]);
        """
        assert run(body).lines == ["ok 4 checks"]

    def test_second_vcpu(self, run: Run) -> None:
        before = """
            static volatile int seen;
            static void second(void) { seen = 7; }
        """
        body = """
            EXPECT(0, start_vcpu(1, second));
            while (!seen)
                hypercall(sched_op, SCHEDOP_yield);
            EXPECT(7, seen);
        """
        assert run(body, before=before, vcpus=2).lines == ["ok 2 checks"]


class TestBuild:
    def test_built_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = tmp_path / "kernel.c"
        source.write_text('#include "runtime.h"\nvoid kernel_main(void) { CHECK(N); }\n')
        cache = tmp_path / "cache"
        first = build_kernel(source, defines=["N=1"], cache=cache)
        other = build_kernel(source, defines=["N=2"], cache=cache)
        assert first != other
        monkeypatch.setattr(kernels.subprocess, "run", lambda *a, **k: pytest.fail("built again"))
        assert build_kernel(source, defines=["N=1"], cache=cache) == first

    def test_header_counts(self, tmp_path: Path) -> None:
        source = tmp_path / "kernel.c"
        source.write_text(
            '#include "runtime.h"\n#include "n.h"\nvoid kernel_main(void) { CHECK(N); }\n'
        )
        header = tmp_path / "n.h"
        header.write_text("#define N 1\n")
        first = build_kernel(source, cache=tmp_path / "cache")
        header.write_text("#define N 0\n")
        second = build_kernel(source, cache=tmp_path / "cache")
        assert run_kernel(first).exit_reason == "poweroff"
        assert run_kernel(second).exit_reason == "crash"

    def test_several_sources(self, tmp_path: Path) -> None:
        main, part = tmp_path / "main.c", tmp_path / "part.S"
        main.write_text(
            '#include "runtime.h"\nlong seven(void);\n'
            "void kernel_main(void) { EXPECT(7, seven()); }\n"
        )
        part.write_text("        .globl seven\nseven:  mov $7, %eax\n        ret\n")
        assert run_kernel(build_kernel(main, part)).exit_reason == "poweroff"

    def test_error_of_the_compiler(self, tmp_path: Path) -> None:
        source = tmp_path / "kernel.c"
        source.write_text("nonsense\n")
        with pytest.raises(PyxenError, match=r"kernel\.c:1"):
            build_kernel(source)

    def test_missing_source(self, tmp_path: Path) -> None:
        with pytest.raises(PyxenError, match="cannot read the source"):
            build_kernel(tmp_path / "none.c")

    def test_missing_compiler(self, tmp_path: Path) -> None:
        with pytest.raises(BuildToolsMissing, match="no gcc-of-nobody"):
            build_kernel(tmp_path / "kernel.c", compiler="gcc-of-nobody")

    def test_missing_headers(self, tmp_path: Path) -> None:
        compiler = tmp_path / "cc"
        compiler.write_text("#!/bin/sh\nexit 1\n")
        compiler.chmod(0o755)
        with pytest.raises(BuildToolsMissing, match="libxen-dev"):
            check_build_tools(str(compiler))


class TestExample:
    def test_docstring(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = doctest.testmod(kernels)
        assert result.attempted > 4
        assert result.failed == 0

    def test_domain_can_be_looked_at(self) -> None:
        with prepare_kernel(build_kernel(EXAMPLE / "hello.c"), vcpus=2) as prepared:
            assert len(prepared.domain.vcpus) == 2
            result = prepared.run()
            assert prepared.domain.stopping == "poweroff"
        assert result.statistics.hypercalls["xen_version"][0] == 2

    def test_prints_what_its_readme_says(self) -> None:
        result = run_kernel(build_kernel(EXAMPLE / "hello.c"))
        end = f"{result.exit_reason} {result.code}\n"
        shown = re.findall(r"\n\n```\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)[-1]
        assert shown == result.output + end
