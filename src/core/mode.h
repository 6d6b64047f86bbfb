/*
 * mode.h
 *		What a mode (AT, XA, TCC) says about joining and settling.
 *
 * core runs the protocol and knows no mode; a mode is a room that fills in
 * this table and registers it at load time. A function may be NULL where the
 * mode has nothing to say.
 */
#ifndef DTX_MODE_H
#define DTX_MODE_H

#include "postgres.h"

#include "access/xact.h"
#include "access/xlogdefs.h"
#include "core/gid.h"
#include "datatype/timestamp.h"
#include "net/remote.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/* A row of dtx.joined_branch, as settling needs it. */
typedef struct JoinedBranch
{
	int64		key;			/* gid_branch_key of gid */
	char		gid_text[DTX_GID_SIZE];
	Gid			gid;
	Oid			role;
	char		mode;
	XLogRecPtr	lsn;			/* where phase 1 ended: the order of branches */
	int64		changes;
	ItemPointerData first;		/* where the mode's own rows of the branch lie: between */
	ItemPointerData last;		/* these; not valid when there are none */
	int			children;		/* branches of this branch: rows of dtx.branch */
	uint64		local_n;		/* under this xid8 of this server */
	ItemPointerData tid;		/* of the row itself */
} JoinedBranch;

/* A branch in doubt that has no visible row. */
typedef struct HeldBranch
{
	char		gid_text[DTX_GID_SIZE];
	Oid			role;
	char		superior[DTX_NODE_SIZE];
	uint64		superior_n;
	TimestampTz held_since;
} HeldBranch;

/* What phase 1 wrote, to be kept in the row. */
typedef struct PhaseOne
{
	int64		changes;
	ItemPointerData first;
	ItemPointerData last;
} PhaseOne;

typedef struct BranchMode
{
	char		letter;			/* in dtx.branch and dtx.joined_branch */
	const char *name;			/* 'at' */
	bool		runs_user_code; /* settling calls functions of the branch's role */
	bool		captures;		/* changes are undone by log: what cannot be logged is refused */

	/* --- the coordinator --- */

	/* Run a user's statement at a server as a branch, or as a part of one. The
	 * caller owns the result. flags: JOIN_NO_ROWS. May throw. */
	PGresult   *(*run) (Oid server, Oid role, const RemoteStatement *statement, int flags);

	/* The transaction is about to commit: end phase 1 of what is still open,
	 * and record the branches. May throw. */
	void		(*end_phase_one) (void);

	/* --- the participant --- */

	/* Phase 1 is about to commit: write what phase 2 needs. May throw. */
	void		(*phase_one) (PhaseOne *result);

	/* Somebody holds the branch, maybe a prepared transaction: carry the
	 * decision out on that. False when there is none. May throw. */
	bool		(*settle_held) (const JoinedBranch *branch, bool commit);

	/* Carry out a commit: forget how to undo. May throw. */
	void		(*settle_commit) (const JoinedBranch *branch);

	/* Carry out a rollback of branches of one global transaction, given in the
	 * order in which to undo them. May throw; the caller's subtransaction then
	 * undoes what was done. */
	void		(*settle_rollback) (List *branches);

	/* Have two branches in doubt changed the same row? NULL: that cannot be told, and
	 * does not matter. May throw. */
	bool		(*overlaps) (const JoinedBranch *a, const JoinedBranch *b);

	/* A rollback came for a branch that is not here, and shall never be. */
	void		(*settle_absent) (const JoinedBranch *branch);

	/* Nobody will ask again about these branches, Datums of their keys. */
	void		(*forget) (Datum *keys, int count);

	/* Add branches that are in doubt, but have no visible row, to a List of
	 * HeldBranch. */
	List	   *(*list_held) (List *held);

	/* --- both --- */

	/* The worker has started: fill what shared memory holds, in a transaction. */
	void		(*worker_start) (void);

	/* A subtransaction, or the transaction, ended. Never throw. */
	void		(*subxact_end) (bool commit, SubTransactionId id, SubTransactionId parent);
	void		(*xact_end) (bool commit);
} BranchMode;

extern void mode_register(const BranchMode *mode);

/* By letter; ERROR when this version has no such mode. */
extern const BranchMode *mode_by_letter(char letter);
extern const BranchMode *mode_by_name(const char *name);

/* Tell every mode; in a transaction. */
extern void modes_worker_start(void);
extern void modes_end_phase_one(void);
extern void modes_forget(Datum *keys, int count);
extern bool modes_settle_held(const JoinedBranch *branch, bool commit);
extern List *modes_list_held(void);

/* Tell every mode. Never throws. */
extern void modes_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void modes_xact_end(bool commit);

#endif							/* DTX_MODE_H */
