/*
 * api.h
 *		What entry points share.
 */
#ifndef DTX_API_H
#define DTX_API_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"

/* ERROR 22004, which names it, when an argument of the function is NULL, or one of its first n. */
extern void argument_required(FunctionCallInfo fcinfo, int i);
extern void arguments_required(FunctionCallInfo fcinfo, int n);

/*
 * A function that SQL calls, with n arguments that must not be NULL. STRICT would do
 * nothing then, and say nothing: a NULL is a value that the caller has lost. What the
 * function does is name_given's.
 */
#define ENTRY_POINT(name, n) \
	static Datum name##_given(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name); \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		arguments_required(fcinfo, n); \
		return name##_given(fcinfo); \
	} \
	extern Datum name(PG_FUNCTION_ARGS)

/* Milliseconds of an interval; a month is 30 days. ERROR 22023 unless it is
 * positive and below 25 days. */
extern int64 interval_to_ms(const Interval *interval);

/* Make values travel: ISO dates, exact floats. Undo with AtEOXact_GUC(true, nest). */
extern int	transmission_modes(void);

#endif							/* DTX_API_H */
