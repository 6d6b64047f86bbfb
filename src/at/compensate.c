/*
 * compensate.c
 *		Undoing a branch, row by row, backwards.
 *
 * Rows are restored as logical replication applies them: found by key through
 * the key's index, written with their index entries and checked, without
 * firing triggers. What triggers did to attached tables inside the branch has
 * its own entries in the log. Foreign keys are checked at the end.
 *
 * The current row is compared with the entry's images: equal to after means it
 * is as the branch left it, and before is restored; equal to before means
 * there is nothing to do; anything else is a conflict, and nothing is changed.
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
#include "at/undo_log.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/mode.h"
#include "core/relations.h"
#include "core/restricted.h"
#include "core/shmem.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

/* the operator > of int8, which has no symbol */
#define INT8_GREATER	413

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
} RestoreTarget;

typedef struct Compensation
{
	List	   *targets;		/* RestoreTarget */
	ConstraintQueue *queue;
	const char *gid_text;		/* of the branch at hand, for messages */
	Oid			owner;			/* as whom code of tables runs now; InvalidOid: nobody */
	Restricted	as_owner;
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
		become(c, target->rel->rd_rel->relowner);
		return target;
	}

	target = palloc0(sizeof(RestoreTarget));
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
					key_describe(target->ar, row, RelationGetDescr(target->rel)),
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
					key_describe(target->ar, image, RelationGetDescr(target->rel)),
					RelationGetRelationName(target->rel))));
}

/*
 * Find and lock the current row with the key of an image, without waiting. As
 * in applying logical replication a dirty snapshot finds it, so that a row that
 * somebody is inserting or deleting is noticed.
 */
static bool
find_current(RestoreTarget *target, HeapTuple image)
{
	TupleDesc	desc = RelationGetDescr(target->rel);
	AttachedRelation *ar = target->ar;
	Relation	index = index_open(ar->key_index, RowExclusiveLock);
	ScanKeyData keys[INDEX_MAX_KEYS];
	SnapshotData dirty;
	IndexScanDesc scan;
	TM_Result	result = TM_Updated;
	bool		found = true;

	for (int i = 0; i < ar->nkeys; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(image, ar->keys[i].attnum, desc, &isnull);

		ScanKeyEntryInitialize(&keys[i], isnull ? SK_ISNULL : 0, i + 1, BTEqualStrategyNumber,
							   index->rd_opcintype[i], ar->keys[i].collation,
							   ar->keys[i].equal.fn_oid, value);
	}
	InitDirtySnapshot(dirty);
	scan = dtx_index_beginscan(target->rel, index, &dirty, ar->nkeys);
	while (found && (result == TM_Updated || result == TM_Deleted))
	{
		TM_FailureData failure;

		index_rescan(scan, keys, ar->nkeys, NULL, 0);
		found = index_getnext_slot(scan, ForwardScanDirection, target->current);
		if (!found)
			break;
		ExecMaterializeSlot(target->current);
		if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
			throw_busy(target, image);
		PushActiveSnapshot(GetLatestSnapshot());
		result = table_tuple_lock(target->rel, &target->current->tts_tid, GetActiveSnapshot(),
								  target->current, GetCurrentCommandId(false),
								  LockTupleExclusive, LockWaitSkip, 0, &failure);
		PopActiveSnapshot();
		if (result == TM_WouldBlock)
			throw_busy(target, image);
	}
	index_endscan(scan);
	index_close(index, NoLock);
	if (found && result != TM_Ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not lock a row of \"%s\": status %d",
						RelationGetRelationName(target->rel), (int) result)));
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

	slot_getallattrs(target->current);
	form_restored(target, before, target->current, CMD_UPDATE);
	check_row_constraints(target);
	dtx_table_tuple_update(target->rri, target->estate, target->rel,
						   &target->current->tts_tid, target->restored);
	constraint_queue_add(c->queue, target->rel, old, &target->restored->tts_tid);
}

static void
restore_by_insert(Compensation *c, RestoreTarget *target, HeapTuple before)
{
	form_restored(target, before, NULL, CMD_INSERT);
	check_row_constraints(target);
	dtx_table_tuple_insert(target->rri, target->estate, target->rel, target->restored);
	constraint_queue_add(c->queue, target->rel, NULL, &target->restored->tts_tid);
}

static void
restore_by_delete(Compensation *c, RestoreTarget *target)
{
	HeapTuple	old = ExecCopySlotHeapTuple(target->current);

	simple_table_tuple_delete(target->rel, &target->current->tts_tid, InvalidSnapshot);
	constraint_queue_add(c->queue, target->rel, old, NULL);
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

static HeapTuple
entry_image(TupleTableSlot *entry, int column)
{
	bool		isnull;
	Datum		image = slot_getattr(entry, column, &isnull);

	return isnull ? NULL : image_tuple(DatumGetByteaPP(image));
}

static void
undo_entry(Compensation *c, TupleTableSlot *entry, MemoryContext long_lived)
{
	bool		isnull;
	char		op = DatumGetChar(slot_getattr(entry, Anum_undo_log_op, &isnull));
	Oid			relid = DatumGetObjectId(slot_getattr(entry, Anum_undo_log_relation, &isnull));
	int32		shape = DatumGetInt32(slot_getattr(entry, Anum_undo_log_shape, &isnull));
	HeapTuple	before = entry_image(entry, Anum_undo_log_before);
	HeapTuple	after = entry_image(entry, Anum_undo_log_after);
	MemoryContext old = MemoryContextSwitchTo(long_lived);
	RestoreTarget *target = open_target(c, relid);

	if (target->map == NULL || target->map->shape != shape)
		target->map = shape_map(target->rel, target->ar, shape);
	MemoryContextSwitchTo(old);
	if (target->map->conflict != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_CONFLICT),
				 errmsg("images of rows of \"%s\" do not fit the table any more: %s",
						RelationGetRelationName(target->rel), target->map->conflict),
				 errdetail("Branch \"%s\" cannot be rolled back.", c->gid_text)));

	switch (op)
	{
		case UNDO_INSERT:
			undo_insert(c, target, after);
			break;
		case UNDO_UPDATE:
			undo_update(c, target, before, after);
			break;
		case UNDO_DELETE:
			undo_delete_entry(c, target, before);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("entry of dtx.undo_log has unknown kind \"%c\"", op)));
	}
	ResetPerTupleExprContext(target->estate);
	CommandCounterIncrement();
}

/* Put a branch's entries into a sort. Returns how many there are, those that
 * only lock included. */
static int64
collect_entries(const JoinedBranch *branch, Tuplesortstate *sort, TupleDesc desc, bool whole)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	int64		found = 0;
	UndoScan	scan;
	HeapTuple	entry;

	undo_scan_begin(&scan, branch, whole);
	while (HeapTupleIsValid(entry = undo_scan_next(&scan)))
	{
		found++;
		if (DatumGetChar(undo_scan_column(&scan, entry, Anum_undo_log_op)) == UNDO_KEY)
			continue;
		ExecStoreHeapTuple(entry, slot, false);
		tuplesort_puttupleslot(sort, slot);
		ExecClearTuple(slot);
	}
	undo_scan_end(&scan);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* A branch's entries, sorted by command, then sequence, last first. */
static Tuplesortstate *
sorted_entries(const JoinedBranch *branch, TupleDesc desc)
{
	AttrNumber	columns[2] = {Anum_undo_log_cid, Anum_undo_log_seq};
	Oid			operators[2] = {INT8_GREATER, INT8_GREATER};
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};
	int64		found = 0;

	for (int whole = 0; whole < 2; whole++)
	{
		Tuplesortstate *sort = tuplesort_begin_heap(desc, 2, columns, operators, collations,
													nulls_first, work_mem, NULL, TUPLESORT_NONE);

		found = collect_entries(branch, sort, desc, whole);
		if (found == branch->changes)
		{
			tuplesort_performsort(sort);
			return sort;
		}
		tuplesort_end(sort);
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the undo log of branch \"%s\" is not whole", branch->gid_text),
			 errdetail("It has %lld entries, and the branch wrote %lld.",
					   (long long) found, (long long) branch->changes)));
}

static void
compensate_branch(Compensation *c, const JoinedBranch *branch)
{
	MemoryContext long_lived = CurrentMemoryContext;
	MemoryContext per_entry = AllocSetContextCreate(long_lived, "dtx compensation",
													ALLOCSET_DEFAULT_SIZES);
	TupleDesc	desc = undo_log_descriptor();
	Tuplesortstate *sort = sorted_entries(branch, desc);
	TupleTableSlot *entry = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	uint64		rows = 0;

	c->gid_text = branch->gid_text;
	while (tuplesort_gettupleslot(sort, true, true, entry, NULL))
	{
		MemoryContext old = MemoryContextSwitchTo(per_entry);

		CHECK_FOR_INTERRUPTS();
		undo_entry(c, entry, long_lived);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_entry);
		if (rows++ == 0)
			DTX_FAULT_POINT("participant-during-compensation");
	}
	tuplesort_end(sort);
	ExecDropSingleTupleTableSlot(entry);
	MemoryContextDelete(per_entry);
	become(c, InvalidOid);
	undo_delete(branch);
	stat_add(STAT_ROWS_COMPENSATED, rows);
}

void
compensate(List *branches)
{
	Compensation c = {.queue = constraint_queue_create()};
	ListCell   *cell;

	foreach(cell, branches)
		compensate_branch(&c, lfirst(cell));
	constraint_queue_check(c.queue);
	close_targets(&c);
}
