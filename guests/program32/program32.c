/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A 32-bit program without a library: system calls in both ways, thread-local storage, segments of
 * its own, signals. Ends with 0, or with the number of what failed.
 *
 * Built with -m32 -nostdlib: there may be no 32-bit library on the machine.
 */
#include <stddef.h>
#include <stdint.h>

enum {
	SYS_exit = 1, SYS_getpid = 20, SYS_kill = 37, SYS_modify_ldt = 123, SYS_sched_yield = 158,
	SYS_rt_sigreturn = 173, SYS_rt_sigaction = 174, SYS_set_thread_area = 243,
	AT_SYSINFO = 32, SIGUSR1 = 10, SA_SIGINFO = 4, SA_RESTORER = 1 << 26,
	ROUNDS = 200,
};

struct user_desc {
	uint32_t entry_number, base_addr, limit, flags;
};
enum { SEG_32BIT = 1, LIMIT_IN_PAGES = 16, USEABLE = 64 };

struct sigaction32 {
	void (*handler)(int);
	uint32_t flags;
	void (*restorer)(void);
	uint32_t mask[2];
};

static uint32_t vsyscall;
static volatile int signals;
static volatile uint32_t word = 0x89abcdef;

static int32_t int80(int32_t number, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
	int32_t result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
		     : "memory");
	return result;
}

/* By the instruction that the kernel prefers: sysenter or syscall. */
static int32_t fast_call(int32_t number)
{
	int32_t result;

	asm volatile("call *%1" : "=a"(result) : "r"(vsyscall), "a"(number) : "memory", "cc");
	return result;
}

__attribute__((naked)) static void restore(void)
{
	asm volatile("mov %0, %%eax\n int $0x80" ::"i"(SYS_rt_sigreturn));
}

static void count_signal(int number)
{
	(void)number;
	signals++;
}

static int check_tls(void)
{
	struct user_desc entry = { -1, (uint32_t)&word, 4095, SEG_32BIT | USEABLE };
	uint32_t seen;

	if (int80(SYS_set_thread_area, (uint32_t)&entry, 0, 0, 0))
		return 1;
	asm volatile("mov %0, %%gs" ::"r"(entry.entry_number << 3 | 3));
	for (int i = 0; i < ROUNDS; i++) {
		asm volatile("mov %%gs:0, %0" : "=r"(seen));
		if (seen != word)
			return 1;
		int80(SYS_sched_yield, 0, 0, 0, 0);
	}
	return 0;
}

static int check_ldt(void)
{
	struct user_desc entry = { 2, (uint32_t)&word, 4095, SEG_32BIT | USEABLE };
	uint32_t seen;

	if (int80(SYS_modify_ldt, 1, (uint32_t)&entry, sizeof entry, 0))
		return 1;
	asm volatile("mov %1, %%fs\n mov %%fs:0, %0" : "=r"(seen) : "r"(2 << 3 | 7));
	return seen != word;
}

static int check_signals(int32_t pid)
{
	struct sigaction32 action = { count_signal, SA_SIGINFO | SA_RESTORER, restore, { 0, 0 } };

	if (int80(SYS_rt_sigaction, SIGUSR1, (uint32_t)&action, 0, 8))
		return 1;
	for (int i = 0; i < ROUNDS; i++)
		int80(SYS_kill, pid, SIGUSR1, 0, 0);
	return signals != ROUNDS;
}

static int check_calls(int32_t pid)
{
	if (!vsyscall)
		return 1;
	for (int i = 0; i < ROUNDS; i++)
		if (fast_call(SYS_getpid) != pid || int80(SYS_getpid, 0, 0, 0, 0) != pid)
			return 1;
	return 0;
}

/* 64-bit code by a far call, and back: 0x33 is Linux's selector of it. */
static int check_far_call(void)
{
	uint64_t result = 0;

	asm volatile("lcall $0x33, $1f\n"
		     "jmp 2f\n"
		     "1: .byte 0x48, 0xb8\n .quad 0x123456789abcdef0\n" /* mov $..., %rax */
		     ".byte 0x48, 0x89, 0x06\n"                         /* mov %rax, (%rsi) */
		     "lret\n"
		     "2:\n" ::"S"(&result) : "eax", "memory");
	return result != 0x123456789abcdef0ULL;
}

static int run(uint32_t *stack)
{
	uint32_t *p = stack + 1 + *stack + 1;
	int32_t pid;

	while (*p)
		p++;
	for (p++; *p; p += 2)
		if (*p == AT_SYSINFO)
			vsyscall = p[1];
	pid = int80(SYS_getpid, 0, 0, 0, 0);
	if (check_calls(pid))
		return 1;
	if (check_tls())
		return 2;
	if (check_ldt())
		return 3;
	if (check_signals(pid))
		return 4;
	if (check_far_call())
		return 5;
	return 0;
}

__attribute__((used)) static void begin(uint32_t *stack)
{
	int80(SYS_exit, run(stack), 0, 0, 0);
}

asm(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n"
    "call begin\n");
