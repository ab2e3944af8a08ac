/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rows 5 and 11: time is Xen's, passes as on the host, and never goes back. */
#define _GNU_SOURCE
#include "xencheck.h"
#include "interrupts.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEVICES "/sys/devices/system/"

enum { TRIES = 5, HZ = 250, READERS = 4 };

static _Atomic long long *latest;
static _Atomic long *times_back;

/* Best of some: what is measured is the clock, not who else wants the host's CPUs. */
static void check_against_host(void)
{
	long long error, best_rate = NS_PER_SECOND, best_offset = NS_PER_SECOND;

	for (int try = 0; try < TRIES && best_rate > 10000000; try++) {
		long long monotonic[2], theirs[2], real = 0, their_real = 0;

		for (int end = 0; end < 2; end++) {
			monotonic[end] = now_ns(CLOCK_MONOTONIC);
			real = now_ns(CLOCK_REALTIME);
			sscanf(ask_host("time"), "%lld %lld", &theirs[end], &their_real);
			if (!end)
				sleep_ns(NS_PER_SECOND);
		}
		error = llabs((monotonic[1] - monotonic[0]) - (theirs[1] - theirs[0]));
		best_rate = error < best_rate ? error : best_rate;
		error = llabs(real - their_real);
		best_offset = error < best_offset ? error : best_offset;
	}
	check(5, best_rate <= 10000000, "a second is the host's second but for %lld us",
	      best_rate / 1000);
	check_proxy(5, best_offset <= NS_PER_SECOND, "Linux loses some of its start, before it has ticks",
		    "the date is the host's but for %lld us", best_offset / 1000);
}

static long count_ticks(void)
{
	char *before = read_file("/proc/interrupts"), *after;
	long long end = now_ns(CLOCK_MONOTONIC) + NS_PER_SECOND;
	long ticks;

	while (now_ns(CLOCK_MONOTONIC) < end)
		;
	after = read_file("/proc/interrupts");
	ticks = interrupts_of(after, "timer0") - interrupts_of(before, "timer0");
	free(before);
	free(after);
	return ticks;
}

/* Near HZ. On a busy host many come late and become one: only their order of magnitude is sure. */
static void check_ticks(void)
{
	long ticks = 0;

	pin_to_cpu(0);
	for (int try = 0; try < TRIES && ticks < HZ / 2; try++)
		ticks = count_ticks();
	check(5, HZ / 10 <= ticks && ticks <= 2 * HZ, "a busy CPU has %ld ticks in a second", ticks);
}

static int read_clock(void *cpu)
{
	long long end = now_ns(CLOCK_MONOTONIC) + NS_PER_SECOND / 2;

	pin_to_cpu((intptr_t)cpu);
	for (;;) {
		long long seen = atomic_load(latest);
		long long now = now_ns(CLOCK_MONOTONIC);

		if (now < seen)
			atomic_fetch_add(times_back, 1);
		while (now > seen && !atomic_compare_exchange_weak(latest, &seen, now))
			;
		if (now > end)
			return 0;
	}
}

static void check_monotonic(void)
{
	int readers = cpus_online() < READERS ? cpus_online() : READERS;
	pid_t children[READERS];

	latest = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	times_back = (_Atomic long *)(latest + 1);
	for (int i = 0; i < readers; i++)
		children[i] = start(read_clock, (void *)(intptr_t)(i * cpus_online() / readers));
	for (int i = 0; i < readers; i++)
		wait_for(children[i]);
	check(11, *latest && !*times_back, "read on %d CPUs at once, the clock never goes back",
	      readers);
}

static void check_stamps(void)
{
	char *log = read_log();
	double last = -1, first = -1, stamp;
	bool ordered = true;

	for (char *line = log; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		char *bracket = strchr(line, '[');
		if (!bracket || sscanf(bracket, "[%lf]", &stamp) != 1)
			continue;
		first = first < 0 ? stamp : first;
		ordered &= stamp >= last;
		last = stamp;
	}
	check(11, first >= 0 && first < 1, "the first message is stamped with %.3f s", first);
	if (cpus_online() == 1) /* else another CPU may take its stamp before and its place after */
		check(11, ordered, "no message is stamped earlier than the one before");
	check(11, last > first, "the stamps pass");
	free(log);
}

void check_time(void)
{
	const char *source = read_line(DEVICES "clocksource/clocksource0/current_clocksource");
	char text[128];

	check(5, !strcmp(source, "xen"), "the clock is %s", source);
	for (int cpu = 0; cpu < cpus_online(); cpu++) {
		snprintf(text, sizeof text, DEVICES "clockevents/clockevent%d/current_device", cpu);
		check(5, !strcmp(read_line(text), "xen"), "the timer of CPU %d is Xen's", cpu);
		snprintf(text, sizeof text, "installing Xen timer for CPU %d\n", cpu);
		check(5, log_has(text), "it was installed for CPU %d", cpu);
	}
	check(5, log_has("Xen: using vcpuop timer interface"), "it is the single-shot timer");
	check_against_host();
	check_ticks();
	check_monotonic();
	check_stamps();
}
