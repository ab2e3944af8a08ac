/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SSE and x87 registers, which must survive that other processes use theirs. */
#define _GNU_SOURCE
#include "stress.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { REGISTERS = 16, WORDS = REGISTERS * 4, SWITCHES = 30 };

struct state {
	uint32_t sse[WORDS];
	double x87[4];
	uint32_t mxcsr;
	uint16_t control;
} __attribute__((aligned(16)));

/* Load all of it, give other processes the CPU, and store what there is. */
static void load_wait_store(const struct state *load, struct state *store)
{
	long unused = 24; /* sched_yield */

	asm volatile(
		"fninit\n fldcw %c[control](%[load])\n ldmxcsr %c[mxcsr](%[load])\n"
		"fldl %c[x87](%[load])\n fldl %c[x87]+8(%[load])\n fldl %c[x87]+16(%[load])\n"
		"fldl %c[x87]+24(%[load])\n"
		"movdqa (%[load]), %%xmm0\n movdqa 16(%[load]), %%xmm1\n"
		"movdqa 32(%[load]), %%xmm2\n movdqa 48(%[load]), %%xmm3\n"
		"movdqa 64(%[load]), %%xmm4\n movdqa 80(%[load]), %%xmm5\n"
		"movdqa 96(%[load]), %%xmm6\n movdqa 112(%[load]), %%xmm7\n"
		"movdqa 128(%[load]), %%xmm8\n movdqa 144(%[load]), %%xmm9\n"
		"movdqa 160(%[load]), %%xmm10\n movdqa 176(%[load]), %%xmm11\n"
		"movdqa 192(%[load]), %%xmm12\n movdqa 208(%[load]), %%xmm13\n"
		"movdqa 224(%[load]), %%xmm14\n movdqa 240(%[load]), %%xmm15\n"
		"syscall\n"
		"movdqa %%xmm0, (%[store])\n movdqa %%xmm1, 16(%[store])\n"
		"movdqa %%xmm2, 32(%[store])\n movdqa %%xmm3, 48(%[store])\n"
		"movdqa %%xmm4, 64(%[store])\n movdqa %%xmm5, 80(%[store])\n"
		"movdqa %%xmm6, 96(%[store])\n movdqa %%xmm7, 112(%[store])\n"
		"movdqa %%xmm8, 128(%[store])\n movdqa %%xmm9, 144(%[store])\n"
		"movdqa %%xmm10, 160(%[store])\n movdqa %%xmm11, 176(%[store])\n"
		"movdqa %%xmm12, 192(%[store])\n movdqa %%xmm13, 208(%[store])\n"
		"movdqa %%xmm14, 224(%[store])\n movdqa %%xmm15, 240(%[store])\n"
		"fstpl %c[x87]+24(%[store])\n fstpl %c[x87]+16(%[store])\n"
		"fstpl %c[x87]+8(%[store])\n fstpl %c[x87](%[store])\n"
		"stmxcsr %c[mxcsr](%[store])\n fnstcw %c[control](%[store])\n"
		: "+a"(unused)
		: [load] "r"(load), [store] "r"(store), [x87] "i"(offsetof(struct state, x87)),
		  [mxcsr] "i"(offsetof(struct state, mxcsr)),
		  [control] "i"(offsetof(struct state, control))
		: "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
		  "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "st", "st(1)",
		  "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
}

const char *fpu_round(unsigned *seed)
{
	struct state load, store;

	memset(&load, 0, sizeof load);
	for (int i = 0; i < SWITCHES; i++) {
		memset(&store, 0, sizeof store);
		for (int word = 0; word < WORDS; word++)
			load.sse[word] = rand_r(seed);
		for (int number = 0; number < 4; number++)
			load.x87[number] = rand_r(seed) / 3.0;
		load.mxcsr = 0x1f80 | (rand_r(seed) % 4) << 13; /* how to round */
		load.control = 0x37f | (rand_r(seed) % 4) << 10;
		load_wait_store(&load, &store);
		if (memcmp(load.sse, store.sse, sizeof load.sse))
			return "an SSE register has changed";
		if (memcmp(load.x87, store.x87, sizeof load.x87))
			return "an x87 register has changed";
		if (load.mxcsr != store.mxcsr || load.control != store.control)
			return "a control register of the FPU has changed";
	}
	asm volatile("fninit");
	return NULL;
}
