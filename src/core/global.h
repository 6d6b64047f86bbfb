/*
 * global.h
 *		This session as a coordinator: the global transaction of its
 *		transaction, its branches, and the decision.
 */
#ifndef DTX_GLOBAL_H
#define DTX_GLOBAL_H

#include "core/gid.h"
#include "core/mode.h"
#include "datatype/timestamp.h"
#include "net/remote.h"

/*
 * The states of a branch, as the coordinator's session knows it:
 *
 *	SENT		phase 1 was sent; what became of it is not known
 *	FAILED		phase 1 failed, and the peer said so: nothing is there
 *	PHASE_ONE	phase 1 is committed, and the row in dtx.branch stands
 *	DOOMED		its subtransaction was rolled back: so must the branch be
 *	SETTLED		the peer has rolled it back
 */
typedef enum BranchState
{
	BRANCH_SENT,
	BRANCH_FAILED,
	BRANCH_PHASE_ONE,
	BRANCH_DOOMED,
	BRANCH_SETTLED
} BranchState;

/* Is there a global transaction? Its id, or NULL. */
extern const GlobalXid *global_current(void);

/*
 * Begin one in the current transaction: it gets a transaction id. timeout in
 * ms, 0 for none. ERROR 25001 when there is one, 25006 in a read-only
 * transaction or a standby, 0A000 inside a branch.
 */
extern void global_begin(const BranchMode *mode, int64 timeout);

/* Begin one unless there is one. */
extern void global_ensure(void);

/* The same for a certain mode. ERROR 25001 when there is one of another mode. */
extern void global_use_mode(const BranchMode *mode);

/* When the global transaction times out; 0: never. */
extern TimestampTz global_deadline(void);

/*
 * Run a statement as a new branch at a server: phase 1, committed when this
 * returns. The caller owns the result. ERROR: the peer's, or of the connection.
 */
extern PGresult *global_run_branch(const char *server_name, const RemoteStatement *statement,
								   int join_flags);

extern void global_pre_commit(void);
extern void global_pre_prepare(void);
extern void global_xact_end(bool commit);
extern void global_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);

#endif							/* DTX_GLOBAL_H */
