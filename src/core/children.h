/*
 * children.h
 *		Branches of a branch: they are decided when it is.
 */
#ifndef DTX_CHILDREN_H
#define DTX_CHILDREN_H

#include "core/mode.h"

/*
 * In the transaction that settles the superior branch: decide its branches the
 * same way. Those at other nodes are handed to the worker when the transaction
 * commits; those in this database are settled at once. May throw.
 */
extern void children_decide(const JoinedBranch *superior, bool commit);

/* Are branches of the branch gid, which was rolled back, not rolled back yet? */
extern bool children_rolling_back(const char *gid);

/* Are branches of the branch gid, whose phase 1 was never committed, maybe not
 * rolled back yet? No row tells of those. */
extern bool children_orphaned(const char *gid);

/* Has it branches in this very database? */
extern bool children_here(const JoinedBranch *superior);

#endif							/* DTX_CHILDREN_H */
