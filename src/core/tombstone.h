/*
 * tombstone.h
 *		Rollbacks that came before their branch, which phase 1 runs into.
 */
#ifndef DTX_TOMBSTONE_H
#define DTX_TOMBSTONE_H

#include "core/mode.h"

/*
 * Leave one for a branch, for the current role: node, and its local transaction n, ask
 * for the rollback. others: a tombstone of another role's, which it replaces, or NULL.
 * False: the role has as many as are kept, and none was left.
 */
extern bool tombstone_insert(const JoinedBranch *branch, const char *node, uint64 n, ItemPointer others);

/* Does a tombstone that one role left bind who joins the branch, or asks, as another? */
extern bool tombstone_binds(Oid tombstone, Oid role);

/* Are there branches in doubt here of that branch's global transaction, none of which
 * the current role may settle? */
extern bool transaction_is_others(const JoinedBranch *branch);

/* Delete those that were left long ago, and what is kept of coordinators that were silent
 * for long. In the worker's transaction. True: there are more. */
extern bool tombstones_prune(void);

/* Delete those of a global transaction. Returns how many. */
extern int64 tombstones_forget(const GlobalXid *xid);

#endif							/* DTX_TOMBSTONE_H */
