/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes patterns to a disk and verifies them: `disk verify DEVICE SECONDS`, or writes records that
 * are on the disk when it says so: `disk sync DEVICE`, or files: `disk files FOLDER FIRST`.
 *
 * Each 512 bytes on the disk hold their number and how often they have been written, over and over.
 * Some threads, each with a part of the disk of its own, write, read, flush and discard ranges of all
 * sizes past the page cache; what is read must be what was written last. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, LARGEST = 1 << 20, THREADS = 4, FILES = 64, LARGEST_FILE = 200000 };

static int disk, sector_size;
static uint64_t sectors;
static time_t end;
static long operations[THREADS];

static void fail(const char *what, uint64_t sector)
{
    printf("FAILED %s at sector %llu: %s\n", what, (unsigned long long)sector, strerror(errno));
    exit(1);
}

static void fill(uint64_t *words, uint64_t sector, uint32_t count, const uint32_t *generation)
{
    for (uint32_t i = 0; i < count; i++)
        for (int word = 0; word < SECTOR / 8; word += 2) {
            *words++ = sector + i;
            *words++ = generation[i];
        }
}

static void verify(const uint64_t *words, uint64_t sector, uint32_t count,
                   const uint32_t *generation)
{
    for (uint32_t i = 0; i < count; i++)
        for (int word = 0; word < SECTOR / 8; word += 2, words += 2)
            if (words[0] != sector + i || words[1] != generation[i]) {
                errno = EILSEQ;
                fail("verify", sector + i);
            }
}

static void *work(void *argument)
{
    long thread = (long)argument;
    unsigned int seed = thread + 1;
    uint64_t first = sectors / THREADS * thread, own = sectors / THREADS;
    uint32_t *generation = calloc(own, sizeof *generation), unit = sector_size / SECTOR;
    uint64_t *buffer;
    if (!generation || posix_memalign((void **)&buffer, 4096, LARGEST + 4096))
        fail("memory", 0);
    fill(buffer, first, 1, generation);
    for (uint64_t done = 0; done < own; done += LARGEST / SECTOR) {
        uint32_t count = own - done < LARGEST / SECTOR ? own - done : LARGEST / SECTOR;
        fill(buffer, first + done, count, generation + done);
        if (pwrite(disk, buffer, count * SECTOR, (first + done) * SECTOR) != count * SECTOR)
            fail("first write", first + done);
    }
    while (time(NULL) < end) {
        uint32_t most = rand_r(&seed) % 3 ? 16 : LARGEST / SECTOR;
        uint32_t count = (1 + rand_r(&seed) % (most / unit)) * unit;
        uint64_t place = rand_r(&seed) % ((own - count) / unit) * unit;
        /* Not always at the beginning of a page. */
        void *data = (char *)buffer + rand_r(&seed) % (4096 / sector_size) * sector_size;
        uint64_t range[2] = {(first + place) * SECTOR, (uint64_t)count * SECTOR};
        switch (rand_r(&seed) % 16) {
        case 0:
            if (fdatasync(disk))
                fail("flush", first);
            break;
        case 1:
            if (ioctl(disk, BLKDISCARD, range) && errno != EOPNOTSUPP)
                fail("discard", first + place);
            /* What was discarded is anything. */
            __attribute__((fallthrough));
        case 2 ... 8:
            for (uint32_t i = 0; i < count; i++)
                generation[place + i]++;
            fill(data, first + place, count, generation + place);
            if (pwrite(disk, data, range[1], range[0]) != (ssize_t)range[1])
                fail("write", first + place);
            break;
        default:
            if (pread(disk, data, range[1], range[0]) != (ssize_t)range[1])
                fail("read", first + place);
            verify(data, first + place, count, generation + place);
        }
        operations[thread]++;
    }
    return NULL;
}

static int run_verify(void)
{
    pthread_t ids[THREADS];
    long all = 0;
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i))
            fail("thread", 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        all += operations[i];
    }
    if (fsync(disk))
        fail("flush", 0);
    printf("verified %ld operations\n", all);
    return 0;
}

/* Record n is sector n: "record n". It is told when it is on the disk. */
static int run_sync(void)
{
    char *record = aligned_alloc(4096, 4096);
    for (uint64_t n = 0; n < sectors; n++) {
        memset(record, 0, SECTOR);
        snprintf(record, SECTOR, "record %llu", (unsigned long long)n);
        if (pwrite(disk, record, SECTOR, n * SECTOR) != SECTOR || fdatasync(disk))
            fail("record", n);
        printf("synced %llu\n", (unsigned long long)n);
        fflush(stdout);
    }
    return 0;
}

/* File n is "file n" in lines, as many bytes as its number says. It is written under another name,
 * replaces number n - FILES, and is told when all of that is on the disk. */
static _Noreturn void run_files(uint64_t n)
{
    static char content[LARGEST_FILE + 64];
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    for (;; n++) {
        char name[32];
        size_t length = sprintf(content, "file %llu\n", (unsigned long long)n), done = length;
        size_t size = n * 7919 % LARGEST_FILE + 1;
        for (; done < size; done += length)
            memcpy(content + done, content, length);
        int file = open("new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (file < 0 || write(file, content, size) != (ssize_t)size || fsync(file) || close(file))
            fail("file", n);
        sprintf(name, "%llu", (unsigned long long)n % FILES);
        if (rename("new", name) || fsync(folder))
            fail("rename", n);
        printf("kept %llu\n", (unsigned long long)n);
        fflush(stdout);
    }
}

int main(int count, char **arguments)
{
    uint64_t bytes;
    if (count == 4 && !strcmp(arguments[1], "files") && !chdir(arguments[2]))
        run_files(strtoull(arguments[3], NULL, 10));
    if (count < 3 || (disk = open(arguments[2], O_RDWR | O_DIRECT)) < 0
        || ioctl(disk, BLKGETSIZE64, &bytes) || ioctl(disk, BLKSSZGET, &sector_size))
        fail("open", 0);
    sectors = bytes / SECTOR;
    end = time(NULL) + (count > 3 ? atoi(arguments[3]) : 5);
    return strcmp(arguments[1], "sync") ? run_verify() : run_sync();
}
