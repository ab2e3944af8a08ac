/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel's trace points of Xen: what the guest believes to have done. */
#ifndef TRACE_H
#define TRACE_H

#include <stdbool.h>
#include <stddef.h>

/* What was traced, as text: a line for each event. */
struct trace {
	char *text;
};

/* Enable a group of events, or one (xen/xen_mmu_pgd_pin), with so many KiB for each CPU. */
bool trace_start(const char *events, int kib);
/* Go on or pause without the cost of patching the kernel. */
void trace_resume(void);
void trace_pause(void);
void trace_clear(void);
/* Disable the events, and take what there is. */
void trace_stop(struct trace *trace);
void trace_read(struct trace *trace);
void trace_free(struct trace *trace);

/* The name of the event in a line, and what follows the colon behind it; NULL for a comment. */
const char *trace_event(const char *line, size_t *length, const char **text);
/* The line after this one; NULL at the end. */
const char *trace_next(const char *line);
long trace_count(const struct trace *trace, const char *event);
/* Whether events have been lost. */
bool trace_overran(void);

#endif
