/*
 * net_change.h
 *		What a branch did to one key, all in all.
 *
 * The undo log tells each change of a row, and not in which order they took
 * effect: a BEFORE trigger, a function in an expression or a part of WITH changes
 * rows while the statement around it is half done, and AFTER triggers write the log
 * when it is over. No order of statements or commands is the order of effects.
 *
 * None is needed. A key has one state at a time: a row, or none. Each change takes it
 * from one state to the next and begins where the one before has ended, so the
 * changes of a key are a walk from the state before the branch to the state after it.
 * On a walk each state is left as often as it is entered, but for the first, which is
 * left once more, and the last, which is entered once more. Strike out what is left
 * and entered alike, and these two remain; or nothing does: the walk ended where it
 * began.
 */
#ifndef DTX_AT_NET_CHANGE_H
#define DTX_AT_NET_CHANGE_H

#include "postgres.h"

#include "access/htup.h"
#include "at/image.h"
#include "at/key.h"
#include "utils/rel.h"

/* One change of one key, as an entry of the log tells it. */
typedef struct Step
{
	HeapTuple	before;			/* NULL: no row had the key */
	HeapTuple	after;			/* NULL: no row has it any more */
	HeapTuple	moved_from;		/* the row came from another key: what it was there */
	bool		moved_away;		/* the row went to another key */
	int32		shape;			/* of the images */
	int64		seq;
} Step;

/* What the images of an entry of kind op say. ERROR XX001 when it has not those of its kind. */
extern Step step_of(Relation rel, AttachedRelation *ar, char op, HeapTuple before, HeapTuple after);

/* An image that has the step's key. */
extern HeapTuple step_key(const Step *step);

/*
 * Sort steps: those of one key stand together, and there in the order of their shapes.
 * (A table's columns do not change while entries of a change are still to be written.)
 */
extern void steps_sort(Relation rel, AttachedRelation *ar, Step *steps, int n);

/* From which index on have the steps up to n, sorted, the key and the shape of the last? */
extern int	steps_last_run(Relation rel, AttachedRelation *ar, const Step *steps, int n);

/*
 * Add up the steps of one key and one shape, which map is of. False: nothing remains.
 * ERROR DX001, for that role to read, when they are no walk.
 */
extern bool steps_add_up(Relation rel, AttachedRelation *ar, const ShapeMap *map,
						 const Step *steps, int n, Step *net, Oid role);

#endif							/* DTX_AT_NET_CHANGE_H */
