/*
 * branch_row.h
 *		Rows of dtx.branch: the branches that were begun here.
 */
#ifndef DTX_BRANCH_ROW_H
#define DTX_BRANCH_ROW_H

#include "core/gid.h"
#include "core/relations.h"

typedef struct BranchRow
{
	uint64		n;				/* the transaction that began it; a shared one's N */
	uint32		b;
	Oid			server;			/* InvalidOid: this very database */
	Oid			role;
	char		mode;			/* letter */
	char		state;			/* c, d or s: see the column's comment */
	const char *gid;
	const char *participant;	/* the node that holds it */
	const char *parent;			/* the superior branch, or NULL */
	int64		step;			/* what a step of a shared transaction is known by; 0: none */
} BranchRow;

extern void branch_row_insert(const BranchRow *row);

/* What a row says: 'c' commit, 'r' roll back, 'd' not decided yet. */
extern char branch_row_decision(OwnScan *scan, HeapTuple tuple);

/* The same for the branch with that gid of this node's transaction n; 0 when
 * there is no visible row. */
extern char branch_decision(const char *gid_text, uint64 n);

/* Is there a visible row of the global transaction? */
extern bool branch_row_exists(const GlobalXid *xid);

#endif							/* DTX_BRANCH_ROW_H */
