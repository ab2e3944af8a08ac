/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The subjects that xencheck looks into, one file each. */
#ifndef XENCHECK_H
#define XENCHECK_H

#include "../common/guest.h"

#define PROGRAM "/xencheck"
#define PROGRAM32 "/program32"

void check_interface(void);
void check_mmu(void);
void check_pins(void);
void check_lazy_mmu(void);
void check_events(void);
void check_time(void);
void check_stolen_time(void);
void check_smp(void);
void check_preemption(void);
void check_segments(void);
void check_grants(void);
void check_patching(void);
void check_iret(void);
void check_drivers(void);

/* Start this program anew in a child, as one that ends at once; its status. */
int run_nothing(void);

#endif
