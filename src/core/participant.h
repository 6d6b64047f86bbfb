/*
 * participant.h
 *		This session as a participant: the branch that its transaction is.
 */
#ifndef DTX_PARTICIPANT_H
#define DTX_PARTICIPANT_H

#include "core/gid.h"
#include "core/mode.h"

/* flags of a join */
#define JOIN_ONE_STATEMENT	1	/* the call is the join and one statement */
#define JOIN_NO_ROWS		2	/* that statement must return no rows */

typedef struct CurrentBranch
{
	bool		active;
	Gid			gid;
	char		gid_text[DTX_GID_SIZE];
	uint64		xid_hash;
	int64		key;
	Oid			role;
	int			flags;
	int			lock_timeout;	/* ms, the coordinator's dtx.lock_timeout */
	int			guc_nest;		/* settings changed above it end with the branch */
	const BranchMode *mode;
} CurrentBranch;

/* The branch that the current transaction is; check .active first. */
extern CurrentBranch current_branch;

/* Is a stranger's statement running inside a branch? */
static inline bool
participant_user_statement(void)
{
	return current_branch.active;
}

/*
 * Make the current transaction the branch gid. Nothing may have been written
 * in it yet. lock_timeout is in ms. Returns this node's id.
 * ERROR DX003 when the branch cannot be joined.
 */
extern const char *participant_join(const char *gid_text, const char *mode, int flags,
									int lock_timeout);

/* Try to have the gid for this transaction alone; false when another has it. */
extern bool gid_try_lock(int64 key);

/* How far has this coordinator forgotten its transactions, as the current role
 * was told? 0: not known. */
extern uint64 coordinator_horizon(const char *node);

extern void participant_pre_commit(void);
extern void participant_pre_prepare(void);
extern void participant_xact_end(bool commit);

#endif							/* DTX_PARTICIPANT_H */
