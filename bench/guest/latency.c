/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first process of a guest: measures what costs a trap, and prints nanoseconds of each.
 *
 * Each line is "LATENCY name nanoseconds", the smallest of some rounds: what disturbs a round only
 * makes it longer. The end is "LATENCY done". It runs under any hypervisor, so that two can be
 * compared. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Calls measure ROUNDS times; it returns nanoseconds for each of what it does. */
static void report(const char *name, double (*measure)(void))
{
    double best = measure();
    for (int round = 1; round < ROUNDS; round++) {
        double ns = measure();
        if (ns < best)
            best = ns;
    }
    printf("LATENCY %s %.0f\n", name, best);
    fflush(stdout);
}

static double system_call(void)
{
    enum { COUNT = 20000 };
    double start = now();
    for (int i = 0; i < COUNT; i++)
        syscall(SYS_getppid);
    return (now() - start) / COUNT;
}

static double page_fault(void)
{
    enum { COUNT = 4096, PAGE = 4096 };
    char *pages = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return -1;
    madvise(pages, COUNT * PAGE, MADV_NOHUGEPAGE);
    double start = now();
    for (int i = 0; i < COUNT; i++)
        ((volatile char *)pages)[(long)i * PAGE] = 1;
    double end = now();
    munmap(pages, COUNT * PAGE);
    return (end - start) / COUNT;
}

static double fork_and_exec(void)
{
    enum { COUNT = 50 };
    double start = now();
    for (int i = 0; i < COUNT; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/latency", "latency", "exit", (char *)NULL);
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
    return (now() - start) / COUNT;
}

/* Two processes hand a byte to and fro; each way is a switch from one to the other. */
static double context_switch(void)
{
    enum { COUNT = 2000 };
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    double start = now();
    for (int i = 0; i < COUNT; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            return -1;
    double end = now();
    close(there[0]);
    close(there[1]);
    close(back[0]);
    close(back[1]);
    waitpid(child, NULL, 0);
    return (end - start) / COUNT / 2;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "exit") == 0)
        _exit(0);
    printf("LATENCY start\n");
    fflush(stdout);
    report("system-call", system_call);
    report("page-fault", page_fault);
    report("context-switch", context_switch);
    report("fork-exec", fork_and_exec);
    printf("LATENCY done\n");
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
