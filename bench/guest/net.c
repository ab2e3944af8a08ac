/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first process of a guest: measures its network, and prints what each way of use comes to.
 *
 * It loads the modules /modules/00 and so on, waits for eth0, gives it the address 10.0.2.15, and
 * talks to the server at 10.0.2.2, whose port is the variable "port" of its environment (the
 * kernel's command line puts it there). Each line is "NET name number": KiB per second of a stream,
 * datagrams or questions with answers per second; the end is "NET done". It runs under any
 * hypervisor, so that two can be compared. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

enum { CHUNK = 1 << 18, DATAGRAM = 64 };
static const double seconds = 2;

static struct sockaddr_in server;
static char buffer[CHUNK];

static void print(const char *name, double value)
{
    printf("NET %s %.0f\n", name, value);
    fflush(stdout);
}

/* The server does what the first byte says. */
static int connect_for(char what)
{
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&server, sizeof server))
        give_up("connect");
    if (write(s, &what, 1) != 1)
        give_up("write");
    return s;
}

static uint64_t read_number(int s)
{
    uint64_t number;
    if (recv(s, &number, sizeof number, MSG_WAITALL) != sizeof number)
        give_up("the server's answer");
    close(s);
    return number;
}

static void stream_out(const char *name)
{
    int s = connect_for('s');
    double start = now();
    while (now() < start + seconds)
        if (write(s, buffer, CHUNK) < 0)
            give_up("write");
    shutdown(s, SHUT_WR);
    uint64_t done = read_number(s);
    print(name, done / 1024 / (now() - start));
}

static void stream_in(const char *name)
{
    int s = connect_for('r');
    uint64_t done = 0;
    double start = now();
    while (now() < start + seconds) {
        ssize_t got = read(s, buffer, CHUNK);
        if (got <= 0)
            give_up("read");
        done += got;
    }
    print(name, done / 1024 / (now() - start));
    close(s);
}

/* A socket for datagrams whose wait for an answer ends. */
static int datagrams(void)
{
    struct timeval wait = {0, 200000};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&server, sizeof server)
        || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait))
        give_up("socket");
    return s;
}

static void questions(const char *name)
{
    int s = datagrams();
    long answers = 0;
    double start = now();
    while (now() < start + seconds) {
        if (write(s, "q", 1) != 1)
            give_up("question");
        if (read(s, buffer, CHUNK) > 0)
            answers++;
    }
    print(name, answers / (now() - start));
    close(s);
}

static void datagrams_out(const char *name)
{
    int s = datagrams();
    buffer[0] = 'c';
    read_number(connect_for('z'));
    double start = now();
    while (now() < start + seconds)
        if (write(s, buffer, DATAGRAM) != DATAGRAM && errno != ENOBUFS && errno != EAGAIN)
            give_up("datagram");
    double end = now();
    usleep(300000);
    print(name, read_number(connect_for('n')) / (end - start));
    close(s);
}

static void datagrams_in(const char *name)
{
    int s = datagrams();
    long count = 0;
    if (write(s, "b", 1) != 1)
        give_up("question");
    double start = now();
    while (now() < start + seconds)
        if (read(s, buffer, CHUNK) > 0)
            count++;
    print(name, count / (now() - start));
    close(s);
}

static void set_up(int s, int mtu)
{
    struct ifreq request = {.ifr_name = "eth0"};
    request.ifr_mtu = mtu;
    if (ioctl(s, SIOCSIFMTU, &request))
        give_up("mtu");
}

int main(void)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    const char *port = getenv("port");

    mount("none", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    double end = now() + 20;
    while (ioctl(s, SIOCGIFINDEX, &request) && now() < end)
        usleep(10000);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = inet_addr("10.0.2.15");
    if (ioctl(s, SIOCSIFADDR, &request))
        give_up("address");
    address->sin_addr.s_addr = inet_addr("255.255.255.0");
    if (ioctl(s, SIOCSIFNETMASK, &request))
        give_up("netmask");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(s, SIOCSIFFLAGS, &request))
        give_up("up");
    server.sin_family = AF_INET;
    server.sin_port = htons(port ? atoi(port) : 0);
    server.sin_addr.s_addr = inet_addr("10.0.2.2");
    sleep(1);
    printf("NET start\n");
    fflush(stdout);
    set_up(s, 1500);
    stream_out("stream-out");
    stream_in("stream-in");
    set_up(s, 65520);
    stream_out("stream-out-65520");
    stream_in("stream-in-65520");
    questions("questions");
    datagrams_out("datagrams-out");
    datagrams_in("datagrams-in");
    printf("NET done\n");
    fflush(stdout);
    for (;;)
        pause();
}
