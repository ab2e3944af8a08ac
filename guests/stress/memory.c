/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mappings that change at random, beside a model of what they hold. */
#define _GNU_SOURCE
#include "stress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { AREAS = 12, PAGE = 4096, MAX_PAGES = 64, STEPS = 60 };

struct area {
	unsigned *words;
	int pages;
	unsigned first; /* what the first word of page n holds: first + n; 0: nothing yet */
	bool writable;
};

static struct area areas[AREAS];

static unsigned *page_of(const struct area *area, int page)
{
	return area->words + (size_t)page * (PAGE / sizeof(unsigned));
}

static bool holds(const struct area *area)
{
	for (int page = 0; page < area->pages; page++)
		if (*page_of(area, page) != (area->first ? area->first + page : 0))
			return false;
	return true;
}

static bool set_writable(struct area *area, bool writable)
{
	area->writable = writable;
	return mprotect(area->words, (size_t)area->pages * PAGE,
			writable ? PROT_READ | PROT_WRITE : PROT_READ) == 0;
}

static const char *map(struct area *area, int pages)
{
	area->words = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area->words == MAP_FAILED)
		return "mmap";
	*area = (struct area){ area->words, pages, 0, true };
	return NULL;
}

static const char *change(struct area *area, unsigned choice, unsigned *seed)
{
	void *moved;

	if (!area->words)
		return map(area, 1 + rand_r(seed) % MAX_PAGES);
	if (!holds(area))
		return "a page has lost its content";
	switch (choice % 6) {
	case 0:
		if (munmap(area->words, (size_t)area->pages * PAGE))
			return "munmap";
		area->words = NULL;
		return NULL;
	case 1:
		return set_writable(area, !area->writable) ? NULL : "mprotect";
	case 2:
	case 3:
		if (!area->writable && !set_writable(area, true))
			return "mprotect";
		area->first = 1 + rand_r(seed) % 1000000;
		for (int page = 0; page < area->pages; page++)
			*page_of(area, page) = area->first + page;
		return NULL;
	case 4: /* moved, with its content */
		moved = mmap(NULL, MAX_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		moved = mremap(area->words, (size_t)area->pages * PAGE, (size_t)area->pages * PAGE,
			       MREMAP_MAYMOVE | MREMAP_FIXED, moved);
		if (moved == MAP_FAILED)
			return "mremap";
		/* What is left of the place that was kept for it. */
		munmap((char *)moved + (size_t)area->pages * PAGE,
		       (size_t)(MAX_PAGES - area->pages) * PAGE);
		area->words = moved;
		return NULL;
	default:
		if (madvise(area->words, (size_t)area->pages * PAGE, MADV_DONTNEED))
			return "madvise";
		area->first = 0;
		return NULL;
	}
}

const char *memory_round(unsigned *seed)
{
	for (int step = 0; step < STEPS; step++) {
		const char *failure = change(&areas[rand_r(seed) % AREAS], rand_r(seed), seed);

		if (failure)
			return failure;
	}
	return NULL;
}
