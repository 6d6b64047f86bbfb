/*
 * dispatch.h
 *		The part of the worker that delivers messages.
 */
#ifndef DTX_DISPATCH_H
#define DTX_DISPATCH_H

#include "core/shmem.h"
#include "worker/link.h"

#define BATCH_BYTES		(4 * 1024 * 1024)	/* read at once, about */

/* Subscriptions have changed: read them again at the next turn. */
extern void dispatch_reload(void);

/* Do what can be done without waiting. */
extern void dispatch_step(void);

/* In tables: what was planned before the clock was set back; mend.c. A job. */
extern void deadlines_mend(void *arg);

/* Once a second: positions, segments, what nobody has told of. */
extern void dispatch_housekeeping(void);

/* ms after which the position of a subscription that gets no messages is written. */
extern int64 dispatch_refresh_delay(void);

/* The worker is about to wait: say whether it is to be woken for new messages. True:
 * there are some already. */
extern bool dispatch_listen(void);

/* When it next has something to do by itself; 0: never. */
extern TimestampTz dispatch_due(void);

/* Is a call under way, or a position not written down yet? */
extern bool dispatch_is_calling(void);

/* Is there nothing to do before that time, as far as is known? */
extern bool dispatch_is_idle(TimestampTz until);

/* Where it is idle: when there will be something to do; 0: not as far as is known. */
extern TimestampTz dispatch_later(void);

/* Its connections that are in use: call for each, from *iterator = NULL on. */
extern Link *dispatch_next_link(void **iterator);

/* --- runner.c, places.c: what runs as a role in this very database --- */

typedef struct RunnerArgs
{
	Oid			database;
	Oid			role;
} RunnerArgs;

/* ms from one start to the next, when so many before it have failed in a row: each is a
 * process, and a line in the log. */
extern int64 runner_restart_delay(int failures);

extern PGDLLEXPORT void dtx_runner_main(Datum arg);

/* In the worker: see to it that a process for the role looks for work. False: there
 * are too many such roles just now. */
extern bool runner_wake(Oid role);

/* End the processes that are past their time with something that cannot be cancelled. */
extern void runners_end_overdue(void);

/* In the launcher: the role whose process has waited longest, *since when, to be started
 * for a database, or InvalidOid; mark one as being started; start it, NULL when there is
 * no process slot; then take the mark back. One that has ended may never have come up. */
extern Oid	runner_waiting(DatabaseSlot *slot, TimestampTz now, TimestampTz *since);
extern void runner_mark(DatabaseSlot *slot, Oid role, TimestampTz now);
extern struct BackgroundWorkerHandle *runner_start(Oid database, Oid role);
extern void runner_not_started(DatabaseSlot *slot, Oid role);
extern void runner_ended(DatabaseSlot *slot, Oid role);

#endif							/* DTX_DISPATCH_H */
