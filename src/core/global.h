/*
 * global.h
 *		This session as a coordinator: the global transaction of its
 *		transaction, its branches, and the decision.
 *
 * A branch may itself have branches: then the session's transaction is a branch
 * of another node's global transaction, what it calls belongs to that one, and
 * is decided when the branch is.
 */
#ifndef DTX_GLOBAL_H
#define DTX_GLOBAL_H

#include "core/gid.h"
#include "core/mode.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "net/remote.h"

/*
 * The states of a branch, as the coordinator's session knows it:
 *
 *	OPEN		its transaction at the peer is open: it ends with the connection
 *	SENT		the end of phase 1 was sent; what became of it is not known
 *	FAILED		phase 1 failed, and the peer said so: nothing is there; but the peer may
 *				still be rolling back what the branch had called itself
 *	PHASE_ONE	phase 1 is committed or prepared, and the row in dtx.branch stands
 *	DOOMED		its subtransaction was rolled back: so must the branch be
 *	SETTLED		the peer has rolled it back
 */
typedef enum BranchState
{
	BRANCH_OPEN,
	BRANCH_SENT,
	BRANCH_FAILED,
	BRANCH_PHASE_ONE,
	BRANCH_DOOMED,
	BRANCH_SETTLED
} BranchState;

typedef struct Branch
{
	dlist_node	node;
	const BranchMode *mode;
	uint32		b;
	Oid			server;			/* InvalidOid: this very database */
	Oid			role;
	SubTransactionId subid;
	BranchState state;
	bool		failed_inside;	/* FAILED, in the user's statement, or after it */
} Branch;

/* Is there a global transaction? Its id, or NULL. */
extern const GlobalXid *global_current(void);

/*
 * Begin one in the current transaction: it gets a transaction id. timeout in
 * ms, 0 for none. ERROR 25001 when there is one, 25006 in a read-only
 * transaction or a standby. In a branch it is that branch's global transaction.
 */
extern void global_begin(const BranchMode *mode, int64 timeout);

/* A new R for an xid. */
extern uint64 global_draw_r(void);

/* Begin one, in mode 'at', unless there is one. */
extern void global_ensure(void);

/* When the global transaction times out; 0: never. */
extern TimestampTz global_deadline(void);

/* Run a statement at a server, in the given mode, NULL: the transaction's. The
 * caller owns the result. ERROR: the peer's, or of the connection. */
extern PGresult *global_run(const char *server_name, const BranchMode *mode,
							const RemoteStatement *statement, int flags);

/* The server's or the role's use, checked and protected from DROP; a connection
 * for a new branch: not one that a branch is open on. */
extern PeerConnection *global_connection(Oid server, Oid role);

/*
 * What modes make branches from: a new one in state OPEN; its gid, into a
 * buffer of DTX_GID_SIZE; a legal move; the move to DOOMED, which is settled before the next
 * call; and the row in dtx.branch, which is the move to PHASE_ONE.
 */
extern Branch *global_branch_new(const BranchMode *mode, Oid server, Oid role);
extern void global_branch_gid(const Branch *branch, char *text);
extern void global_branch_advance(Branch *branch, BranchState to);
extern void global_branch_doom(Branch *branch);
extern void global_branch_record(Branch *branch, const char *participant);

/* The first statement of a branch's call at the peer: dtx.branch_join. What it
 * needs is palloc'd. */
extern void global_join_statement(const Branch *branch, int flags, int64 token, int lock_timeout,
								  RemoteStatement *statement);

/*
 * Calls that make a branch are repeated when they gave way to another branch: nothing of them is
 * left at the peer. All attempts together may wait as long as one may, dtx.lock_timeout.
 *
 * repeat_begin before the first; repeat_lock_timeout is what the join of each says; repeat_reason is
 * the gid of whom one gave way to, palloc'd, or NULL: it is not to be repeated; after one that is, whose
 * branch has FAILED, repeat_wait waits until the other branch is settled. ERROR 55P03 when that
 * takes too long.
 */
typedef struct Repeat
{
	TimestampTz deadline;		/* 0: none */
	int			times;
	char		last[DTX_GID_SIZE]; /* to whom the last one gave way */
} Repeat;

extern void repeat_begin(Repeat *repeat);
extern int	repeat_lock_timeout(const Repeat *repeat);
extern char *repeat_reason(const Repeat *repeat, RemoteCall *call);
extern void repeat_wait(Repeat *repeat, Branch *branch, const char *gid);

/* One call that makes a branch: join, statement, commit. For modes that commit
 * phase 1 at once. */
extern PGresult *global_one_call(const BranchMode *mode, Oid server, Oid role,
								 const RemoteStatement *statement, int flags);

/* How many branches of this branch have a row, and under which xid8. */
extern int	global_children(uint64 *local_n);

extern void global_pre_commit(void);
extern void global_decide(void);
extern void global_pre_prepare(void);
extern void global_xact_end(bool commit);
extern void global_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);

#endif							/* DTX_GLOBAL_H */
