/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs that run as a guest's first process share: TAP, a word with the host, files.
 *
 * The console is the only way out. A line that begins with "#host" is a request to the test on the
 * host, which answers with one line; "#value NAME NUMBER" hands it a number. Everything else is TAP,
 * see testanything.org, or a diagnostic.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NS_PER_SECOND 1000000000LL

/* Mount what a program needs, and make the console a plain channel of bytes. Ends a program that is
 * not the first process. */
void set_up(void);

/* The plan of TAP. */
void finish(void);

/* The end of the guest. */
void power_off(void) __attribute__((noreturn));

/* One result. `row` is the row of the table in SPECIFICATION.md that it belongs to. */
bool check(int row, bool good, const char *what, ...) __attribute__((format(printf, 3, 4)));

/* The same for what only shows indirectly that the row holds; `why` says what cannot be seen. */
bool check_proxy(int row, bool good, const char *why, const char *what, ...)
	__attribute__((format(printf, 4, 5)));

/* Tell of something that cannot be checked in this guest. */
void skip(int row, const char *why, const char *what);

void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void value(const char *name, long long number);

/* Ask the test on the host; its answer, valid until the next call. */
const char *ask_host(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The whole of a file, with a closing NUL; NULL if it cannot be read. To be freed. */
char *read_file(const char *path);
/* The same without a final newline, in a buffer that the next call uses again; "" if unreadable. */
const char *read_line(const char *path);
bool write_file(const char *path, const char *text);

/* The kernel's log, and whether it has a text. */
char *read_log(void);
bool log_has(const char *text);

long long now_ns(int clock);
void sleep_ns(long long ns);
/* Wait for a child; its status as of wait(2). */
int wait_for(pid_t child);
bool ended_well(int status);
/* Run a part in a process of its own, which ends with what it returns. */
pid_t start(int (*part)(void *), void *argument);
void pin_to_cpu(int cpu);
int cpus_online(void);

#endif
