/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { LOG_READ_ALL = 3, LOG_CONSOLE_LEVEL = 8 };

static int results;
static int failures;

static void mount_on(const char *type, const char *folder)
{
	mkdir(folder, 0755);
	if (mount(type, folder, type, 0, NULL) && errno != EBUSY)
		note("%s: cannot mount %s: %s", folder, type, strerror(errno));
}

void set_up(void)
{
	struct termios mode;

	if (getpid() != 1) {
		fprintf(stderr, "this is the first process of a guest: it would end this machine\n");
		_exit(2);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_on("proc", "/proc");
	mount_on("sysfs", "/sys");
	mount_on("devtmpfs", "/dev");
	mount_on("tmpfs", "/tmp");
	mount_on("debugfs", "/sys/kernel/debug");
	mount_on("tracefs", "/sys/kernel/tracing");
	/* Messages of the kernel would get into the lines. */
	klogctl(LOG_CONSOLE_LEVEL, NULL, 1);
	if (!tcgetattr(0, &mode)) {
		cfmakeraw(&mode);
		tcsetattr(0, TCSANOW, &mode);
	}
}

void finish(void)
{
	printf("1..%d\n", results);
	note("%d of %d failed", failures, results);
}

void power_off(void)
{
	fflush(stdout);
	tcdrain(1);
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

static bool result(int row, bool good, const char *why, const char *what, va_list arguments)
{
	results++;
	failures += !good;
	printf("%sok %d - row %d: ", good ? "" : "not ", results, row);
	vprintf(what, arguments);
	if (why)
		printf(" (proxy: %s)", why);
	putchar('\n');
	return good;
}

bool check(int row, bool good, const char *what, ...)
{
	va_list arguments;

	va_start(arguments, what);
	result(row, good, NULL, what, arguments);
	va_end(arguments);
	return good;
}

bool check_proxy(int row, bool good, const char *why, const char *what, ...)
{
	va_list arguments;

	va_start(arguments, what);
	result(row, good, why, what, arguments);
	va_end(arguments);
	return good;
}

void skip(int row, const char *why, const char *what)
{
	printf("ok %d - row %d: %s # SKIP %s\n", ++results, row, what, why);
}

void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("# ");
	vprintf(format, arguments);
	putchar('\n');
	va_end(arguments);
}

void value(const char *name, long long number)
{
	printf("#value %s %lld\n", name, number);
}

const char *ask_host(const char *format, ...)
{
	static char answer[256];
	size_t length = 0;
	va_list arguments;

	va_start(arguments, format);
	printf("#host ");
	vprintf(format, arguments);
	putchar('\n');
	fflush(stdout);
	va_end(arguments);
	while (length < sizeof answer - 1 && read(0, answer + length, 1) == 1 &&
	       answer[length] != '\n')
		length++;
	answer[length] = 0;
	return answer;
}

char *read_file(const char *path)
{
	size_t size = 0, space = 65536;
	char *text = malloc(space);
	int fd = open(path, O_RDONLY);
	ssize_t got;

	if (fd < 0 || !text) {
		free(text);
		return NULL;
	}
	while ((got = read(fd, text + size, space - size - 1)) > 0) {
		size += got;
		if (space - size < 4096)
			text = realloc(text, space *= 2);
	}
	close(fd);
	if (got < 0) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

const char *read_line(const char *path)
{
	static char line[4096];
	char *text = read_file(path);

	snprintf(line, sizeof line, "%s", text ? text : "");
	line[strcspn(line, "\n")] = 0;
	free(text);
	return line;
}

bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	ssize_t size = strlen(text);
	bool good = fd >= 0 && write(fd, text, size) == size;

	if (fd >= 0)
		close(fd);
	return good;
}

char *read_log(void)
{
	int space = 1 << 20;
	char *text = malloc(space);
	int size = klogctl(LOG_READ_ALL, text, space - 1);

	text[size < 0 ? 0 : size] = 0;
	return text;
}

bool log_has(const char *text)
{
	char *log = read_log();
	bool found = strstr(log, text) != NULL;

	free(log);
	return found;
}

long long now_ns(int clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * NS_PER_SECOND + time.tv_nsec;
}

void sleep_ns(long long ns)
{
	struct timespec time = { ns / NS_PER_SECOND, ns % NS_PER_SECOND };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

int wait_for(pid_t child)
{
	int status = -1;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

bool ended_well(int status)
{
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

pid_t start(int (*part)(void *), void *argument)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(part(argument));
	return child;
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

int cpus_online(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}
