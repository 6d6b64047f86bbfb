/*
 * schedule.c
 *		Schedules: after how long what has failed is tried again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "msg/schedule.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

static int64
interval_ms(const Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;

	return days * SECS_PER_DAY * 1000 + interval->time / 1000;
}

int64 *
schedule_parse(Datum array, int least, int *n)
{
	Datum	   *items;
	bool	   *nulls;
	int64	   *schedule;

	/* a time that far ahead is none */
	const int64 most = 100 * INT64CONST(365) * SECS_PER_DAY * 1000;

	deconstruct_array(DatumGetArrayTypeP(array), INTERVALOID, sizeof(Interval), false, TYPALIGN_DOUBLE,
					  &items, &nulls, n);
	schedule = palloc(Max(*n, 1) * sizeof(int64));
	for (int i = 0; i < *n; i++)
	{
		schedule[i] = nulls[i] ? -1 : interval_ms(DatumGetIntervalP(items[i]));
		if (schedule[i] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("intervals of a schedule must not be null or negative")));
		if (schedule[i] > most)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("intervals of a schedule must not be longer than 100 years")));
	}
	if (*n < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a schedule must have an interval")));
	return schedule;
}

int64
schedule_delay(const int64 *schedule, int n, int attempts)
{
	int64		delay = schedule[Min(Max(attempts, 1), n) - 1];

	/* a tenth more or less, so that what failed together does not come together */
	return delay - delay / 10 + (int64) (pg_prng_double(&pg_global_prng_state) * (delay / 5));
}

Datum
schedule_datum(const char *literal)
{
	return OidInputFunctionCall(F_ARRAY_IN, (char *) literal, INTERVALOID, -1);
}
