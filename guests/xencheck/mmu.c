/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rows 3 and 9: the virtual MMU does what programs rely on, and page tables stay read-only. */
#define _GNU_SOURCE
#include "xencheck.h"
#include "trace.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 256 };

static sigjmp_buf after_fault;
static void *volatile fault_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	fault_address = info->si_addr;
	siglongjmp(after_fault, 1);
}

/* Whether a write to an address faults there. */
static bool write_faults(volatile char *address)
{
	fault_address = NULL;
	if (sigsetjmp(after_fault, 1) == 0) {
		*address = 1;
		return false;
	}
	return fault_address == address;
}

static void fill(unsigned *words, unsigned seed)
{
	for (size_t i = 0; i < PAGES * PAGE / sizeof *words; i++)
		words[i] = seed + i;
}

static bool is_filled(const unsigned *words, unsigned seed)
{
	for (size_t i = 0; i < PAGES * PAGE / sizeof *words; i++)
		if (words[i] != seed + i)
			return false;
	return true;
}

static int change_copy(void *words)
{
	if (!is_filled(words, 5))
		return 1;
	fill(words, 6);
	return !is_filled(words, 6);
}

static void check_mappings(void)
{
	size_t size = PAGES * PAGE;
	unsigned *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &action, NULL);
	fill(words, 5);
	check(3, ended_well(wait_for(start(change_copy, words))) && is_filled(words, 5),
	      "a child's writes to memory that it shares stay its own");
	mprotect(words, size, PROT_READ);
	check(3, write_faults((char *)words + size / 2), "a write to a read-only page faults there");
	check(3, is_filled(words, 5), "its content is what it was");
	mprotect(words, size, PROT_READ | PROT_WRITE);
	check(3, !write_faults((char *)words + size / 2), "made writable again, it is written");
	fill(words, 5);
	words = mremap(words, size, 2 * size, MREMAP_MAYMOVE);
	check(3, words != MAP_FAILED && is_filled(words, 5), "moved and grown, it has its content");
	madvise(words, size, MADV_DONTNEED);
	check(3, words[size / 8] == 0, "given back, it is empty");
	munmap(words, 2 * size);
	check(3, write_faults((char *)words), "unmapped, it is gone");
	signal(SIGSEGV, SIG_DFL);
}

static const char *const mmu_events[] = {
	"xen_mmu_alloc_ptpage", "xen_mmu_release_ptpage", "xen_mmu_pgd_pin", "xen_mmu_pgd_unpin",
	"xen_mmu_set_pte", "xen_mmu_set_pmd", "xen_mmu_set_pud", "xen_mmu_set_p4d",
	"xen_mmu_ptep_modify_prot_start", "xen_mmu_ptep_modify_prot_commit", "xen_mmu_write_cr3",
};

static int protect_and_end(void *unused)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	*page = 1;
	return mprotect(page, PAGE, PROT_READ);
}

static void check_events_fire(void)
{
	struct trace trace;

	if (!trace_start("xen", 4096)) {
		skip(3, "no trace points", "each way of changing tables is used");
		return;
	}
	wait_for(start(protect_and_end, NULL));
	run_nothing();
	trace_stop(&trace);
	for (size_t i = 0; i < sizeof mmu_events / sizeof *mmu_events; i++)
		check(3, trace_count(&trace, mmu_events[i]), "%s has fired", mmu_events[i]);
	trace_free(&trace);
}

void check_mmu(void)
{
	check(3, log_has("(preserve-AD)"), "updates that preserve accessed and dirty are offered");
	check_mappings();
	check_events_fire();
	check_proxy(9, log_has("Checked W+X mappings: passed"),
		    "the tables' mappings are not shown to programs",
		    "no page is writable and executable");
	check_proxy(9, !log_has("BUG:") && !log_has("Oops"), "a refused entry would be a BUG",
		    "the kernel maps its tables read-only, and gets no fault by that");
}
