/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the first processes of guests have in common: time, the end, and the modules that the script
 * has put into the ramdisk. */

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void give_up(const char *what)
{
    perror(what);
    fflush(NULL);
    for (;;)
        pause();
}

static void load_modules(void)
{
    for (int number = 0;; number++) {
        char path[32];
        snprintf(path, sizeof path, "/modules/%02d", number);
        int file = open(path, O_RDONLY);
        if (file < 0)
            return;
        if (syscall(SYS_finit_module, file, "", 0))
            perror(path);
        close(file);
    }
}
