/*
 * shared.h
 *		Global transactions that services share: dtx_open, dtx_commit, dtx_rollback;
 *		dtx_join is join.c's.
 *
 * The decision is the state of the row in dtx.global, changed once, under an
 * exclusive lock on the transaction. Whoever joins holds the lock shared while
 * it registers its branch; in the coordinator's own database until it is over.
 */
#ifndef DTX_SHARED_H
#define DTX_SHARED_H

#include "core/gid.h"
#include "core/shmem.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* A row of dtx.global. */
typedef struct SharedTransaction
{
	GlobalXid	xid;
	char		xid_text[DTX_GID_SIZE];
	char		state;
	Oid			role;
	TimestampTz deadline;
	List	   *joiners;		/* OIDs: who may join besides the role */
} SharedTransaction;

/* The row of this node's shared transaction n. False: there is none. */
extern bool shared_find(uint64 n, SharedTransaction *st);

/* The shared transaction of this id, as it is now or as it ended. ERROR DX003 unless
 * it is one of this node's, and known to the current role. */
extern void shared_get(const char *xid_text, SharedTransaction *st);

/* ERROR DX003 when it is decided, 25P04 when its time is over. */
extern void shared_refuse_unless_open(const SharedTransaction *st);

/* The state of the shared transaction n of this node: 'o' open, 'c' committed,
 * 'r' rolled back; 0 when there is none. */
extern char shared_state(uint64 n);

/*
 * The worker's part, in a transaction: decide to roll back what is over its
 * deadline, settle branches in this database that are committed, and file away
 * what has no branches left. Returns how many shared transactions there are;
 * *least_n: the least N of them; to *roles those are added whose processes have
 * branches in this database to roll back.
 */
extern int	shared_housekeeping(uint64 *least_n, List **roles);

/* The least N of the shared transactions, or most when there is none below. */
extern uint64 shared_least_n(uint64 most);

/* Whom a shared transaction of this node is known to while it has a row: who opened it,
 * and its joiners. NIL when there is none of that id. */
extern List *shared_roles(const GlobalXid *xid);

#endif							/* DTX_SHARED_H */
