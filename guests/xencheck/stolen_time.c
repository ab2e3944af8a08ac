/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 10: the time that a vCPU wanted to run and could not is stolen time. */
#include "xencheck.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE_MS = 800, CAP = 50, CAPPED_MS = 2000 };

static long long stolen_ms(void)
{
	char *stat = read_file("/proc/stat");
	long long ticks = 0;

	if (stat)
		sscanf(stat, "cpu %*d %*d %*d %*d %*d %*d %*d %lld", &ticks);
	free(stat);
	return ticks * 1000 / sysconf(_SC_CLK_TCK);
}

static void be_busy(long long ns)
{
	long long end = now_ns(CLOCK_MONOTONIC) + ns;

	while (now_ns(CLOCK_MONOTONIC) < end)
		;
}

static void check_pause(void)
{
	long long before = stolen_ms(), stolen;

	ask_host("run-states before-pause");
	ask_host("pause %d", PAUSE_MS);
	be_busy(NS_PER_SECOND * 6 / 5);
	ask_host("run-states after-pause");
	stolen = stolen_ms() - before;
	value("stolen-by-pause-ms", stolen);
	check(10, stolen >= PAUSE_MS * 9 / 10, "of a pause of %d ms, %lld ms count as stolen", PAUSE_MS,
	      stolen);
}

static void check_cap(void)
{
	long long before, stolen;

	ask_host("cap %d", CAP);
	before = stolen_ms();
	ask_host("run-states before-cap");
	be_busy(CAPPED_MS * 1000000LL);
	ask_host("run-states after-cap");
	stolen = stolen_ms() - before;
	ask_host("cap 0");
	value("stolen-by-cap-ms", stolen);
	check(10, stolen >= CAPPED_MS * (100 - CAP) / 100 * 8 / 10,
	      "under a cap of %d %%, %lld of %d ms count as stolen", CAP, stolen, CAPPED_MS);
}

void check_stolen_time(void)
{
	long long before;

	pin_to_cpu(0);
	be_busy(NS_PER_SECOND / 10);
	before = stolen_ms();
	be_busy(NS_PER_SECOND / 2);
	note("%lld ms were stolen in half a second", stolen_ms() - before);
	check_pause();
	check_cap();
}
