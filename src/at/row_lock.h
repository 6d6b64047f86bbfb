/*
 * row_lock.h
 *		Row locks: rows that a branch in doubt has changed.
 */
#ifndef DTX_AT_ROW_LOCK_H
#define DTX_AT_ROW_LOCK_H

#include "postgres.h"

#include "access/htup.h"
#include "at/key.h"
#include "datatype/timestamp.h"
#include "utils/rel.h"

/*
 * The current transaction has changed the row with this key. Wait until no
 * branch in doubt of another global transaction holds it.
 *
 * ERROR 40001 at once, when the holder is being rolled back or another branch
 * of it is blocked behind this transaction: this one holds the row's heap
 * lock, and has to give way; in a call of a coordinator the error tells that to whom
 * (REMOTE_GAVE_WAY_TO). ERROR 55P03 after dtx.lock_timeout.
 */
extern void row_lock_wait(Relation rel, AttachedRelation *ar, HeapTuple tuple,
						  int64 hash);

typedef enum RelationWait
{
	RELATION_SETTLED,
	RELATION_NEEDED,			/* settling waits for a lock of this transaction */
	RELATION_TIMEOUT
} RelationWait;

/*
 * Wait until the branches in doubt that have changed the table by now are settled. deadline:
 * by clock_now(), 0: none. holder_gid: DTX_GID_SIZE bytes; one of them, unless all are settled.
 * locked: this transaction has a lock on the table that its writers wait for. Then it waits in
 * vain for a branch that is rolled back, or goes on with the table: RELATION_NEEDED.
 */
extern RelationWait row_lock_wait_relation(Oid relid, bool locked, TimestampTz deadline, char *holder_gid);

/* The transaction ended, maybe in the midst of a wait. Never throws. */
extern void row_lock_xact_end(void);

#endif							/* DTX_AT_ROW_LOCK_H */
