/* SPDX-License-Identifier: MIT
 *
 * The engine's side of a stop: what it asks, and what it makes of each answer.  The answers
 * lie in the socket before it asks.
 */
#include "check.h"
#include "rig.h"

#include <sys/socket.h>
#include <unistd.h>

struct stop {
    struct rig rig;
    int tracer; /* the other end */
};

static void make(struct stop *s)
{
    int ends[2];
    rig_make(&s->rig, 4, 4, 64);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    s->rig.request.stopper = ends[0];
    s->tracer = ends[1];
    CHECK_EQ(pm__target_open(&s->rig.c), 0);
}

static void answers(struct stop *s, int32_t status)
{
    struct pm__held held = {.status = status, .threads = 1};
    CHECK_EQ(send(s->tracer, &held, sizeof held, 0), sizeof held);
}

/* What the tracer was asked, as text. */
static const char *asked(struct stop *s)
{
    static char text[8];
    ssize_t got = recv(s->tracer, text, sizeof text - 1, MSG_DONTWAIT);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static void drop(struct stop *s)
{
    close(s->rig.request.stopper);
    close(s->tracer);
    rig_drop(&s->rig);
}

static void holds_and_lets_go(void)
{
    struct stop s;
    make(&s);
    answers(&s, 0);
    CHECK_EQ(pm__stop(&s.rig.c), 0);
    CHECK(s.rig.c.stopped && !strcmp(asked(&s), "s"));
    answers(&s, 0);
    pm__resume(&s.rig.c);
    CHECK(!s.rig.c.stopped && !strcmp(asked(&s), "c"));
    CHECK(s.rig.c.header.stopped_ns > 0);
    pm__resume(&s.rig.c); /* nothing is asked twice */
    CHECK(!strcmp(asked(&s), ""));
    drop(&s);
}

/* A capture may take several attempts. */
static void stops_add_up(void)
{
    struct stop s;
    make(&s);
    for (int i = 0; i < 2; i++) {
        uint64_t before = s.rig.c.header.stopped_ns;
        answers(&s, 0);
        answers(&s, 0);
        CHECK_EQ(pm__stop(&s.rig.c), 0);
        usleep(i ? 0 : 20000);
        pm__resume(&s.rig.c);
        CHECK(s.rig.c.header.stopped_ns > before);
    }
    drop(&s);
}

static void asks_nobody_without_a_tracer(void)
{
    struct stop s;
    make(&s);
    close(s.rig.request.stopper);
    s.rig.request.stopper = -1;
    CHECK_EQ(pm__stop(&s.rig.c), 0);
    pm__resume(&s.rig.c);
    CHECK_EQ(s.rig.c.header.stopped_ns, 0);
    drop(&s);
}

static void refusals_are_errors(void)
{
    static const struct {
        int status, code;
    } cases[] = {{EPERM, EPERM}, {ETIMEDOUT, ETIMEDOUT}, {ESRCH, PM_E_GONE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stop s;
        make(&s);
        answers(&s, cases[i].status);
        CHECK_EQ(pm__stop(&s.rig.c), -cases[i].code);
        CHECK_EQ(s.rig.err.stage, PM_AT_STOP);
        CHECK(!s.rig.c.stopped && !strcmp(asked(&s), "s"));
        drop(&s);
    }
}

/* It ended before it heard us, and while we waited for its answer. */
static void a_tracer_that_ended(void)
{
    for (int before = 0; before < 2; before++) {
        struct stop s;
        make(&s);
        if (before)
            close(s.tracer);
        else
            shutdown(s.tracer, SHUT_WR);
        CHECK_EQ(pm__stop(&s.rig.c), -EPIPE);
        if (before)
            s.tracer = open("/dev/null", O_RDONLY);
        drop(&s);
    }
}

/* ... and while it held the target: who knows for how long it did. */
static void a_tracer_that_ended_early(void)
{
    struct stop s;
    make(&s);
    answers(&s, 0);
    CHECK_EQ(pm__stop(&s.rig.c), 0);
    shutdown(s.tracer, SHUT_RDWR);
    pm__resume(&s.rig.c);
    CHECK_EQ(s.rig.c.header.stopped_ns, 0);
    drop(&s);
}

/* The pid is another's by now: what was stopped was not the target, and is let go at once. */
static void another_process_by_that_pid(void)
{
    static const enum fk_fault ends[] = {FK_DIE, FK_ZOMBIE};
    for (size_t i = 0; i < 2; i++) {
        struct stop s;
        make(&s);
        s.rig.fake.fault = ends[i];
        s.rig.fake.fail_at = s.rig.fake.calls + 1;
        answers(&s, 0);
        answers(&s, 0);
        CHECK_EQ(pm__stop(&s.rig.c), -PM_E_GONE);
        CHECK(!s.rig.c.stopped && !strcmp(asked(&s), "sc"));
        drop(&s);
    }
}

int main(void)
{
    RUN(holds_and_lets_go);
    RUN(stops_add_up);
    RUN(asks_nobody_without_a_tracer);
    RUN(refusals_are_errors);
    RUN(a_tracer_that_ended);
    RUN(a_tracer_that_ended_early);
    RUN(another_process_by_that_pid);
    return check_done();
}
