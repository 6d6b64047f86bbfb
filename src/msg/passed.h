/*
 * passed.h
 *		Which transactions are over: a snapshot that is kept.
 */
#ifndef DTX_PASSED_H
#define DTX_PASSED_H

#include "postgres.h"

#include "utils/snapshot.h"

/* Which transactions are over: those below xmax, but for xip. */
typedef struct Passed
{
	uint64		xmin;
	uint64		xmax;
	int			nxip;
	uint64	   *xip;			/* sorted */
} Passed;

/* To and from the type pg_snapshot; palloc'd. */
extern Passed *passed_from_datum(Datum snapshot);
extern Datum passed_to_datum(const Passed *passed);

/* What is over now, as a registered snapshot sees it; the current transaction is not. */
extern Passed *passed_now(Snapshot snapshot);

/* Copies in the current context. */
extern Passed *passed_copy(const Passed *passed);
extern void passed_free(Passed *passed);

/* The beginning of the log. */
extern Passed *passed_nothing(void);

/* What is over in one of the two, palloc'd; is all that is over in the other over in this one? */
extern Passed *passed_either(const Passed *a, const Passed *b);
extern bool passed_covers(const Passed *passed, const Passed *other);

/* Is the transaction over in it? */
extern bool passed_is_over(const Passed *passed, uint64 xid);

#endif							/* DTX_PASSED_H */
