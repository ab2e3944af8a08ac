/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first process of a guest: measures its disk, and prints KiB per second of each way to use it.
 *
 * It loads the modules /modules/00 and so on, waits for /dev/xvda or /dev/vda, and reads and writes
 * it past the guest's page cache. Each line is "BLOCK name KiB-per-second"; the end is "BLOCK done".
 * It runs under any hypervisor, so that two can be compared. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

enum { SMALL = 4096, LARGE = 1 << 20, MOST_THREADS = 16 };
static const double seconds = 1.5;

static int disk;
static uint64_t size;
static double deadline;

struct job {
    int writing, block, random;
    unsigned int seed;
    uint64_t next, step, done;
};

static void *work(void *argument)
{
    struct job *job = argument;
    void *buffer;
    if (posix_memalign(&buffer, SMALL, job->block))
        give_up("memory");
    for (long i = 0; i < job->block; i++)
        ((char *)buffer)[i] = i * 7 + job->seed;
    while (now() < deadline) {
        uint64_t number = job->next;
        job->next += job->step;
        if (job->random)
            number = ((uint64_t)rand_r(&job->seed) << 16) ^ rand_r(&job->seed);
        uint64_t place = number % (size / job->block) * job->block;
        ssize_t got = job->writing ? pwrite(disk, buffer, job->block, place)
                                   : pread(disk, buffer, job->block, place);
        if (got != job->block)
            give_up(job->writing ? "write" : "read");
        job->done += got;
    }
    free(buffer);
    return NULL;
}

static void measure(const char *name, int writing, int block, int random, int threads)
{
    static struct job jobs[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    uint64_t done = 0;
    double start = now();
    deadline = start + seconds;
    for (int i = 0; i < threads; i++) {
        jobs[i] = (struct job){writing, block, random, i + 1, i, threads, 0};
        if (pthread_create(&ids[i], NULL, work, &jobs[i]))
            give_up("thread");
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        done += jobs[i].done;
    }
    if (writing && fdatasync(disk))
        give_up("fdatasync");
    printf("BLOCK %s %.0f\n", name, done / 1024 / (now() - start));
    fflush(stdout);
}

int main(void)
{
    mount("none", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    double end = now() + 20;
    while ((disk = open("/dev/xvda", O_RDWR | O_DIRECT)) < 0
           && (disk = open("/dev/vda", O_RDWR | O_DIRECT)) < 0 && now() < end)
        usleep(10000);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size))
        give_up("disk");
    printf("BLOCK start\n");
    fflush(stdout);
    measure("random-read", 0, SMALL, 1, 1);
    measure("random-write", 1, SMALL, 1, 1);
    measure("random-read-16", 0, SMALL, 1, 16);
    measure("random-write-16", 1, SMALL, 1, 16);
    measure("sequential-read", 0, LARGE, 0, 1);
    measure("sequential-write", 1, LARGE, 0, 1);
    printf("BLOCK done\n");
    fflush(stdout);
    for (;;)
        pause();
}
