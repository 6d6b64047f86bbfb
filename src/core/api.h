/*
 * api.h
 *		What entry points share.
 */
#ifndef DTX_API_H
#define DTX_API_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"

/* ERROR 22004, which names the argument, when it is NULL. */
extern void not_null(FunctionCallInfo fcinfo, int argument, const char *what);

/* Milliseconds of an interval; a month is 30 days. ERROR 22023 unless it is
 * positive and below 25 days. */
extern int64 interval_to_ms(const Interval *interval);

/* Make values travel: ISO dates, exact floats. Undo with AtEOXact_GUC(true, nest). */
extern int	transmission_modes(void);

#endif							/* DTX_API_H */
