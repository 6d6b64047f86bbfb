/*
 * mode.h
 *		What a mode (AT, and others) says about joining and settling.
 *
 * core runs the protocol and knows no mode; a mode is a room that fills in
 * this table and registers it at load time.
 */
#ifndef DTX_MODE_H
#define DTX_MODE_H

#include "postgres.h"

#include "access/xact.h"
#include "access/xlogdefs.h"
#include "core/gid.h"
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
	ItemPointerData tid;		/* of the row itself */
} JoinedBranch;

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

	/* Phase 1 is about to commit: write what phase 2 needs. May throw. */
	void		(*phase_one) (PhaseOne *result);

	/* Carry out a commit: forget how to undo. May throw. */
	void		(*settle_commit) (const JoinedBranch *branch);

	/* Carry out a rollback of branches of one global transaction, given in the
	 * order in which to undo them. May throw; the caller's subtransaction then
	 * undoes what was done. */
	void		(*settle_rollback) (List *branches);

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

/* Tell every mode. Never throws. */
extern void modes_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void modes_xact_end(bool commit);

#endif							/* DTX_MODE_H */
