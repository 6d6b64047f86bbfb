/*
 * clock.h
 *		Time for deadlines: it does not go back when the clock is set back.
 *
 * What is kept in a process's memory counts by clock_now(). Rows of tables say when
 * something is due by the wall clock, and when that was planned, also by that: a row that
 * was planned in time to come was planned before the clock was set back, and its delay
 * begins anew (worker/mend.c). Processes that live long, and have deadlines of both kinds
 * in memory, begin anew themselves. So a clock that is set back makes a delay twice as
 * long at most.
 */
#ifndef DTX_CLOCK_H
#define DTX_CLOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* The wall clock; where that has been set back in the life of this process, what it would
 * say otherwise. */
extern TimestampTz clock_now(void);

/* ms until a deadline by clock_now(), rounded up; 0: it is over. */
extern long clock_remaining(TimestampTz deadline);

/* Has the wall clock been set back since the last call, by more than a moment? */
extern bool clock_was_set_back(void);

/* us by a clock that only goes on, the same in all processes of the server. */
extern int64 clock_monotonic(void);

#endif							/* DTX_CLOCK_H */
