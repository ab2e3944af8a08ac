/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A local descriptor table that changes while threads of its process use it. */
#define _GNU_SOURCE
#include "stress.h"

#include <asm/ldt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 600, USES = 30, THREADS = 2 };

/* A static program lies below 4 GiB, where a base can point. */
static volatile unsigned values[ENTRIES];

static bool set_entry(int number, bool present)
{
	struct user_desc entry = {
		.entry_number = number, .base_addr = (uintptr_t)&values[number], .limit = 3,
		.seg_32bit = 1, .seg_not_present = !present, .useable = 1,
		.contents = MODIFY_LDT_CONTENTS_DATA,
	};

	return syscall(SYS_modify_ldt, 1, &entry, sizeof entry) == 0;
}

static bool is_seen(int number)
{
	unsigned seen;

	asm volatile("mov %1, %%gs\n mov %%gs:0, %0\n mov %2, %%gs"
		     : "=&r"(seen)
		     : "r"(number << 3 | 7), "r"(0));
	return seen == values[number];
}

static void *use_entries(void *argument)
{
	unsigned seed = (uintptr_t)argument;

	for (int i = 0; i < USES; i++) {
		int number = rand_r(&seed) % (ENTRIES / 2); /* these stay */

		if (!is_seen(number))
			return "a segment of the table shows the wrong memory";
		if (i % 8 == 0)
			sched_yield();
	}
	return NULL;
}

static int fork_with_table(void *argument)
{
	return !is_seen((intptr_t)argument);
}

static int use_table(void *argument)
{
	unsigned seed = (uintptr_t)argument;
	pthread_t threads[THREADS];
	void *failure, *any = NULL;
	int number = rand_r(&seed) % (ENTRIES / 2);

	for (int i = 0; i < ENTRIES / 2; i++) {
		values[i] = rand_r(&seed);
		if (i % 16 == number % 16 && !set_entry(i, true))
			return 1;
	}
	for (int i = 0; i < ENTRIES / 2; i++)
		if (i % 16 != number % 16 && !set_entry(i, true))
			return 1;
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, use_entries, (void *)(seed + i));
	for (int i = 0; i < USES; i++) {
		int changing = ENTRIES / 2 + rand_r(&seed) % (ENTRIES / 2);

		values[changing] = rand_r(&seed);
		if (!set_entry(changing, true) || !is_seen(changing) || !set_entry(changing, false))
			return 2;
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &failure);
		any = failure ? failure : any;
	}
	if (any)
		return 3;
	/* A child has a copy of the table. */
	return ended_well(wait_for(start(fork_with_table, (void *)(intptr_t)number))) ? 0 : 4;
}

const char *ldt_round(unsigned *seed)
{
	int status = wait_for(start(use_table, (void *)(uintptr_t)rand_r(seed)));

	return ended_well(status) ? NULL : "a process with a local descriptor table has failed";
}
