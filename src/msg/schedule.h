/*
 * schedule.h
 *		Schedules: after how long what has failed is tried again.
 */
#ifndef DTX_SCHEDULE_H
#define DTX_SCHEDULE_H

#include "postgres.h"

/*
 * The intervals of an interval[], in ms, palloc'd, and their number. ERROR 22023 for
 * fewer than least, and for one that is null, negative, or longer than 100 years.
 */
extern int64 *schedule_parse(Datum array, int least, int *n);

/* The ms until the next attempt after that many have failed: the last interval
 * repeats. With jitter. n > 0. */
extern int64 schedule_delay(const int64 *schedule, int n, int attempts);

/* An interval[] from its literal. */
extern Datum schedule_datum(const char *literal);

#endif							/* DTX_SCHEDULE_H */
