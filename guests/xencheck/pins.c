/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rows 7 and 8: what Linux believes to be pinned is what is pinned.
 *
 * Linux marks the page of each pinned table with PG_pinned, which is PG_owner_priv_1, which is bit 37
 * of /proc/kpageflags. It traces each pin of an address space as xen_mmu_pgd_pin. The host compares
 * both with what the hypervisor knows, while nothing happens here. (The kernel's own
 * tables are pinned before it traces.)
 */
#include "xencheck.h"
#include "trace.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLEEPERS = 5, RUNS = 100, MAX_PFN = 1 << 18, OWNER_PRIVATE = 37 };

static uint64_t flags[MAX_PFN];
static uint64_t flags_after[MAX_PFN];

static long count_address_spaces(void)
{
	DIR *processes = opendir("/proc");
	struct dirent *process;
	char path[300], *maps;
	long count = 0;

	while ((process = readdir(processes))) {
		if (!isdigit(*process->d_name))
			continue;
		snprintf(path, sizeof path, "/proc/%s/maps", process->d_name);
		maps = read_file(path);
		count += maps && *maps; /* a thread of the kernel has none */
		free(maps);
	}
	closedir(processes);
	return count;
}

static void count_pins(long *pins, long *unpins)
{
	struct trace trace;

	trace_read(&trace);
	*pins = trace_count(&trace, "xen_mmu_pgd_pin");
	*unpins = trace_count(&trace, "xen_mmu_pgd_unpin");
	trace_free(&trace);
}

__attribute__((noreturn)) static int sleep_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		pause();
}

static size_t read_flags(uint64_t *into)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	size_t size = 0;
	ssize_t got;

	while (size < MAX_PFN * sizeof *into &&
	       (got = read(fd, (char *)into + size, MAX_PFN * sizeof *into - size)) > 0)
		size += got;
	close(fd);
	return size / sizeof *into;
}

static bool is_flagged(const uint64_t *from, size_t pfn)
{
	return from[pfn] >> OWNER_PRIVATE & 1;
}

static void check_flags(void)
{
	size_t pfns, total = 0;
	bool same = true;

	memset(flags, 1, sizeof flags); /* what is read needs no new table */
	memset(flags_after, 1, sizeof flags_after);
	pfns = read_flags(flags);
	for (size_t pfn = 0, first; pfn < pfns; pfn++) {
		if (!is_flagged(flags, pfn))
			continue;
		for (first = pfn; pfn < pfns && is_flagged(flags, pfn); pfn++)
			total++;
		printf("#flagged %zu %zu\n", first, pfn - first);
	}
	ask_host("tables");
	read_flags(flags_after);
	for (size_t pfn = 0; pfn < pfns; pfn++)
		same &= is_flagged(flags, pfn) == is_flagged(flags_after, pfn);
	check(7, total > 0, "%zu of %zu pages have the flag of a pinned table", total, pfns);
	check(7, same, "none came or went meanwhile");
}

void check_pins(void)
{
	long pins, unpins, pins_before, live = count_address_spaces();
	pid_t sleepers[SLEEPERS];

	count_pins(&pins, &unpins);
	if (!pins) {
		skip(8, "the kernel does not trace them from its start", "pins less unpins");
		check_flags();
		return;
	}
	check(8, pins - unpins == live, "%ld pins - %ld unpins: %ld address spaces", pins, unpins, live);
	for (int i = 0; i < SLEEPERS; i++)
		sleepers[i] = start(sleep_for_ever, NULL);
	live = count_address_spaces();
	count_pins(&pins, &unpins);
	check(8, pins - unpins == live, "with %d processes more: %ld address spaces", SLEEPERS, live);
	value("address-spaces", pins - unpins);
	check_flags();
	for (int i = 0; i < SLEEPERS; i++) {
		kill(sleepers[i], SIGKILL);
		wait_for(sleepers[i]);
	}
	count_pins(&pins_before, &unpins);
	ask_host("snapshot before-runs");
	for (int i = 0; i < RUNS; i++)
		run_nothing();
	ask_host("snapshot after-runs");
	live = count_address_spaces();
	count_pins(&pins, &unpins);
	check(8, pins - unpins == live, "after %d programs: %ld address spaces", RUNS, live);
	check(8, pins - pins_before == RUNS, "each program has been pinned once");
	value("pins-of-runs", pins - pins_before);
}
