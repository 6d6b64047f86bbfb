/*
 * undo_log.h
 *		dtx.undo_log: writing a branch's entries, and taking them away; and the
 *		filter that tells a writer that a row is certainly not locked.
 *
 * The entries are the row locks: a row (relation, key) is held as long as an
 * entry with its key's hash is visible. The filter in shared memory counts
 * entries by hash. A cell at zero means that there is none, without a look at
 * the table. It is counted up before an entry can be seen, and down after it
 * cannot be seen any more.
 */
#ifndef DTX_UNDO_LOG_H
#define DTX_UNDO_LOG_H

#include "postgres.h"

#include "access/xact.h"
#include "core/mode.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* what was done to the row */
#define UNDO_INSERT		'i'
#define UNDO_UPDATE		'u'
#define UNDO_DELETE		'd'
#define UNDO_KEY		'k'		/* nothing: it locks a key that an update left */

/*
 * Add an entry to the current branch. cid: the command that made the change.
 * It is written in bulk, at the latest by undo_flush.
 */
extern void undo_add(char op, CommandId cid, Oid relid, int32 shape, int64 key_hash,
					 bytea *before, bytea *after);

/* Write what is still in memory, and tell how many entries the branch has and
 * where they are. */
extern void undo_flush(PhaseOne *result);

/*
 * A scan of a branch's entries, in no order. They lay between two TIDs that the
 * branch's row names, which saves an index. That is a hint: VACUUM FULL, CLUSTER and
 * others may have rewritten the table since. What is found there is the branch's own
 * all the same, since each entry names its branch; whoever finds fewer than
 * the branch wrote, looks everywhere (whole).
 */
typedef struct UndoScan
{
	const JoinedBranch *branch;
	Relation	rel;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	struct TableScanDescData *scan; /* NULL: there is only one, at branch->first */
	bool		done;
} UndoScan;

extern void undo_scan_begin(UndoScan *scan, const JoinedBranch *branch, bool whole);
extern HeapTuple undo_scan_next(UndoScan *scan);
extern Datum undo_scan_column(UndoScan *scan, HeapTuple entry, int column);
extern void undo_scan_end(UndoScan *scan);

/* A copy of the table's row descriptor. */
extern TupleDesc undo_log_descriptor(void);

/* Delete a branch's entries. */
extern void undo_delete(const JoinedBranch *branch);

/* Make the filter know what is in the log, if it does not. In a transaction. */
extern void undo_filter_load(void);

/* May a row with this hash be locked? False is certain. */
extern bool undo_filter_may_hold(int64 key_hash);

/* Has the current branch an entry with this hash? Looks through all of them. */
extern bool undo_has_own(int64 key_hash);

/* Have two branches in doubt entries of the same row? True also for two rows with one hash. */
extern bool undo_overlaps(const JoinedBranch *a, const JoinedBranch *b);

/* Has any branch in doubt an entry of this relation? Scans the log. */
extern bool undo_relation_in_doubt(Oid relid);

extern void undo_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void undo_xact_end(bool commit);

#endif							/* DTX_UNDO_LOG_H */
