/*
 * shared.h
 *		Global transactions that services share: dtx_open, dtx_join, dtx_commit,
 *		dtx_rollback.
 *
 * The decision is the state of the row in dtx.global, changed once, under an
 * exclusive lock on the transaction. Whoever joins holds the lock shared while
 * it registers its branch; in the coordinator's own database until it is over.
 */
#ifndef DTX_SHARED_H
#define DTX_SHARED_H

#include "core/gid.h"
#include "core/shmem.h"

/* The state of the shared transaction n of this node: 'o' open, 'c' committed,
 * 'r' rolled back; 0 when there is none. */
extern char shared_state(uint64 n);

/* The worker's part: register a branch that joins in this database. Returns its
 * number, or 0 when the transaction is not open. */
extern uint32 shared_register_here(const RegisterRequest *request);

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
