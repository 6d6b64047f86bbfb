/*
 * clock.c
 *		A clock that is not set back.
 */
#include "postgres.h"

#include "core/clock.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

#define MOMENT	1000000			/* us: by so much a deadline may be late */

static int64 ahead = PG_INT64_MIN;	/* the most that the wall clock was ahead of the monotonic one */

int64
clock_monotonic(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

/* How much the wall clock is ahead. Who is stopped between a look at the one and at the
 * other looks again: that would be a clock that was set. */
static int64
ahead_now(int64 *monotonic)
{
	int64		before;
	TimestampTz wall;

	do
	{
		before = clock_monotonic();
		wall = GetCurrentTimestamp();
		*monotonic = clock_monotonic();
	} while (*monotonic - before > MOMENT / 10);
	return wall - *monotonic;
}

TimestampTz
clock_now(void)
{
	int64		monotonic;

	ahead = Max(ahead, ahead_now(&monotonic));
	return monotonic + ahead;
}

long
clock_remaining(TimestampTz deadline)
{
	return TimestampDifferenceMilliseconds(clock_now(), deadline);
}

bool
clock_was_set_back(void)
{
	int64		before = ahead;
	int64		monotonic;
	int64		now_ahead = ahead_now(&monotonic);

	/* moments do not add up: who asks goes by the wall clock */
	ahead = now_ahead;
	return before != PG_INT64_MIN && before - now_ahead > MOMENT;
}
