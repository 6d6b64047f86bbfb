/*
 * tell.c
 *		Outcomes that are handed over at commit.
 *
 * They only save time: what they tell stands in dtx's tables too, and is found
 * there when they are lost. So it does no harm that those of a subtransaction
 * that was rolled back are told.
 */
#include "postgres.h"

#include "core/fault.h"
#include "core/tell.h"
#include "utils/memutils.h"

static Outcome *told = NULL;	/* TopMemoryContext */
static int	ntold = 0;
static int	room = 0;

void
tell_worker_at_commit(const Outcome *outcome)
{
	if (ntold == room)
	{
		room = Max(16, room * 2);
		told = told == NULL ?
			MemoryContextAlloc(TopMemoryContext, room * sizeof(Outcome)) :
			repalloc(told, room * sizeof(Outcome));
	}
	told[ntold++] = *outcome;
}

void
tell_pre_prepare(void)
{
	if (ntold > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that has decided or settled branches")));
}

void
tell_xact_end(bool commit)
{
	bool		wake = false;

	/* a shared transaction is decided, or a branch that has branches is settled,
	 * and the worker does not know it yet: it finds the rows */
	if (commit && ntold > 0)
		DTX_FAULT_POINT_NOTHROW("shared-before-telling");
	for (int i = 0; i < ntold && commit; i++)
		wake |= outcome_push(&told[i]);
	ntold = 0;
	if (wake)
		worker_wake(my_database_slot());
}
