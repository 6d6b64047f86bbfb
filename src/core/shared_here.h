/*
 * shared_here.h
 *		Branches of shared global transactions in the opener's own database.
 *
 * Rolling them back calls functions of the tables' owners, for as long as these
 * like: who decides does it at once, in its own session; what is left is done by
 * a process of a role that has joined, never by the worker.
 */
#ifndef DTX_SHARED_HERE_H
#define DTX_SHARED_HERE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* The lock on a shared transaction of this node, to the end of the current one. */
extern bool shared_lock(uint64 n, LOCKMODE mode, bool wait);

/* Settle the branches that shared transaction n has in this database, under its
 * lock. Where that fails they stay, and their rows say why. */
extern void shared_settle_here(uint64 n, bool commit);

/* The worker's part: the role whose process has to roll back what shared
 * transaction n has in this database now; InvalidOid: none, yet. */
extern Oid	shared_rollback_role(uint64 n, Oid opener);

/*
 * That process's part, outside of transactions: roll back branches of one shared
 * transaction. False: none is due; *next is when one will be, 0: not known of.
 */
extern bool shared_rollback_here(Oid role, TimestampTz *next);

#endif							/* DTX_SHARED_HERE_H */
