/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 14: Linux collects changes of page tables and hands them over in multicalls.
 *
 * Its trace points tell of each entry that it adds to a multicall, and of each flush. The host counts
 * what arrives. Both count between two calls of xen_version, which are the reads of a file in
 * /sys/hypervisor.
 */
#define _GNU_SOURCE
#include "xencheck.h"
#include "trace.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEBIBYTES = 12, WINDOWS = 3, MMU_UPDATE = 1 };

static int edge;

static void call_xen_version(void)
{
	char text[32];

	if (pread(edge, text, sizeof text, 0) < 0)
		note("no edge of the window");
}

static int end_at_once(void *unused)
{
	(void)unused;
	return 0;
}

static bool begins(const char *text, size_t length, const char *wanted)
{
	return length == strlen(wanted) && !memcmp(text, wanted, length);
}

static void tell_counts(const struct trace *trace, int window)
{
	long flushes = 0, multicalls = 0, entries = 0, set_ptes = 0, others = 0;
	bool after_set_pte = false, of_set_pte = false;
	const char *name, *text;
	char label[64];
	size_t length;

	for (const char *line = trace->text; line && *line; line = trace_next(line)) {
		unsigned number = 0;
		char result[16] = "OK";
		bool added = false;

		name = trace_event(line, &length, &text);
		if (!name)
			continue;
		/* Each set_pte is one request, be it batched or a hypercall of its own. */
		if (begins(name, length, "xen_mc_batch"))
			of_set_pte = after_set_pte;
		after_set_pte = begins(name, length, "xen_mmu_set_pte");
		set_ptes += after_set_pte;
		if (begins(name, length, "xen_mc_flush") &&
		    sscanf(text, "flushing %u hypercalls", &number) == 1) {
			flushes += number > 0;
			multicalls += number > 1;
			entries += number > 1 ? number : 0;
		} else if (begins(name, length, "xen_mc_entry")) {
			added = sscanf(text, "op %u", &number) == 1;
		} else if (begins(name, length, "xen_mc_extend_args")) {
			added = sscanf(text, "extending op %u%*s by %*u bytes res %15s", &number, result) == 2;
		}
		others += added && number == MMU_UPDATE && !strcmp(result, "OK") && !of_set_pte;
	}
	note("window %d: %ld set_pte, %ld other changes, %ld flushes", window, set_ptes, others, flushes);
	snprintf(label, sizeof label, "multicalls-%d", window);
	value(label, multicalls);
	snprintf(label, sizeof label, "multicall-entries-%d", window);
	value(label, entries);
	snprintf(label, sizeof label, "mmu-requests-%d", window);
	value(label, set_ptes + others);
	check(14, multicalls > 0 && entries > multicalls,
	      "%ld multicalls had %ld entries, by the kernel's own account", multicalls, entries);
	check(14, set_ptes + others > 2 * flushes, "%ld changes of tables went in %ld flushes",
	      set_ptes + others, flushes);
}

static void run_window(int window)
{
	struct trace trace;

	trace_pause();
	trace_clear();
	trace_resume();
	call_xen_version();
	wait_for(start(end_at_once, NULL));
	call_xen_version();
	trace_pause();
	check(14, !trace_overran(), "no trace of them was lost");
	trace_read(&trace);
	tell_counts(&trace, window);
	trace_free(&trace);
}

void check_lazy_mmu(void)
{
	size_t size = MEBIBYTES << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (cpus_online() > 1) {
		skip(14, "counts are exact with one CPU only", "multicalls and their entries");
		return;
	}
	edge = open("/sys/hypervisor/version/extra", O_RDONLY);
	memset(memory, 1, size);
	if (edge < 0 || !trace_start("xen", 16384)) {
		skip(14, "no trace points", "multicalls and their entries");
		return;
	}
	ask_host("count");
	for (int window = 0; window < WINDOWS; window++)
		run_window(window);
	write_file("/sys/kernel/tracing/events/xen/enable", "0");
	close(edge);
	munmap(memory, size);
}
