/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals whose handlers change what the program goes on with. */
#define _GNU_SOURCE
#include "stress.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { REPEATS = 20, PAGE = 4096 };

static volatile sig_atomic_t handled;
static volatile greg_t wanted;
static volatile char *volatile page;

static void change_context(int number, siginfo_t *info, void *context)
{
	ucontext_t *state = context;

	(void)number;
	(void)info;
	handled++;
	state->uc_mcontext.gregs[REG_RBX] = wanted;
	state->uc_mcontext.fpregs->_xmm[3].element[0] = (uint32_t)wanted;
	state->uc_mcontext.gregs[REG_RIP] += 2;
}

/* ud2 with a handler that sets rbx and xmm3 and skips it. */
static bool is_changed(void)
{
	greg_t rbx;
	uint32_t xmm3;

	asm volatile("ud2\n mov %%rbx, %0\n movd %%xmm3, %1" : "=r"(rbx), "=r"(xmm3) : : "rbx", "xmm3");
	return rbx == wanted && xmm3 == (uint32_t)wanted;
}

static void permit_page(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	handled++;
	if (info->si_addr == page)
		mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE);
	else
		_exit(1);
}

static void count_signal(int number)
{
	(void)number;
	handled++;
}

static int send_storm(void *unused)
{
	(void)unused;
	for (int i = 0; i < REPEATS; i++)
		kill(getppid(), SIGUSR2);
	return 0;
}

static void set_handler(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigaction(number, &action, NULL);
}

const char *signal_round(unsigned *seed)
{
	static char stack[65536];
	stack_t alternative = { .ss_sp = stack, .ss_size = sizeof stack };
	pid_t sender;

	sigaltstack(&alternative, NULL);
	set_handler(SIGILL, change_context, (*seed += 1) % 2 ? SA_ONSTACK : 0);
	for (int i = 0; i < REPEATS; i++) {
		wanted = (greg_t)*seed << 32 | (unsigned)i * 2654435761u;
		if (!is_changed())
			return "a handler's change of the context is lost";
	}
	page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	set_handler(SIGSEGV, permit_page, SA_ONSTACK);
	handled = 0;
	*page = 1;
	signal(SIGSEGV, SIG_DFL);
	if (handled != 1 || *page != 1)
		return "a write to a read-only page did not fault once";
	munmap((void *)page, PAGE);
	signal(SIGUSR2, count_signal);
	handled = 0;
	sender = start(send_storm, NULL);
	if (!ended_well(wait_for(sender)) || handled < 1)
		return "no signal of another process has come";
	return NULL;
}
