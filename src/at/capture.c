/*
 * capture.c
 *		The trigger on attached tables: row lock for every writer, images inside
 *		a branch.
 *
 * It is an AFTER ROW trigger: what BEFORE triggers made of the row is in it,
 * generated columns are computed, and the row's heap lock is held.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "at/capture.h"
#include "at/image.h"
#include "at/key.h"
#include "at/row_lock.h"
#include "at/undo_log.h"
#include "commands/trigger.h"
#include "core/participant.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(dtx_capture);

/*
 * The command that made the change: AFTER triggers run when their statement
 * is over, so the order of the log's rows is not the order of the changes.
 */
static CommandId
command_of(HeapTuple old, HeapTuple new)
{
	return new != NULL ? HeapTupleHeaderGetCmin(new->t_data) :
		HeapTupleHeaderGetCmax(old->t_data);
}

static void
capture_change(Relation rel, AttachedRelation *ar, char op, HeapTuple old, HeapTuple new,
			   bool same_key, int64 old_hash, int64 new_hash)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bytea	   *before = old != NULL ? image_of(old, desc) : NULL;
	bytea	   *after = new != NULL ? image_of(new, desc) : NULL;
	CommandId	cid = command_of(old, new);

	shape_record(rel, ar);
	if (op == UNDO_UPDATE && !same_key)
		undo_add(UNDO_KEY, cid, ar->relid, ar->shape, old_hash, before, NULL);
	undo_add(op, cid, ar->relid, ar->shape, new != NULL ? new_hash : old_hash, before, after);
	stat_add(STAT_ROWS_CAPTURED, 1);
}

/*
 * Rows that tries of the current branch's own have changed, by their hashes. A
 * row that is undone by the cancel and by the undo log comes back wrong: which of
 * the two changes was first nobody would know.
 */
static int64 *by_try = NULL;		/* in TopTransactionContext */
static int	nby_try = 0;
static int	by_try_room = 0;

void
capture_xact_end(void)
{
	by_try = NULL;
	nby_try = by_try_room = 0;
}

static void
check_way_of_undoing(Relation rel, AttachedRelation *ar, HeapTuple row, int64 hash)
{
	bool		both = false;

	if (current_branch.capture_off)
	{
		both = undo_has_own(hash);
		if (nby_try == by_try_room)
		{
			by_try_room = Max(64, by_try_room * 2);
			by_try = by_try == NULL ?
				MemoryContextAlloc(TopTransactionContext, by_try_room * sizeof(int64)) :
				repalloc(by_try, by_try_room * sizeof(int64));
		}
		by_try[nby_try++] = hash;
	}
	else
		for (int i = 0; i < nby_try; i++)
			both |= by_try[i] == hash;
	if (both)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("row %s of \"%s\" is changed by a try and by AT in one branch",
						key_describe(ar, row, RelationGetDescr(rel), GetUserId()), RelationGetRelationName(rel)),
				 errdetail("The one is undone by its cancel, the other by the undo log; together they cannot be undone."),
				 errhint("Make it two branches.")));
}

/* dtx.capture(), a trigger function. */
Datum
dtx_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	AttachedRelation *ar;
	HeapTuple	old = NULL;
	HeapTuple	new = NULL;
	Relation	rel;
	TupleDesc	desc;
	int64		old_hash = 0;
	int64		new_hash = 0;
	bool		same_key;
	char		op;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"dtx.capture\" must be called as an AFTER ROW trigger"),
				 errhint("dtx_attach creates that trigger.")));
	shmem_require();
	rel = trigger->tg_relation;
	desc = RelationGetDescr(rel);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		op = UNDO_INSERT;
		new = trigger->tg_trigtuple;
	}
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		op = UNDO_UPDATE;
		old = trigger->tg_trigtuple;
		new = trigger->tg_newtuple;
	}
	else
	{
		op = UNDO_DELETE;
		old = trigger->tg_trigtuple;
	}

	ar = attached_relation(rel);
	if (!OidIsValid(ar->key_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has lost its key", RelationGetRelationName(rel)),
				 errhint("Give it a primary key or a replica identity index again, or call dtx_detach.")));
	same_key = op == UNDO_UPDATE && key_identical(ar, old, new, desc);
	if (new != NULL)
		new_hash = key_hash(ar, new, desc);
	if (old != NULL)
		old_hash = same_key ? new_hash : key_hash(ar, old, desc);

	if (new != NULL)
		row_lock_wait(rel, ar, new, new_hash);
	if (old != NULL && !same_key)
		row_lock_wait(rel, ar, old, old_hash);
	if (current_branch.active && (current_branch.capture_off || nby_try > 0))
	{
		if (new != NULL)
			check_way_of_undoing(rel, ar, new, new_hash);
		if (old != NULL && !same_key)
			check_way_of_undoing(rel, ar, old, old_hash);
	}
	if (participant_captures())
		capture_change(rel, ar, op, old, new, same_key, old_hash, new_hash);
	PG_RETURN_POINTER(NULL);
}
