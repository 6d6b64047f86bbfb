/*
 * undo_read.h
 *		Reading a branch's undo log, row by row.
 */
#ifndef DTX_AT_UNDO_READ_H
#define DTX_AT_UNDO_READ_H

#include "postgres.h"

#include "access/htup.h"
#include "core/mode.h"

/* A row of dtx.undo_log. */
typedef struct UndoEntry
{
	Oid			relid;
	int64		hash;
	int64		seq;
	int32		shape;
	char		op;
	HeapTuple	before;			/* NULL: it has none */
	HeapTuple	after;
} UndoEntry;

/* Called in a memory context that is reset afterwards. */
typedef void (*UndoEntriesFunction) (void *arg, const UndoEntry *entries, int n);

/*
 * Hand each of a branch's entries to a function, together with all others that have the
 * same relation and hash, which are mostly those of one row. ERROR XX001 when
 * some are missing.
 */
extern void undo_read(const JoinedBranch *branch, UndoEntriesFunction function, void *arg);

#endif							/* DTX_AT_UNDO_READ_H */
