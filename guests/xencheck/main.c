/* SPDX-License-Identifier: GPL-2.0-or-later */
/* xencheck: is the Xen beneath this kernel as Xen should be?
 *
 * Runs as the first process of a 64-bit PV guest. Its arguments name the subjects to look into; none
 * means all. Prints TAP on the console, and powers off.
 */
#include "xencheck.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	void (*check)(void);
} subjects[] = {
	{ "interface", check_interface },
	{ "pins", check_pins }, /* first: counts what was traced since the start of the kernel */
	{ "mmu", check_mmu },
	{ "lazy-mmu", check_lazy_mmu },
	{ "events", check_events },
	{ "time", check_time },
	{ "stolen-time", check_stolen_time },
	{ "smp", check_smp },
	{ "preemption", check_preemption },
	{ "segments", check_segments },
	{ "grants", check_grants },
	{ "patching", check_patching },
	{ "iret", check_iret },
	{ "drivers", check_drivers },
};

static bool is_wanted(const char *name, int count, char **names)
{
	for (int i = 1; i < count; i++)
		if (!strcmp(names[i], name))
			return true;
	return count <= 1;
}

int run_nothing(void)
{
	pid_t child;

	fflush(stdout);
	child = vfork();
	if (child == 0) {
		execl(PROGRAM, PROGRAM, "nothing", NULL);
		_exit(127);
	}
	return wait_for(child);
}

static int check_subjects(int count, char **arguments)
{
	ask_host("begin");
	for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
		if (!is_wanted(subjects[i].name, count, arguments))
			continue;
		note("%s", subjects[i].name);
		subjects[i].check();
	}
	ask_host("end");
	finish();
	return 0;
}

int main(int count, char **arguments)
{
	if (count == 2 && !strcmp(arguments[1], "nothing"))
		return 0; /* see run_nothing */
	set_up();
	printf("TAP version 13\n");
	/* The first process must not die of what it checks. */
	pid_t child = fork();
	if (child == 0)
		return check_subjects(count, arguments);
	if (!ended_well(wait_for(child)))
		printf("Bail out! The program has failed.\n");
	power_off();
}
