/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that share memory, wait for each other, and have storage of their own. */
#define _GNU_SOURCE
#include "stress.h"

#include <pthread.h>
#include <sys/mman.h>

enum { THREADS = 6, STEPS = 200, PAGE = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static long sum;
static __thread long own;

static void *add(void *argument)
{
	pthread_barrier_wait(&barrier);
	own = (intptr_t)argument;
	for (int i = 0; i < STEPS; i++) {
		pthread_mutex_lock(&lock);
		sum += own;
		pthread_mutex_unlock(&lock);
		if (i % 20 == 0) {
			/* Others of this address space must forget the page. */
			char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (page == MAP_FAILED)
				return "mmap";
			*page = 1;
			munmap(page, PAGE);
		}
	}
	return own == (intptr_t)argument ? NULL : "a thread's own variable has changed";
}

const char *thread_round(unsigned *seed)
{
	pthread_t threads[THREADS];
	void *failure, *any = NULL;

	(void)seed;
	sum = 0;
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (intptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, add, (void *)(i + 1)))
			return "no thread can be made";
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &failure);
		any = failure ? failure : any;
	}
	pthread_barrier_destroy(&barrier);
	if (!any && sum != STEPS * THREADS * (THREADS + 1) / 2)
		any = "an addition under the lock is lost";
	return any;
}
