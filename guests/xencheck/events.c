/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 4: event channels are the interrupts of this kernel. */
#include "xencheck.h"
#include "interrupts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "  0:   1334  12  xen-percpu    -virq      timer0", "RES:   0   3  Rescheduling interrupts" */
static long sum_line(const char *line, const char *name)
{
	const char *end = line + strcspn(line, "\n");
	size_t length = strlen(name);
	long sum = 0;
	char *next;

	while (isspace(*line) && line < end)
		line++;
	if (strncmp(line, name, length) || line[length] != ':') {
		if (end - line < (long)length || memcmp(end - length, name, length) ||
		    !isspace(end[-length - 1]))
			return -1;
	}
	line += strcspn(line, ":") + 1;
	for (;;) {
		while (*line == ' ')
			line++;
		if (!isdigit(*line))
			return sum;
		sum += strtol(line, &next, 10);
		line = next;
	}
}

long interrupts_of(const char *table, const char *name)
{
	for (const char *line = table; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		long sum = sum_line(line, name);
		if (sum >= 0)
			return sum;
	}
	return -1;
}

static const char *const kinds[] = { "timer", "resched", "callfunc", "callfuncsingle", "irqwork",
				     "debug" };

void check_events(void)
{
	bool fifo = log_has("xen:events: Using FIFO-based ABI");
	char *table;

	check(4, fifo || log_has("xen:events: Using 2-level ABI"), "the kernel uses an ABI of events");
	value("fifo", fifo);
	/* Some of each. */
	for (int cpu = 0; cpu < cpus_online(); cpu++) {
		pin_to_cpu(cpu);
		sleep_ns(20000000);
	}
	pin_to_cpu(0);
	sleep_ns(100000000);
	table = read_file("/proc/interrupts");
	ask_host("ports");
	check(4, table && strstr(table, "xen-percpu"), "there are interrupts of vCPUs");
	check(4, table && strstr(table, "xen-dyn"), "there are interrupts of devices");
	for (int cpu = 0; cpu < cpus_online(); cpu++) {
		for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
			char name[32], label[64];
			long count;

			snprintf(name, sizeof name, "%s%d", kinds[i], cpu);
			snprintf(label, sizeof label, "irq-%s", name);
			count = interrupts_of(table, name);
			value(label, count);
			/* Linux has no use for the last one with the FIFO ABI. */
			if (i < sizeof kinds / sizeof *kinds - fifo)
				check(4, count >= 0, "%s is bound", name);
		}
	}
	value("irq-hvc_console", interrupts_of(table, "hvc_console"));
	check(4, interrupts_of(table, "timer0") > 0, "timer interrupts come");
	check(4, interrupts_of(table, "hvc_console") > 0, "the console's interrupts come");
	free(table);
}
