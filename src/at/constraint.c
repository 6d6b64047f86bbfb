/*
 * constraint.c
 *		Checking constraints after a compensation, without firing triggers.
 *
 * All is checked at the end, unique indexes and exclusion constraints too, deferrable
 * or not. The rows as they were before the branch satisfy each constraint together;
 * half of them, beside those that the branch left, need not: rows may have swapped a
 * unique value. With the checks at the end, the order of restoring does not matter.
 *
 * PostgreSQL's own constraint triggers do the checking. They are called by
 * hand, for the rows that were restored; in place of an action on the
 * referencing rows (cascade, set null, set default) stands always the one that
 * only looks (no action).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "at/constraint.h"
#include "core/restricted.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "utils/fmgroids.h"
#include "utils/reltrigger.h"
#include "utils/snapmgr.h"

typedef struct RestoredRow
{
	Relation	rel;
	HeapTuple	old;			/* NULL: inserted */
	bool		has_new;
	ItemPointerData new_tid;
	List	   *indexes;		/* OIDs */
} RestoredRow;

struct ConstraintQueue
{
	MemoryContext context;
	RestoredRow *rows;
	int			nrows;
	int			room;
};

ConstraintQueue *
constraint_queue_create(void)
{
	ConstraintQueue *queue = palloc0(sizeof(ConstraintQueue));

	queue->context = CurrentMemoryContext;
	return queue;
}

static bool
is_constraint_trigger(Trigger *trigger)
{
	return trigger->tgisinternal && trigger->tgenabled != TRIGGER_DISABLED &&
		RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE;
}

static bool
has_constraint_triggers(Relation rel)
{
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		if (is_constraint_trigger(&rel->trigdesc->triggers[i]))
			return true;
	return false;
}

void
constraint_queue_add(ConstraintQueue *queue, Relation rel, HeapTuple old, ItemPointer new_tid,
					 const List *indexes)
{
	RestoredRow *row;
	MemoryContext caller;

	if (indexes == NIL && !has_constraint_triggers(rel))
		return;
	caller = MemoryContextSwitchTo(queue->context);
	if (queue->nrows == queue->room)
	{
		queue->room = Max(64, queue->room * 2);
		queue->rows = queue->rows == NULL ?
			palloc(queue->room * sizeof(RestoredRow)) :
			repalloc_huge(queue->rows, queue->room * sizeof(RestoredRow));
	}
	row = &queue->rows[queue->nrows++];
	row->rel = rel;
	row->old = old != NULL ? heap_copytuple(old) : NULL;
	row->has_new = new_tid != NULL;
	if (new_tid != NULL)
		row->new_tid = *new_tid;
	row->indexes = list_copy(indexes);
	MemoryContextSwitchTo(caller);
}

static void
call_trigger(Oid function, TriggerData *data)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	finfo;

	fmgr_info(function, &finfo);
	InitFunctionCallInfoData(*fcinfo, &finfo, 0, InvalidOid, (Node *) data, NULL);
	(void) FunctionCallInvoke(fcinfo);
}

/* Which function checks for this trigger, given what happened? InvalidOid: none. */
static Oid
checking_function(Trigger *trigger, Relation rel, TriggerEvent event,
				  TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	int16		matches = TRIGGER_FIRED_BY_INSERT(event) ? TRIGGER_TYPE_INSERT :
		TRIGGER_FIRED_BY_UPDATE(event) ? TRIGGER_TYPE_UPDATE : TRIGGER_TYPE_DELETE;

	if (!(trigger->tgtype & matches))
		return InvalidOid;
	switch (RI_FKey_trigger_type(trigger->tgfoid))
	{
		case RI_TRIGGER_FK:
			/* the referencing side: does the referenced row exist? */
			if (TRIGGER_FIRED_BY_UPDATE(event) &&
				!RI_FKey_fk_upd_check_required(trigger, rel, oldslot, newslot))
				return InvalidOid;
			return trigger->tgfoid;
		case RI_TRIGGER_PK:
			/* the referenced side: does anybody still refer to what is gone? */
			if (TRIGGER_FIRED_BY_DELETE(event))
				return F_RI_FKEY_NOACTION_DEL;
			if (!RI_FKey_pk_upd_check_required(trigger, rel, oldslot, newslot))
				return InvalidOid;
			return F_RI_FKEY_NOACTION_UPD;
		default:
			return InvalidOid;
	}
}

/* The trigger of a deferrable constraint checks any index of the row, given its OID. */
static void
check_index(Oid index, const TriggerData *event)
{
	Trigger		trigger = {.tgfoid = F_UNIQUE_KEY_RECHECK, .tgconstrindid = index};
	TriggerData data = *event;

	data.tg_trigger = &trigger;
	call_trigger(trigger.tgfoid, &data);
}

static void
check_row(RestoredRow *row)
{
	Relation	rel = row->rel;
	TupleTableSlot *oldslot = NULL;
	TupleTableSlot *newslot = NULL;
	TriggerDesc *triggers;
	TriggerData data = {.type = T_TriggerData};
	ListCell   *cell;

	if (row->old != NULL)
	{
		oldslot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
		ExecStoreHeapTuple(row->old, oldslot, false);
	}
	if (row->has_new)
	{
		newslot = table_slot_create(rel, NULL);
		if (!table_tuple_fetch_row_version(rel, &row->new_tid, SnapshotAny, newslot))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a restored row of \"%s\" has gone", RelationGetRelationName(rel))));
	}
	data.tg_event = TRIGGER_EVENT_ROW |
		(oldslot == NULL ? TRIGGER_EVENT_INSERT :
		 newslot == NULL ? TRIGGER_EVENT_DELETE : TRIGGER_EVENT_UPDATE);
	data.tg_relation = rel;
	data.tg_trigslot = oldslot != NULL ? oldslot : newslot;
	data.tg_trigtuple = ExecFetchSlotHeapTuple(data.tg_trigslot, false, NULL);
	if (oldslot != NULL && newslot != NULL)
	{
		data.tg_newslot = newslot;
		data.tg_newtuple = ExecFetchSlotHeapTuple(newslot, false, NULL);
	}

	foreach(cell, row->indexes)
		check_index(lfirst_oid(cell), &data);
	/* a copy, as the executor's: the relation cache's own goes when an invalidation arrives */
	triggers = CopyTriggerDesc(rel->trigdesc);
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		Oid			function;

		if (!is_constraint_trigger(trigger))
			continue;
		function = checking_function(trigger, rel, data.tg_event, oldslot, newslot);
		if (!OidIsValid(function))
			continue;
		data.tg_trigger = trigger;
		call_trigger(function, &data);
	}
	if (newslot != NULL)
		ExecDropSingleTupleTableSlot(newslot);
	if (oldslot != NULL)
		ExecDropSingleTupleTableSlot(oldslot);
}

void
constraint_queue_check(ConstraintQueue *queue)
{
	for (int i = 0; i < queue->nrows; i++)
	{
		RestoredRow *row = &queue->rows[i];
		Restricted	as_owner;

		/* index expressions, and casts and comparisons of keys, are looked at before
		 * PostgreSQL's own checks become anybody */
		restricted_begin(&as_owner, row->rel->rd_rel->relowner);
		check_row(row);
		restricted_end(&as_owner);
	}
	queue->nrows = 0;
}
