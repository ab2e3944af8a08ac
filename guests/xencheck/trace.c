/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "trace.h"
#include "xencheck.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRACING "/sys/kernel/tracing/"

static bool enable(const char *events, const char *value)
{
	char path[128];

	snprintf(path, sizeof path, TRACING "events/%s/enable", events);
	return write_file(path, value);
}

static char enabled[64];

bool trace_start(const char *events, int kib)
{
	char text[16];

	snprintf(text, sizeof text, "%d", kib);
	trace_pause();
	write_file(TRACING "buffer_size_kb", text);
	trace_clear();
	snprintf(enabled, sizeof enabled, "%s", events);
	if (!enable(events, "1"))
		return false;
	trace_resume();
	return true;
}

void trace_resume(void)
{
	write_file(TRACING "tracing_on", "1");
}

void trace_pause(void)
{
	write_file(TRACING "tracing_on", "0");
}

void trace_clear(void)
{
	write_file(TRACING "trace", "");
}

void trace_read(struct trace *trace)
{
	trace->text = read_file(TRACING "trace");
}

void trace_stop(struct trace *trace)
{
	trace_pause();
	enable(enabled, "0");
	trace_read(trace);
}

void trace_free(struct trace *trace)
{
	free(trace->text);
}

const char *trace_next(const char *line)
{
	line = strchr(line, '\n');
	return line && line[1] ? line + 1 : NULL;
}

/* "  task-12   [000] d..1.     5.102988: xen_mmu_write_cr3: kernel cr3 688a000" */
const char *trace_event(const char *line, size_t *length, const char **text)
{
	const char *end = strchrnul(line, '\n');
	const char *name;

	if (*line == '#')
		return NULL;
	for (name = line; name < end; name++)
		if (isdigit(name[0]) && name[1] == ':' && name[2] == ' ')
			break;
	if (name >= end)
		return NULL;
	name += 3;
	*length = strcspn(name, ":\n");
	*text = name[*length] == ':' ? name + *length + 2 : end;
	return name;
}

long trace_count(const struct trace *trace, const char *event)
{
	long count = 0;
	const char *name, *text;
	size_t length, wanted = strlen(event);

	for (const char *line = trace->text; line && *line; line = trace_next(line)) {
		name = trace_event(line, &length, &text);
		count += name && length == wanted && !memcmp(name, event, wanted);
	}
	return count;
}

bool trace_overran(void)
{
	char path[128];

	for (int cpu = 0; cpu < cpus_online(); cpu++) {
		char *stats, *overrun;
		bool lost;

		snprintf(path, sizeof path, TRACING "per_cpu/cpu%d/stats", cpu);
		stats = read_file(path);
		overrun = stats ? strstr(stats, "overrun: ") : NULL;
		lost = !overrun || atol(overrun + strlen("overrun: "));
		free(stats);
		if (lost)
			return true;
	}
	return false;
}
