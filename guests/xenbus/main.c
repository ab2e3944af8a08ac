/* SPDX-License-Identifier: GPL-2.0-or-later */
/* xenbus: a client of the xenstore through /dev/xen/xenbus, as the xenstore tools are in a guest.
 *
 * Runs as the first process. A message is a header of four words and a payload; Linux numbers
 * transactions and passes everything on to the store by its ring.
 */
#include "../common/guest.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	DIRECTORY = 1, READ = 2, GET_PERMS = 3, WATCH = 4, UNWATCH = 5, START = 6, END = 7,
	WRITE = 11, MKDIR = 12, RM = 13, WATCH_EVENT = 15, ERROR = 16
};
enum { ROW = 16, EVENT_MS = 10000 };

struct header {
	uint32_t type, request, transaction, length;
};

static int bus;
static char answer[4097];
static struct header head;
static char event[4097];
static int events;

static bool read_all(void *to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = read(bus, (char *)to + done, size - done);

		if (got <= 0)
			return false;
		done += got;
	}
	return true;
}

/* One message: an answer, or an event, which is kept. */
static bool receive(void)
{
	struct header got;
	char payload[4097];

	if (!read_all(&got, sizeof got) || got.length > 4096 || !read_all(payload, got.length))
		return false;
	payload[got.length] = 0;
	if (got.type == WATCH_EVENT) {
		memcpy(event, payload, got.length + 1);
		events++;
		return true;
	}
	head = got;
	memcpy(answer, payload, got.length + 1);
	return true;
}

/* A request of a path and what follows it. False for an error, whose name is then in `answer`. */
static bool request(uint32_t type, uint32_t transaction, const char *path, const char *value, size_t size)
{
	char message[5000];
	struct header sent = { type, 1, transaction, strlen(path) + 1 + size };

	memcpy(message, &sent, sizeof sent);
	strcpy(message + sizeof sent, path);
	memcpy(message + sizeof sent + strlen(path) + 1, value, size);
	head.type = WATCH_EVENT;
	if (write(bus, message, sizeof sent + sent.length) != (ssize_t)(sizeof sent + sent.length))
		return false;
	while (head.type == WATCH_EVENT)
		if (!receive())
			return false;
	return head.type == type;
}

static bool ask(uint32_t type, const char *path)
{
	return request(type, 0, path, "", 0);
}

static bool put(uint32_t transaction, const char *path, const char *value)
{
	return request(WRITE, transaction, path, value, strlen(value));
}

static bool is(const char *path, const char *value)
{
	return ask(READ, path) && !strcmp(answer, value);
}

static uint32_t number_in(const char *text)
{
	return strtoul(text, NULL, 10);
}

static bool refused(bool done, const char *error)
{
	return !done && head.type == ERROR && !strcmp(answer, error);
}

/* Wait for an event of this path with this token. */
static bool hears(const char *path, const char *token)
{
	struct pollfd ready = { .fd = bus, .events = POLLIN };

	while (!events)
		if (poll(&ready, 1, EVENT_MS) != 1 || !receive())
			return false;
	events--;
	return !strcmp(event, path) && !strcmp(event + strlen(event) + 1, token);
}

static void check_nodes(void)
{
	check(ROW, is("domid", "1"), "a relative path is that of the domain");
	check(ROW, is("/local/domain/1/domid", "1"), "an absolute path");
	check(ROW, ask(READ, "memory/target") && number_in(answer) > 0, "memory/target");
	check(ROW, is("cpu/0/availability", "online"), "cpu/0/availability");
	check(ROW, ask(DIRECTORY, "console"), "the console's directory");
	check(ROW, ask(GET_PERMS, "data") && !strcmp(answer, "n1"), "permissions of data");
	check(ROW, refused(ask(READ, "nothing"), "ENOENT"), "a node that is not there");
	check(ROW, refused(put(0, "name", "other"), "EACCES"), "the own name is read-only");
	check(ROW, refused(ask(READ, "/libxl/1"), "EACCES"), "what is the tool stack's");
	check(ROW, refused(ask(READ, "//"), "EINVAL"), "no path");
}

static void check_changes(void)
{
	char large[3000];

	memset(large, 'x', 2000);
	large[2000] = 0;
	check(ROW, put(0, "data/a/b", "1") && is("data/a/b", "1") && is("data/a", ""), "a write makes parents");
	check(ROW, ask(MKDIR, "data/d") && ask(DIRECTORY, "data") && head.length == 4, "a directory of two");
	check(ROW, put(0, "data/large", large) && is("data/large", large), "a value that is larger than the ring");
	check(ROW, ask(RM, "data/a") && refused(ask(READ, "data/a/b"), "ENOENT"), "rm takes the children");
}

static void check_transactions(void)
{
	uint32_t one, two;

	ask(START, "");
	one = number_in(answer);
	ask(START, "");
	two = number_in(answer);
	check(ROW, one && two && one != two, "two transactions at a time");
	check(ROW, put(one, "data/t", "1") && refused(ask(READ, "data/t"), "ENOENT"), "nobody sees it before its end");
	check(ROW, put(two, "data/t", "2"), "the other one writes the same node");
	check(ROW, request(END, one, "T", "", 0) && is("data/t", "1"), "the first one is done");
	check(ROW, refused(request(END, two, "T", "", 0), "EAGAIN"), "the second one is to be tried again");
}

static void check_watches(void)
{
	check(ROW, request(WATCH, 0, "data/w", "token", 6) && hears("data/w", "token"), "a watch fires at first");
	check(ROW, put(0, "data/w/x", "1") && hears("data/w/x", "token"), "a change below it");
	ask_host("write /local/domain/1/data/w host");
	check(ROW, hears("data/w", "token") && is("data/w", "host"), "a change by the host");
	check(ROW, request(UNWATCH, 0, "data/w", "token", 6), "the watch is taken back");
	put(0, "data/w", "2");
	check(ROW, is("data/w", "2") && !events, "no event after that");
}

int main(void)
{
	set_up();
	bus = open("/dev/xen/xenbus", O_RDWR);
	if (check(ROW, bus >= 0, "/dev/xen/xenbus can be opened")) {
		check_nodes();
		check_changes();
		check_transactions();
		check_watches();
	}
	check(ROW, !log_has("xenbus: ") && !log_has("WARNING"), "the kernel has no complaint");
	ask_host("write /local/domain/1/data/end 1");
	finish();
	power_off();
}
