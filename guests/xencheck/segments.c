/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 15: a segment register that cannot be loaded is the kernel's to handle, not its end.
 *
 * A return to user mode loads cs and ss from the frame. If one is bad, Xen tells the kernel of the
 * fault at the place returned to, and the kernel kills the program. Stale selectors in the others
 * become null.
 */
#define _GNU_SOURCE
#include "xencheck.h"

#include <asm/ldt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { LDT_ENTRY = 3, LDT_SELECTOR = LDT_ENTRY << 3 | 7, FLAT_LENGTH = 0xfffff };

struct bad_frame {
	const char *what;
	unsigned short cs, ss; /* 0: left as it is */
	long rip;
};

static const struct bad_frame bad_frames[] = {
	{ "cs beyond the table", 0xfff3, 0, 0 },
	{ "cs that is not there", LDT_SELECTOR, 0, 0 },
	{ "cs that is data", 0x2b, 0, 0 },
	{ "ss beyond the table", 0, 0xfff3, 0 },
	{ "ss that is not there", 0, LDT_SELECTOR, 0 },
	{ "ss that is code", 0, 0x33, 0 },
	{ "rip that is not canonical", 0, 0, 0x7fffffffffffffff },
};
static const struct bad_frame *frame;

static void spoil_frame(int number, siginfo_t *info, void *context)
{
	ucontext_t *state = context;
	unsigned short *selectors = (unsigned short *)&state->uc_mcontext.gregs[REG_CSGSFS];

	(void)number;
	(void)info;
	if (frame->cs)
		selectors[0] = frame->cs;
	if (frame->ss)
		selectors[3] = frame->ss;
	if (frame->rip)
		state->uc_mcontext.gregs[REG_RIP] = frame->rip;
}

static int return_to_bad_frame(void *unused)
{
	struct sigaction action = { .sa_sigaction = spoil_frame, .sa_flags = SA_SIGINFO };

	(void)unused;
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	return 0;
}

static bool set_ldt(bool present, bool code)
{
	struct user_desc entry = {
		.entry_number = LDT_ENTRY, .limit = FLAT_LENGTH, .limit_in_pages = 1, .seg_32bit = 1,
		.seg_not_present = !present, .useable = 1,
		.contents = code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
	};

	return syscall(SYS_modify_ldt, 1, &entry, sizeof entry) == 0;
}

static int use_and_lose_ldt(void *unused)
{
	unsigned fs, gs;

	(void)unused;
	if (!set_ldt(true, false))
		return 1;
	asm volatile("mov %0, %%gs\n mov %0, %%es\n mov %0, %%ds" ::"r"(LDT_SELECTOR));
	asm volatile("mov %%gs, %0\n mov %%fs, %1" : "=r"(gs), "=r"(fs));
	if (gs != LDT_SELECTOR)
		return 2;
	/* Its descriptor goes while the registers hold it; another process runs meanwhile. */
	if (!set_ldt(false, false))
		return 3;
	for (int i = 0; i < 10; i++)
		sleep_ns(2000000);
	asm volatile("mov %%gs, %0" : "=r"(gs));
	return gs != 0 && gs != LDT_SELECTOR ? 4 : 0;
}

static int read_through_ldt(void *unused)
{
	static volatile unsigned word = 0x12345678; /* a static program lies below 4 GiB */
	unsigned seen;

	(void)unused;
	if (!set_ldt(true, false))
		return 1;
	asm volatile("mov %1, %%gs\n mov %%gs:(%2), %0"
		     : "=r"(seen)
		     : "r"(LDT_SELECTOR), "r"(&word));
	return seen != word;
}

static int load_selector(void *selector)
{
	asm volatile("mov %0, %%es" ::"r"((int)(intptr_t)selector));
	return 0;
}

static int run_program32(void *unused)
{
	(void)unused;
	execl(PROGRAM32, PROGRAM32, NULL);
	return 127;
}

static bool segfaults(int (*part)(void *), intptr_t argument)
{
	int status = wait_for(start(part, (void *)argument));

	return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

void check_segments(void)
{
	int status;

	ask_host("snapshot before-segments");
	for (size_t i = 0; i < sizeof bad_frames / sizeof *bad_frames; i++) {
		frame = &bad_frames[i];
		check(15, segfaults(return_to_bad_frame, 0), "a return to %s ends the program alone",
		      frame->what);
	}
	ask_host("snapshot after-segments");
	value("bad-returns", sizeof bad_frames / sizeof *bad_frames);
	check(15, segfaults(load_selector, 0xfff3), "a selector beyond the table cannot be loaded");
	check(15, segfaults(load_selector, LDT_SELECTOR), "one without a descriptor cannot be loaded");
	check(15, ended_well(wait_for(start(read_through_ldt, NULL))),
	      "a segment of the local descriptor table is used");
	check(15, ended_well(wait_for(start(use_and_lose_ldt, NULL))),
	      "a selector whose descriptor goes becomes null");
	status = wait_for(start(run_program32, NULL));
	check(15, ended_well(status), "a 32-bit program with segments of its own ends with %d",
	      WEXITSTATUS(status));
	check(15, !log_has("BUG:") && !log_has("Oops"), "the kernel has no complaint");
}
