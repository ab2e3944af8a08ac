/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 13: long hypercalls give way, and no wake-up is lost. */
#define _GNU_SOURCE
#include "xencheck.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MEBIBYTES = 24, SLEEPS = 60, SLEEP_MS = 5, ROUNDS = 2000 };

static int end_at_once(void *unused)
{
	(void)unused;
	return 0;
}

/* Each fork of this copies and each end drops thousands of entries, in large batches. */
__attribute__((noreturn)) static int fork_for_ever(void *unused)
{
	size_t size = MEBIBYTES << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	memset(memory, 1, size);
	for (;;)
		wait_for(start(end_at_once, NULL));
}

static void check_wake_ups(void)
{
	pid_t forker = start(fork_for_ever, NULL);
	long long begin = now_ns(CLOCK_MONOTONIC), longest = 0;

	for (int i = 0; i < SLEEPS; i++) {
		long long start_ns = now_ns(CLOCK_MONOTONIC), passed;

		sleep_ns(SLEEP_MS * 1000000LL);
		passed = now_ns(CLOCK_MONOTONIC) - start_ns;
		longest = passed > longest ? passed : longest;
	}
	begin = now_ns(CLOCK_MONOTONIC) - begin;
	kill(forker, SIGKILL);
	wait_for(forker);
	value("longest-sleep-us", longest / 1000);
	check_proxy(13, longest < NS_PER_SECOND, "a hypercall that gives way cannot be seen from here",
		    "%d sleeps of %d ms beside large forks took %lld ms, the longest %lld ms", SLEEPS,
		    SLEEP_MS, begin / 1000000, longest / 1000000);
}

static int answer_pings(void *argument)
{
	int *pipes = argument;
	char byte;

	for (int i = 0; i < ROUNDS; i++)
		if (read(pipes[0], &byte, 1) != 1 || write(pipes[3], &byte, 1) != 1)
			return 1;
	return 0;
}

static void check_pings(void)
{
	int pipes[4], done = 0;
	pid_t child;
	char byte = 1;

	if (pipe(pipes) || pipe(pipes + 2))
		return;
	child = start(answer_pings, pipes);
	while (done < ROUNDS && write(pipes[1], &byte, 1) == 1 && read(pipes[2], &byte, 1) == 1)
		done++;
	check_proxy(13, ended_well(wait_for(child)) && done == ROUNDS,
		    "a lost wake-up would end this check", "two processes woke each other %d times",
		    done);
	for (int i = 0; i < 4; i++)
		close(pipes[i]);
}

void check_preemption(void)
{
	check(13, log_has("Dynamic Preempt:"), "the kernel can be preempted: %s",
	      log_has("Dynamic Preempt: full") ? "full" : "voluntary");
	check_wake_ups();
	check_pings();
}
