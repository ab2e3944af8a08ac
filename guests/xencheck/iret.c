/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Row 26: each return from the kernel is the hypercall iret, and it restores what there was. */
#define _GNU_SOURCE
#include "xencheck.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { REGISTERS = 14, FAULTS = 500, TF = 1 << 8, DF = 1 << 10 };

static const int saved[REGISTERS] = {
	REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_R8, REG_R9,
	REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};
static volatile long handled;
static volatile bool wrong;

/* Each register, changed by the handler, must have the new value behind the instruction. */
static void change_registers(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	(void)info;
	for (int i = 0; i < REGISTERS; i++)
		registers[saved[i]] = 0x1122334455667700 + handled + i;
	registers[REG_EFL] |= DF;
	registers[REG_RIP] += 2;
	handled++;
}

static bool is_restored(void)
{
	static long after[REGISTERS + 1];
	long flags;

	asm volatile("push %%rbp\n"
		     "ud2\n"
		     "mov %%rax, %[a]\n mov %%rbx, 8+%[a]\n mov %%rcx, 16+%[a]\n mov %%rdx, 24+%[a]\n"
		     "mov %%rsi, 32+%[a]\n mov %%rdi, 40+%[a]\n mov %%r8, 48+%[a]\n"
		     "mov %%r9, 56+%[a]\n mov %%r10, 64+%[a]\n mov %%r11, 72+%[a]\n"
		     "mov %%r12, 80+%[a]\n mov %%r13, 88+%[a]\n mov %%r14, 96+%[a]\n"
		     "mov %%r15, 104+%[a]\n"
		     "pushf\n pop %%rax\n mov %%rax, 112+%[a]\n cld\n"
		     "pop %%rbp\n"
		     : [a] "=m"(after)
		     :
		     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
		       "r14", "r15", "memory", "cc");
	flags = after[REGISTERS];
	for (int i = 0; i < REGISTERS; i++)
		if (after[i] != 0x1122334455667700 + handled - 1 + i)
			return false;
	return flags & DF;
}

static void count_trap(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	(void)info;
	handled++;
	if (handled >= 100)
		registers[REG_EFL] &= ~TF;
}

static void set_handler(int number, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigaction(number, &action, NULL);
}

static void check_registers(void)
{
	set_handler(SIGILL, change_registers);
	handled = 0;
	for (int i = 0; i < FAULTS; i++)
		wrong |= !is_restored();
	check(26, handled == FAULTS && !wrong, "%d returns restored each register", FAULTS);
	signal(SIGILL, SIG_DFL);
}

static void check_single_steps(void)
{
	set_handler(SIGTRAP, count_trap);
	handled = 0;
	asm volatile("pushf\n orq $0x100, (%%rsp)\n popf\n"
		     "mov $1000, %%ecx\n 1: dec %%ecx\n jnz 1b\n" ::: "rcx", "cc", "memory");
	check(26, handled == 100, "%ld single steps until the handler ended them", handled);
	handled = 0;
	for (int i = 0; i < 50; i++)
		asm volatile("int3");
	check(26, handled == 50, "%ld breakpoints", handled);
	signal(SIGTRAP, SIG_DFL);
}

/* rcx and r11 are the system call's own, all others must survive it, also one that is interrupted. */
static void check_system_call(void)
{
	long a = 0x0123456789abcdef, b = a + 1, result;
	register long r8 asm("r8") = a, r9 asm("r9") = b, r10 asm("r10") = a ^ b;

	asm volatile("syscall"
		     : "=a"(result), "+r"(r8), "+r"(r9), "+r"(r10)
		     : "a"(39)
		     : "rcx", "r11", "memory");
	check(26, result == getpid() && r8 == a && r9 == b && r10 == (a ^ b),
	      "a system call keeps the registers");
}

void check_iret(void)
{
	ask_host("snapshot before-iret");
	check_registers();
	check_single_steps();
	check_system_call();
	ask_host("snapshot after-iret");
}
