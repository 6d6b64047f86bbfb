/*
 * history.h
 *		dtx.history: how branches and shared transactions of this node ended.
 */
#ifndef DTX_HISTORY_H
#define DTX_HISTORY_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * What became of one:
 *
 *	c	committed
 *	r	rolled back
 *	s	rolled back by a savepoint of a transaction that committed
 *	H	to be committed, and rolled back by an operator at the participant
 *	h	to be rolled back, and committed there
 */
typedef struct HistoryEntry
{
	uint64		n;				/* this node's transaction that began it */
	uint64		r;
	uint32		b;				/* 0: a shared transaction as a whole */
	Oid			server;
	Oid			role;
	char		mode;			/* letter; 's': a shared transaction */
	const char *parent;			/* the superior branch, or NULL */
} HistoryEntry;

/*
 * One row for entries that ended the same way under one id of this node, all of
 * them with a parent or none.
 */
extern void history_insert(const char *node, char decision, const HistoryEntry *entries,
						   int count);

/*
 * What became of branch b (0: of any) of the transaction (node, n, r) of this
 * node, node NULL: under whatever id; 0 when that is not, or no longer, known.
 */
extern char history_decision(const char *node, uint64 n, uint64 r, uint32 b);

/* The roles of what dtx.history has of it: a list of OIDs, NIL when that is nothing. */
extern List *history_roles(const char *node, uint64 n, uint64 r);

#endif							/* DTX_HISTORY_H */
