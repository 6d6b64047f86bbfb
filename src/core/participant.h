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
#define JOIN_OWN_SESSION	4	/* dtx_join: the session is the user's own, not a coordinator's */
#define JOIN_OPENING		8	/* dtx_open: what it has written is the transaction that it joins */

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
	bool		capture_off;	/* what runs now has its own way to be undone */
	int64		token;			/* with which the coordinator proves to be that; 0: none */
	bool		controlled;		/* the coordinator's own statements run, not the user's */
	char		superior[DTX_NODE_SIZE];	/* the node that began it */
	uint64		superior_n;		/* and its local transaction */
	char	   *superiors;		/* array literal of the nodes above this one and itself */
	char	   *step;			/* of dtx_join, or NULL */
	SubTransactionId joined_in;	/* where it was joined */
	bool		taken_back;		/* that was rolled back, and dtx_join not said again */
} CurrentBranch;

/* The branch that the current transaction is; check .active first. */
extern CurrentBranch current_branch;

/* Is a stranger's statement running inside a branch? */
static inline bool
participant_user_statement(void)
{
	return current_branch.active && !current_branch.controlled &&
		!(current_branch.flags & JOIN_OWN_SESSION);
}

/* Are changes to be undone by log? */
static inline bool
participant_captures(void)
{
	return current_branch.active && current_branch.mode->captures && !current_branch.capture_off;
}

typedef struct JoinRequest
{
	const char *gid_text;
	const char *mode;
	int			flags;			/* JOIN_ */
	int			lock_timeout;	/* ms */
	uint32		timeline;		/* of the superior */
	int64		token;
	struct List *superiors;		/* char *: the nodes from the coordinator down to the
								 * one that calls; NIL: it is the coordinator */
	uint64		superior_n;		/* its local transaction; 0: the gid's N */
	const char *step;			/* NULL: none is named */
} JoinRequest;

/*
 * Make the current transaction that branch. Nothing may have been written in
 * it yet. Returns this node's id. ERROR DX003 when the branch cannot be joined.
 */
extern const char *participant_join(const JoinRequest *request);

/* ERROR DX003 unless the current transaction may become a branch. flags: JOIN_OWN_SESSION.
 * gid_text: NULL, of a global transaction that is yet to be opened. */
extern void participant_refuse_unless_joinable(const char *gid_text, int flags);

/* It has joined this very transaction, with this step, in a savepoint that was rolled back:
 * then it goes on as that branch. False: nothing of the kind. */
extern bool participant_take_up(const GlobalXid *xid, const char *step);

/* What the rest of the transaction needs that serves another node: values travel as text,
 * heap locks are waited for up to lock_timeout (ms; 0: as the session says). */
extern void participant_settings(int lock_timeout);

/* The coordinator's own statements come next: transaction control is allowed.
 * ERROR 42501 when the token is not that of the join. */
extern void participant_control(int64 token);

/* The user's statement comes next. flags: JOIN_NO_ROWS. */
extern void participant_enter(int flags);

/* Array literal of the nodes above a branch of this branch: for its join. */
extern const char *participant_superiors(void);

/* ERROR DX003 when this coordinator has spoken on a later timeline already: it
 * is what a failover has replaced. Otherwise remembers the timeline. */
extern void participant_check_timeline(const char *node, uint32 timeline);

/* Try to have the gid for this transaction alone; false when another has it. */
extern bool gid_try_lock(int64 key);

/* Give it back before the transaction ends, once for each time it was had. */
extern void gid_unlock(int64 key);

/* Is nobody working on it just now? Takes nothing. */
extern bool gid_is_free(int64 key);

/* A function that serves another node runs: its transaction cannot be prepared. */
extern void participant_serve(void);

/* What the current role was told by this coordinator: how far it has forgotten
 * its transactions (0: not known), and the last timeline on which it spoke. */
extern uint64 coordinator_horizon(const char *node, uint32 *timeline);

extern void participant_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void participant_pre_commit(void);
extern void participant_pre_prepare(void);
extern void participant_xact_end(bool commit);

#endif							/* DTX_PARTICIPANT_H */
