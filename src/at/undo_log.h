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
#include "utils/rel.h"

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

/* Write what is still in memory. Returns the number of entries of the branch. */
extern int64 undo_flush(void);

/* Delete a branch's entries. */
extern void undo_delete(int64 branch);

/* Make the filter know what is in the log, if it does not. In a transaction. */
extern void undo_filter_load(void);

/* May a row with this hash be locked? False is certain. */
extern bool undo_filter_may_hold(int64 key_hash);

/* Has any branch in doubt an entry of this relation? Scans the log. */
extern bool undo_relation_in_doubt(Oid relid);

extern void undo_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void undo_xact_end(bool commit);

#endif							/* DTX_UNDO_LOG_H */
