/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 24: interrupts are switched off and on by a store, without a call of Xen. */
#define _GNU_SOURCE
#include "xencheck.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CALLS = 20000 };

static const char *const functions[] = {
	"xen_irq_disable_direct", "xen_irq_enable_direct", "xen_save_fl_direct",
	"xen_force_evtchn_callback",
};

void check_patching(void)
{
	char *symbols = read_file("/proc/kallsyms");
	long sum = 0;

	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
		check(24, symbols && strstr(symbols, functions[i]), "the kernel has %s", functions[i]);
	free(symbols);
	/* The way into the kernel and out switches them several times. */
	ask_host("snapshot before-system-calls");
	for (int i = 0; i < CALLS; i++)
		sum += syscall(SYS_getppid);
	ask_host("snapshot after-system-calls");
	value("system-calls", CALLS);
	check_proxy(24, sum == CALLS * (long)getppid(), "the host counts the calls of Xen", "%d system calls", CALLS);
}
