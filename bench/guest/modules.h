/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the guests of benchmarks begin with: the modules that the script has put into the ramdisk. */

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

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
