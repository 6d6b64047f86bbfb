/*
 * constraint.h
 *		Constraints that are checked once a whole branch is restored.
 */
#ifndef DTX_AT_CONSTRAINT_H
#define DTX_AT_CONSTRAINT_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef struct ConstraintQueue ConstraintQueue;

extern ConstraintQueue *constraint_queue_create(void);

/*
 * A row of rel was restored: old (NULL: it was inserted) became the row at
 * new_tid (NULL: it was deleted). indexes: OIDs of those of its unique indexes and
 * exclusion constraints that it may violate. The relation stays open until the check.
 */
extern void constraint_queue_add(ConstraintQueue *queue, Relation rel, HeapTuple old,
								 ItemPointer new_tid, const List *indexes);

/*
 * Check what is queued, as the tables' owners: foreign keys on either side, and the unique
 * indexes and exclusion constraints of each row. Never cascades: a row that others depend on, and that is gone,
 * is ERROR 23503.
 */
extern void constraint_queue_check(ConstraintQueue *queue);

#endif							/* DTX_AT_CONSTRAINT_H */
