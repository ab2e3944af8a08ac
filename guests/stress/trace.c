/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A debugger's work: single steps and the CPU's breakpoints in another process. */
#define _GNU_SOURCE
#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 25, LOOPS = 5, EXECUTE = 0, WRITE = 1 };

static volatile long watched;

__attribute__((noinline)) static void reached(void)
{
	asm volatile("" ::: "memory");
}

static int be_traced(void *unused)
{
	(void)unused;
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	for (int i = 0; i < LOOPS; i++) {
		reached();
		watched = i;
	}
	return 7;
}

static bool stops_with(pid_t child, int number)
{
	int status = wait_for(child);

	return WIFSTOPPED(status) && WSTOPSIG(status) == number;
}

static const char *end_child(pid_t child, const char *failure)
{
	kill(child, SIGKILL);
	wait_for(child);
	return failure;
}

const char *trace_round(unsigned *seed)
{
	pid_t child = start(be_traced, NULL);
	struct user_regs_struct before, after;
	int status;

	(void)seed;
	if (!stops_with(child, SIGSTOP))
		return end_child(child, "a traced process does not stop");
	for (int i = 0; i < STEPS; i++) {
		ptrace(PTRACE_GETREGS, child, NULL, &before);
		ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
		if (!stops_with(child, SIGTRAP))
			return end_child(child, "a single step does not stop");
		ptrace(PTRACE_GETREGS, child, NULL, &after);
		if (after.rip == before.rip)
			return end_child(child, "a single step stays where it was");
	}
	ptrace(PTRACE_CONT, child, NULL, NULL);
	status = wait_for(child);
	return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? NULL : "a process that was stepped fails";
}

static bool set_debug_register(pid_t child, int number, uintptr_t value)
{
	return ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg) + 8 * number, value) == 0;
}

/* Enable breakpoint 0: its kind and length are in bits 16 to 19 of DR7. */
static bool set_breakpoint(pid_t child, uintptr_t address, int kind, int length)
{
	return set_debug_register(child, 7, 0) && set_debug_register(child, 0, address) &&
	       set_debug_register(child, 7, 1 | kind << 16 | (length - 1) << 18);
}

static const char *count_stops(pid_t child, int *stops)
{
	int status;

	for (*stops = 0;; ++*stops) {
		ptrace(PTRACE_CONT, child, NULL, NULL);
		status = wait_for(child);
		if (WIFEXITED(status))
			return WEXITSTATUS(status) == 7 ? NULL : "a process with breakpoints fails";
		if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
			return end_child(child, "a process with breakpoints stops for something else");
		if (*stops > 10 * LOOPS)
			return end_child(child, "a breakpoint stops without end");
	}
}

static const char *run_with(uintptr_t address, int kind, int length, const char *missed)
{
	pid_t child = start(be_traced, NULL);
	const char *failure;
	int stops;

	if (!stops_with(child, SIGSTOP))
		return end_child(child, "a traced process does not stop");
	if (!set_breakpoint(child, address, kind, length))
		return end_child(child, "a breakpoint is refused");
	failure = count_stops(child, &stops);
	if (!failure && stops != LOOPS)
		failure = missed;
	return failure;
}

const char *breakpoint_round(unsigned *seed)
{
	const char *failure;

	(void)seed;
	failure = run_with((uintptr_t)reached, EXECUTE, 1, "an instruction breakpoint was missed");
	if (!failure)
		failure = run_with((uintptr_t)&watched, WRITE, 8, "a write to watched memory was missed");
	return failure;
}
