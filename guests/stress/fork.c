/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that come and go, several at a time, with memory that is copied when it is written. */
#include "stress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHILDREN = 4, SIZE = 300000 };

static char memory[SIZE];

static int change_memory(void *argument)
{
	int number = (intptr_t)argument;
	pid_t grandchild;

	for (int i = 0; i < SIZE; i += 4096)
		if (memory[i] != 100)
			return 1;
	memset(memory, number, SIZE);
	grandchild = fork();
	if (grandchild == 0)
		_exit(memory[SIZE - 1] != number);
	if (!ended_well(wait_for(grandchild)))
		return 2;
	if (number % 2) {
		execl(PROGRAM, PROGRAM, "nothing", NULL);
		return 127;
	}
	return 0;
}

const char *fork_round(unsigned *seed)
{
	pid_t children[CHILDREN];
	bool good = true;

	(void)seed;
	memset(memory, 100, SIZE);
	for (intptr_t i = 0; i < CHILDREN; i++)
		children[i] = start(change_memory, (void *)i);
	for (int i = 0; i < CHILDREN; i++)
		good &= children[i] > 0 && ended_well(wait_for(children[i]));
	for (int i = 0; i < SIZE; i++)
		good &= memory[i] == 100;
	return good ? NULL : "a child saw or left the wrong memory";
}
