/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/interrupts. */
#ifndef INTERRUPTS_H
#define INTERRUPTS_H

/* How often a named interrupt (timer0, resched1, RES) has come, on all CPUs; -1 if it is not there. */
long interrupts_of(const char *table, const char *name);

#endif
