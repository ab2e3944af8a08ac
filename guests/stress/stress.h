/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Work that a kernel does for programs, done over and over and checked each time.
 *
 * Each function is one round of a worker: it returns NULL, or says what went wrong. Workers run in
 * processes of their own, `seed` tells them apart.
 */
#ifndef STRESS_H
#define STRESS_H

#include "../common/guest.h"

#define PROGRAM "/stress"
#define PROGRAM32 "/program32"

const char *fork_round(unsigned *seed);
const char *memory_round(unsigned *seed);
const char *signal_round(unsigned *seed);
const char *program32_round(unsigned *seed);
const char *ldt_round(unsigned *seed);
const char *thread_round(unsigned *seed);
const char *trace_round(unsigned *seed);
const char *breakpoint_round(unsigned *seed);
const char *fpu_round(unsigned *seed);

#endif
