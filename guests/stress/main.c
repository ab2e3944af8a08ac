/* SPDX-License-Identifier: GPL-2.0-or-later */
/* stress: many kinds of work at once for so many seconds, then TAP, then the end of the guest.
 *
 * Runs as the first process. Its argument is the time in seconds.
 */
#include "stress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct worker {
	const char *name;
	int row; /* of the table in SPECIFICATION.md */
	const char *(*round)(unsigned *seed);
};

static const struct worker workers[] = {
	{ "fork and exec", 8, fork_round },
	{ "fork and exec, in parallel", 8, fork_round },
	{ "changes of mappings", 3, memory_round },
	{ "changes of mappings, in parallel", 3, memory_round },
	{ "signals with an altered context", 26, signal_round },
	{ "32-bit programs", 15, program32_round },
	{ "local descriptor tables", 15, ldt_round },
	{ "threads", 12, thread_round },
	{ "single steps of another process", 26, trace_round },
	{ "breakpoints of the CPU", 2, breakpoint_round },
	{ "floating-point state", 2, fpu_round },
	{ "floating-point state, in parallel", 2, fpu_round },
};
enum { WORKERS = sizeof workers / sizeof *workers };

struct report {
	long rounds;
	char failure[160];
};
static struct report *reports;
static long long end_ns;

static int work(void *argument)
{
	int number = (intptr_t)argument;
	unsigned seed = number * 7919 + 1;

	while (now_ns(CLOCK_MONOTONIC) < end_ns) {
		const char *failure = workers[number].round(&seed);

		if (failure) {
			snprintf(reports[number].failure, sizeof reports->failure, "%s", failure);
			return 1;
		}
		reports[number].rounds++;
	}
	return 0;
}

static const char *const complaints[] = {
	"WARNING:", "BUG:", "Oops", "Call Trace", "soft lockup", "rcu: INFO", "unchecked MSR",
	" [#1]", "Bad page", "Bad rss",
};

static void check_log(void)
{
	for (size_t i = 0; i < sizeof complaints / sizeof *complaints; i++)
		check(3, !log_has(complaints[i]), "the kernel's log has no \"%s\"", complaints[i]);
}

int main(int count, char **arguments)
{
	pid_t children[WORKERS];
	int seconds = count > 1 ? atoi(arguments[1]) : 20;

	if (count == 2 && !strcmp(arguments[1], "nothing"))
		return 0;
	set_up();
	printf("TAP version 13\n");
	ask_host("begin");
	reports = mmap(NULL, sizeof *reports * WORKERS, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	end_ns = now_ns(CLOCK_MONOTONIC) + seconds * NS_PER_SECOND;
	for (int i = 0; i < WORKERS; i++)
		children[i] = start(work, (void *)(intptr_t)i);
	for (int i = 0; i < WORKERS; i++) {
		int status = wait_for(children[i]);

		if (!ended_well(status))
			note("status %#x: %s", status, reports[i].failure);
		check(workers[i].row, ended_well(status) && reports[i].rounds > 0,
		      "%s: %ld rounds", workers[i].name, reports[i].rounds);
	}
	check_log();
	ask_host("end");
	finish();
	power_off();
}
