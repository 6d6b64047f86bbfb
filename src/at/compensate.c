/*
 * compensate.c
 *		Undoing a branch, row by row.
 *
 * Of each row that a branch has changed the log tells what it was before the
 * branch and what the branch left (net_change.h says how). The current row is
 * compared with the two: equal to what the branch left, what was before is
 * restored; equal to that already, there is nothing to do; anything else is a
 * conflict, and nothing is changed.
 *
 * The rows come in no order that matters. Each key is restored once, from what
 * it is now to what it was, and whatever concerns more than one row, unique
 * indexes, exclusion constraints and foreign keys, is checked when all of them are
 * as they were, which is a state that satisfied it (constraint.c).
 *
 * Rows are restored as logical replication applies them: found by key through
 * the key's index, written with their index entries and checked, without
 * firing triggers. What triggers did to attached tables inside the branch has
 * its own entries in the log.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/genam.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "at/compensate.h"
#include "at/constraint.h"
#include "at/image.h"
#include "at/net_change.h"
#include "at/undo_log.h"
#include "at/undo_read.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/mode.h"
#include "core/relations.h"
#include "core/restricted.h"
#include "core/shmem.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* So many moves of rows from key to key are kept, to be undone as such. */
#define MAX_MOVES		100000

/* A relation whose rows are being restored. */
typedef struct RestoreTarget
{
	Relation	rel;
	AttachedRelation *ar;
	EState	   *estate;
	ResultRelInfo *rri;
	TupleTableSlot *current;	/* the row found */
	TupleTableSlot *restored;	/* the row to write */
	ShapeMap   *map;			/* of the last entry's shape */
	Oid			role;			/* for whom errors are that speak of its rows */
	/* rows that left their keys, and rows that came to keys where there were none: Steps */
	List	   *left;
	List	   *came;
} RestoreTarget;

typedef struct Compensation
{
	List	   *targets;		/* RestoreTarget */
	ConstraintQueue *queue;
	const char *gid_text;		/* of the branch at hand, for messages */
	Oid			role;			/* who made it, and reads them */
	Oid			owner;			/* as whom code of tables runs now; InvalidOid: nobody */
	Restricted	as_owner;
	MemoryContext context;		/* of the compensation */
	MemoryContext moves;		/* of what is in the lists left and came */
	int			nmoves;
	uint64		rows;			/* restored */
} Compensation;

/*
 * From here on things run as the owner of the table. Opening its indexes does so
 * already: their expressions are folded, which calls functions. One owner's code
 * after the other's finds nothing that that has set.
 */
static void
become(Compensation *c, Oid owner)
{
	if (c->owner == owner)
		return;
	if (OidIsValid(c->owner))
		restricted_end(&c->as_owner);
	c->owner = owner;
	if (OidIsValid(owner))
		restricted_begin(&c->as_owner, owner);
}

/* The table of an entry; the caller is its owner then. */
static RestoreTarget *
open_target(Compensation *c, Oid relid)
{
	RestoreTarget *target;
	RangeTblEntry *rte;
	ListCell   *cell;

	foreach(cell, c->targets)
	{
		target = lfirst(cell);
		if (RelationGetRelid(target->rel) != relid)
			continue;
		target->role = c->role;
		become(c, target->rel->rd_rel->relowner);
		return target;
	}

	target = palloc0(sizeof(RestoreTarget));
	target->role = c->role;
	target->rel = try_relation_open(relid, RowExclusiveLock);
	if (target->rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_CONFLICT),
				 errmsg("table with OID %u, which branch \"%s\" has changed, does not exist any more",
						relid, c->gid_text)));
	become(c, target->rel->rd_rel->relowner);
	target->ar = attached_relation(target->rel);
	if (!OidIsValid(target->ar->key_index))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_CONFLICT),
				 errmsg("table \"%s\", which branch \"%s\" has changed, has no key any more",
						RelationGetRelationName(target->rel), c->gid_text)));

	target->estate = CreateExecutorState();
	rte = makeNode(RangeTblEntry);
	rte->rtekind = RTE_RELATION;
	rte->relid = relid;
	rte->relkind = target->rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	dtx_init_range_table(target->estate, rte);
	target->rri = dtx_make_result_rel_info();
	InitResultRelInfo(target->rri, target->rel, 1, NULL, 0);
	ExecOpenIndices(target->rri, false);
	target->current = table_slot_create(target->rel, NULL);
	target->restored = MakeSingleTupleTableSlot(RelationGetDescr(target->rel), &TTSOpsVirtual);
	c->targets = lappend(c->targets, target);
	return target;
}

static void
close_targets(Compensation *c)
{
	ListCell   *cell;

	foreach(cell, c->targets)
	{
		RestoreTarget *target = lfirst(cell);

		ExecCloseIndices(target->rri);
		ExecDropSingleTupleTableSlot(target->current);
		ExecDropSingleTupleTableSlot(target->restored);
		FreeExecutorState(target->estate);
		table_close(target->rel, NoLock);
	}
}

static void
throw_conflict(Compensation *c, RestoreTarget *target, HeapTuple row, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_CONFLICT),
			 errmsg("row %s of \"%s\" %s",
					key_describe(target->ar, row, RelationGetDescr(target->rel), target->role),
					RelationGetRelationName(target->rel), what),
			 errdetail("Branch \"%s\" cannot be rolled back without overwriting it.", c->gid_text)));
}

/*
 * Another transaction has the row. Waiting for it here, with locks on the rows
 * restored so far, could end in a deadlock: it may be about to wait for one of
 * those. The subtransaction lets all of them go, and the branch is tried again.
 */
static void
throw_busy(RestoreTarget *target, HeapTuple image)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("row %s of \"%s\" is locked by another transaction",
					key_describe(target->ar, image, RelationGetDescr(target->rel), target->role),
					RelationGetRelationName(target->rel))));
}

/* Put the row with that key that a snapshot sees into target->current. */
static bool
look_up(RestoreTarget *target, Relation index, ScanKey keys, Snapshot snapshot)
{
	IndexScanDesc scan = dtx_index_beginscan(target->rel, index, snapshot, target->ar->nkeys);
	bool		found;

	index_rescan(scan, keys, target->ar->nkeys, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, target->current);
	if (found)
		ExecMaterializeSlot(target->current);
	index_endscan(scan);
	return found;
}

static bool
look_up_committed(RestoreTarget *target, Relation index, ScanKey keys)
{
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	bool		found = look_up(target, index, keys, latest);

	UnregisterSnapshot(latest);
	return found;
}

/* Lock the row in target->current. False: it was changed meanwhile. */
static bool
lock_current(RestoreTarget *target, HeapTuple image)
{
	TM_FailureData failure;
	TM_Result	result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = table_tuple_lock(target->rel, &target->current->tts_tid, GetActiveSnapshot(),
							  target->current, GetCurrentCommandId(false),
							  LockTupleExclusive, LockWaitSkip, 0, &failure);
	PopActiveSnapshot();
	if (result == TM_WouldBlock)
		throw_busy(target, image);
	if (result != TM_Ok && result != TM_Updated && result != TM_Deleted)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not lock a row of \"%s\": status %d",
						RelationGetRelationName(target->rel), (int) result)));
	return result == TM_Ok;
}

/*
 * Find and lock the current row with the key of an image, without waiting: one
 * that somebody else is inserting or changing is busy.
 *
 * A snapshot finds the one version of a row that is committed now, whatever happens
 * during the scan. A dirty scan alone would not: of a row that moves to another page
 * meanwhile it can meet the old version when that is gone already, and the index
 * before the new one is in it, and see neither. So it only tells of rows that are
 * coming; and what came, and moved, while it looked, the next snapshot sees.
 */
static bool
find_current(RestoreTarget *target, HeapTuple image)
{
	TupleDesc	desc = RelationGetDescr(target->rel);
	AttachedRelation *ar = target->ar;
	Relation	index = index_open(ar->key_index, RowExclusiveLock);
	ScanKeyData keys[INDEX_MAX_KEYS];
	bool		found = false;

	for (int i = 0; i < ar->nkeys; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(image, ar->keys[i].attnum, desc, &isnull);

		ScanKeyEntryInitialize(&keys[i], isnull ? SK_ISNULL : 0, i + 1, BTEqualStrategyNumber,
							   index->rd_opcintype[i], ar->keys[i].collation,
							   ar->keys[i].equal.fn_oid, value);
	}
	while (!found)
	{
		SnapshotData dirty;

		CHECK_FOR_INTERRUPTS();
		if (look_up_committed(target, index, keys))
		{
			found = lock_current(target, image);
			continue;
		}
		InitDirtySnapshot(dirty);
		if (look_up(target, index, keys, &dirty))
		{
			if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
				throw_busy(target, image);
		}
		else if (!look_up_committed(target, index, keys))
			break;
	}
	index_close(index, NoLock);
	return found;
}

/* A column that the image does not have, in a row that is inserted again. */
static Datum
default_value(RestoreTarget *target, int column, bool *isnull)
{
	Node	   *expr = build_column_default(target->rel, column + 1);
	ExprState  *state;
	ExprContext *context = GetPerTupleExprContext(target->estate);

	if (expr == NULL)
	{
		*isnull = true;
		return (Datum) 0;
	}
	state = ExecPrepareExpr((Expr *) expr, target->estate);
	return ExecEvalExpr(state, context, isnull);
}

/*
 * Put the row to write into target->restored: the image's columns, and for
 * those added since their current value (base) or, without one, their default.
 */
static void
form_restored(RestoreTarget *target, HeapTuple before, TupleTableSlot *base, CmdType command)
{
	TupleTableSlot *slot = target->restored;
	TupleDesc	desc = RelationGetDescr(target->rel);
	bool		computes = false;

	ExecClearTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		slot->tts_isnull[i] = true;
		slot->tts_values[i] = (Datum) 0;
		if (att->attisdropped)
			continue;
		if (target->map->present[i])
			slot->tts_values[i] = heap_getattr(before, i + 1, desc, &slot->tts_isnull[i]);
		else if (att->attgenerated)
			/* a virtual column is not in the row: it stays null there */
			computes |= att->attgenerated == ATTRIBUTE_GENERATED_STORED;
		else if (base != NULL)
		{
			slot->tts_values[i] = base->tts_values[i];
			slot->tts_isnull[i] = base->tts_isnull[i];
		}
		else
			slot->tts_values[i] = default_value(target, i, &slot->tts_isnull[i]);
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(target->rel);
	if (computes)
		ExecComputeStoredGenerated(target->rri, target->estate, slot, command);
}

static void
check_row_constraints(RestoreTarget *target)
{
	if (target->rel->rd_att->constr != NULL)
		ExecConstraints(target->rri, target->restored, target->estate);
	if (target->rel->rd_rel->relispartition)
		ExecPartitionCheck(target->rri, target->restored, target->estate, true);
}

static void
restore_by_update(Compensation *c, RestoreTarget *target, HeapTuple before)
{
	HeapTuple	old = ExecCopySlotHeapTuple(target->current);
	List	   *indexes;

	slot_getallattrs(target->current);
	form_restored(target, before, target->current, CMD_UPDATE);
	check_row_constraints(target);
	indexes = dtx_table_tuple_update(target->rri, target->estate, target->rel,
									 &target->current->tts_tid, target->restored);
	constraint_queue_add(c->queue, target->rel, old, &target->restored->tts_tid, indexes);
}

static void
restore_by_insert(Compensation *c, RestoreTarget *target, HeapTuple before)
{
	List	   *indexes;

	form_restored(target, before, NULL, CMD_INSERT);
	check_row_constraints(target);
	indexes = dtx_table_tuple_insert(target->rri, target->estate, target->rel, target->restored);
	constraint_queue_add(c->queue, target->rel, NULL, &target->restored->tts_tid, indexes);
}

static void
restore_by_delete(Compensation *c, RestoreTarget *target)
{
	HeapTuple	old = ExecCopySlotHeapTuple(target->current);

	simple_table_tuple_delete(target->rel, &target->current->tts_tid, InvalidSnapshot);
	constraint_queue_add(c->queue, target->rel, old, NULL, NIL);
}

/* The row that the branch inserted goes. */
static void
undo_insert(Compensation *c, RestoreTarget *target, HeapTuple after)
{
	if (!find_current(target, after))
		return;
	if (!image_equals_slot(after, target->current, target->map))
		throw_conflict(c, target, after, "was changed after the branch inserted it");
	restore_by_delete(c, target);
}

/* The row that the branch deleted comes back. */
static void
undo_delete_entry(Compensation *c, RestoreTarget *target, HeapTuple before)
{
	if (!find_current(target, before))
		restore_by_insert(c, target, before);
	else if (!image_equals_slot(before, target->current, target->map))
		throw_conflict(c, target, before, "was inserted again after the branch deleted it");
}

/* The row that the branch updated gets its old values. */
static void
undo_update(Compensation *c, RestoreTarget *target, HeapTuple before, HeapTuple after)
{
	if (find_current(target, after) &&
		image_equals_slot(after, target->current, target->map))
		restore_by_update(c, target, before);
	else if (!(find_current(target, before) &&
			   image_equals_slot(before, target->current, target->map)))
		throw_conflict(c, target, after, "was changed after the branch updated it");
}

/* The row that the branch gave another key gets its old key and values. */
static void
undo_move(Compensation *c, RestoreTarget *target, HeapTuple before, HeapTuple after)
{
	if (!find_current(target, before) && find_current(target, after) &&
		image_equals_slot(after, target->current, target->map))
	{
		restore_by_update(c, target, before);
		CommandCounterIncrement();
		return;
	}
	undo_insert(c, target, after);
	CommandCounterIncrement();
	undo_delete_entry(c, target, before);
	CommandCounterIncrement();
}

static void
use_shape(Compensation *c, RestoreTarget *target, int32 shape)
{
	MemoryContext caller = MemoryContextSwitchTo(c->context);

	if (target->map == NULL || target->map->shape != shape)
		target->map = shape_map(target->rel, target->ar, shape);
	MemoryContextSwitchTo(caller);
	if (target->map->conflict != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_CONFLICT),
				 errmsg("images of rows of \"%s\" do not fit the table any more: %s",
						RelationGetRelationName(target->rel), target->map->conflict),
				 errdetail("Branch \"%s\" cannot be rolled back.", c->gid_text)));
}

static void
undo_net_change(Compensation *c, RestoreTarget *target, const Step *net)
{
	use_shape(c, target, net->shape);
	if (net->before == NULL)
		undo_insert(c, target, net->after);
	else if (net->after == NULL)
		undo_delete_entry(c, target, net->before);
	else
		undo_update(c, target, net->before, net->after);
	ResetPerTupleExprContext(target->estate);
	CommandCounterIncrement();
	if (c->rows++ == 0)
		DTX_FAULT_POINT("participant-during-compensation");
}

/*
 * A row that went from one key to another appears as two changes: none has the old
 * key any more, and one has come to the new key. To undo both as one update keeps the
 * row one for those who wait for it: they would take a deleted one for gone.
 */
static void
keep_move(Compensation *c, RestoreTarget *target, const Step *net)
{
	MemoryContext caller = MemoryContextSwitchTo(c->moves);
	Step	   *kept = palloc(sizeof(Step));

	*kept = *net;
	kept->before = net->before != NULL ? heap_copytuple(net->before) : NULL;
	kept->after = net->after != NULL ? heap_copytuple(net->after) : NULL;
	kept->moved_from = net->moved_from != NULL ? heap_copytuple(net->moved_from) : NULL;
	if (net->after == NULL)
		target->left = lappend(target->left, kept);
	else
		target->came = lappend(target->came, kept);
	MemoryContextSwitchTo(caller);
	c->nmoves++;
}

static Step *
steps_of_list(List *list)
{
	Step	   *steps = palloc(Max(list_length(list), 1) * sizeof(Step));

	for (int i = 0; i < list_length(list); i++)
		steps[i] = *(Step *) list_nth(list, i);
	return steps;
}

/* The step in left, sorted, whose row went where came has come from; NULL: none. */
static Step *
find_left(RestoreTarget *target, Step *left, int n, const Step *came)
{
	TupleDesc	desc = RelationGetDescr(target->rel);
	int			low = 0;

	while (low < n)
	{
		int			middle = low + (n - low) / 2;
		int			order = key_compare(target->ar, left[middle].before, came->moved_from, desc);

		if (order == 0)
			return left[middle].moved_away && left[middle].shape == came->shape ?
				&left[middle] : NULL;
		if (order < 0)
			low = middle + 1;
		else
			n = middle;
	}
	return NULL;
}

static void
undo_moves_of(Compensation *c, RestoreTarget *target)
{
	int			nleft = list_length(target->left);
	int			ncame = list_length(target->came);
	Step	   *left = steps_of_list(target->left);
	Step	   *came = steps_of_list(target->came);

	steps_sort(target->rel, target->ar, left, nleft);
	for (int i = 0; i < ncame; i++)
	{
		Step	   *from = find_left(target, left, nleft, &came[i]);

		CHECK_FOR_INTERRUPTS();
		if (from == NULL)
		{
			undo_net_change(c, target, &came[i]);
			continue;
		}
		use_shape(c, target, from->shape);
		undo_move(c, target, from->before, came[i].after);
		ResetPerTupleExprContext(target->estate);
		from->moved_away = false;
		c->rows++;
	}
	for (int i = 0; i < nleft; i++)
		if (left[i].moved_away)
			undo_net_change(c, target, &left[i]);
	target->left = target->came = NIL;
}

static void
undo_moves(Compensation *c)
{
	MemoryContext caller = MemoryContextSwitchTo(c->moves);
	ListCell   *cell;

	if (c->nmoves > 0)
	{
		foreach(cell, c->targets)
		{
			RestoreTarget *target = lfirst(cell);

			if (target->left != NIL || target->came != NIL)
				undo_moves_of(c, open_target(c, RelationGetRelid(target->rel)));
		}
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(c->moves);
	c->nmoves = 0;
}

static void
undo_entries(void *arg, const UndoEntry *entries, int n)
{
	Compensation *c = arg;
	MemoryContext caller = MemoryContextSwitchTo(c->context);
	RestoreTarget *target = open_target(c, entries[0].relid);
	Step	   *steps;

	MemoryContextSwitchTo(caller);
	steps = palloc(n * sizeof(Step));
	for (int i = 0; i < n; i++)
	{
		steps[i] = step_of(target->rel, target->ar, entries[i].op, entries[i].before, entries[i].after);
		steps[i].shape = entries[i].shape;
		steps[i].seq = entries[i].seq;
	}
	steps_sort(target->rel, target->ar, steps, n);
	while (n > 0)
	{
		int			first = steps_last_run(target->rel, target->ar, steps, n);
		Step		net;

		CHECK_FOR_INTERRUPTS();
		use_shape(c, target, steps[first].shape);
		if (steps_add_up(target->rel, target->ar, target->map, &steps[first], n - first, &net, target->role))
		{
			if ((net.before == NULL && net.moved_from != NULL) ||
				(net.after == NULL && net.moved_away))
				keep_move(c, target, &net);
			else
				undo_net_change(c, target, &net);
		}
		n = first;
	}
	if (c->nmoves >= MAX_MOVES)
		undo_moves(c);
}

static void
compensate_branch(Compensation *c, const JoinedBranch *branch)
{
	c->gid_text = branch->gid_text;
	c->role = branch->role;
	c->rows = 0;
	undo_read(branch, undo_entries, c);
	undo_moves(c);
	become(c, InvalidOid);
	undo_delete(branch);
	stat_add(STAT_ROWS_COMPENSATED, c->rows);
}

void
compensate(List *branches)
{
	Compensation c = {.queue = constraint_queue_create(), .context = CurrentMemoryContext};
	ListCell   *cell;

	c.moves = AllocSetContextCreate(c.context, "dtx rows that changed their keys",
									ALLOCSET_DEFAULT_SIZES);
	foreach(cell, branches)
		compensate_branch(&c, lfirst(cell));
	constraint_queue_check(c.queue);
	close_targets(&c);
}
