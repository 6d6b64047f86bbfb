/*
 * constraint.h
 *		Constraints that are checked once a whole branch is restored.
 */
#ifndef DTX_AT_CONSTRAINT_H
#define DTX_AT_CONSTRAINT_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/rel.h"

typedef struct ConstraintQueue ConstraintQueue;

extern ConstraintQueue *constraint_queue_create(void);

/*
 * A row of rel was restored: old (NULL: it was inserted) became the row at
 * new_tid (NULL: it was deleted). The relation stays open until the check.
 */
extern void constraint_queue_add(ConstraintQueue *queue, Relation rel, HeapTuple old,
								 ItemPointer new_tid);

/*
 * Check what is queued: foreign keys on either side, and deferrable unique and
 * exclusion constraints, as the tables' owners. Never cascades: a row that others depend on, and that is gone,
 * is ERROR 23503.
 */
extern void constraint_queue_check(ConstraintQueue *queue);

#endif							/* DTX_AT_CONSTRAINT_H */
