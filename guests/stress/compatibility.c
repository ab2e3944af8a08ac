/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 32-bit programs, which have their own entries into the kernel and their own segments. */
#include "stress.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

const char *program32_round(unsigned *seed)
{
	static char failure[64];
	pid_t child;
	int status;

	(void)seed;
	child = vfork();
	if (child == 0) {
		execl(PROGRAM32, PROGRAM32, NULL);
		_exit(127);
	}
	status = wait_for(child);
	if (ended_well(status))
		return NULL;
	snprintf(failure, sizeof failure, "the 32-bit program has status %#x", status);
	return failure;
}
