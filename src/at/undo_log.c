/*
 * undo_log.c
 *		Writing and deleting undo entries, and the filter of row locks.
 *
 * Entries are collected and written with one multi-insert. An entry belongs to
 * the subtransaction that made the change, so only entries of the current one
 * are written early; the others wait for it to end.
 *
 * Filter counts follow the same rule: counted up at once, and taken back if
 * the subtransaction aborts; counted down only when a settling has committed.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "at/undo_log.h"
#include "common/hashfn.h"
#include "core/compat.h"
#include "core/participant.h"
#include "core/locks.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Entries are written when there are so many. Their keys go into the index in
 * order, and the longer the run, the more of them meet on a page: an index that
 * is nearly empty, as this one is, then grows at its right end only.
 */
#define FLUSH_ENTRIES	131072
#define FLUSH_BYTES		(32 * 1024 * 1024)

typedef struct PendingEntry
{
	HeapTuple	tuple;
	SubTransactionId subid;
} PendingEntry;

typedef struct FilterCount
{
	int64		key_hash;
	SubTransactionId subid;
	bool		added;			/* else: to be counted down at commit */
} FilterCount;

static PendingEntry *pending = NULL;	/* TopMemoryContext */
static int	npending = 0;
static int	run_start = 0;		/* from here on all are of the same subtransaction */
static int	pending_room = 0;
static Size pending_bytes = 0;
static MemoryContext pending_context = NULL;

static FilterCount *counts = NULL;	/* TopMemoryContext */
static int	ncounts = 0;
static int	counts_room = 0;

static ItemPointerData first_entry; /* where the current branch's entries lie */
static ItemPointerData last_entry;
static int64 next_seq = 0;		/* of the current branch's entries */

static pg_atomic_uint32 *
filter_cell(int64 key_hash)
{
	/* the filter is the cluster's, and a database's copy has the same hashes */
	uint64		h = hash_combine64((uint64) key_hash, MyDatabaseId);

	return &shared->filter[(h ^ (h >> 32)) % DTX_FILTER_CELLS];
}

static void
remember_count(int64 key_hash, bool added)
{
	if (ncounts == counts_room)
	{
		counts_room = Max(256, counts_room * 2);
		counts = counts == NULL ?
			MemoryContextAlloc(TopMemoryContext, counts_room * sizeof(FilterCount)) :
			repalloc_huge(counts, counts_room * sizeof(FilterCount));
	}
	counts[ncounts].key_hash = key_hash;
	counts[ncounts].subid = GetCurrentSubTransactionId();
	counts[ncounts++].added = added;
}

/*
 * After a start of the server the filter knows nothing: count the entries that
 * are there. Nobody adds or deletes an entry of this database before that is
 * done, so none is missed or counted twice.
 */
void
undo_filter_load(void)
{
	DatabaseSlot *slot = my_database_slot();
	OwnScan		scan;
	HeapTuple	tuple;

	if (slot == NULL || slot->filter_loaded)
		return;
	(void) own_lock(LOCK_UNDO_FILTER, 0, ExclusiveLock, true);
	if (!slot->filter_loaded)
	{
		own_scan_all(&scan, OWN_UNDO_LOG, AccessShareLock);
		while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
			pg_atomic_fetch_add_u32(filter_cell(DatumGetInt64(
													own_column(&scan, tuple, Anum_undo_log_key_hash, NULL))), 1);
		own_scan_end(&scan);
		pg_memory_barrier();
		slot->filter_loaded = true;
	}
	own_unlock(LOCK_UNDO_FILTER, 0, ExclusiveLock);
}

bool
undo_filter_may_hold(int64 key_hash)
{
	DatabaseSlot *slot = my_database_slot();

	return slot == NULL || !slot->filter_loaded ||
		pg_atomic_read_u32(filter_cell(key_hash)) > 0;
}

bool
undo_has_own(int64 key_hash)
{
	for (int i = 0; i < ncounts; i++)
		if (counts[i].added && counts[i].key_hash == key_hash)
			return true;
	return false;
}

/* Write the pending entries from index first on. */
static void
write_pending(int first)
{
	int			n = npending - first;
	HeapTuple  *tuples;

	if (n <= 0)
		return;
	tuples = palloc(n * sizeof(HeapTuple));
	for (int i = 0; i < n; i++)
		tuples[i] = pending[first + i].tuple;
	own_insert_many(OWN_UNDO_LOG, tuples, n);
	for (int i = 0; i < n; i++)
	{
		ItemPointer tid = &tuples[i]->t_self;

		if (!ItemPointerIsValid(&first_entry) || ItemPointerCompare(tid, &first_entry) < 0)
			first_entry = *tid;
		if (!ItemPointerIsValid(&last_entry) || ItemPointerCompare(tid, &last_entry) > 0)
			last_entry = *tid;
	}
	pfree(tuples);

	for (int i = first; i < npending; i++)
	{
		pending_bytes -= pending[i].tuple->t_len;
		heap_freetuple(pending[i].tuple);
	}
	npending = first;
}

void
undo_add(char op, CommandId cid, Oid relid, int32 shape, int64 key_hash,
		 bytea *before, bytea *after)
{
	Datum		values[Natts_undo_log];
	bool		nulls[Natts_undo_log] = {0};
	SubTransactionId subid = GetCurrentSubTransactionId();
	MemoryContext old;
	Relation	rel;

	if (next_seq == 0)
		undo_filter_load();
	if (pending_context == NULL)
		pending_context = AllocSetContextCreate(TopMemoryContext, "dtx pending undo entries",
												ALLOCSET_DEFAULT_SIZES);

	values[Anum_undo_log_branch - 1] = Int64GetDatum(current_branch.key);
	values[Anum_undo_log_key_hash - 1] = Int64GetDatum(key_hash);
	values[Anum_undo_log_seq - 1] = Int64GetDatum(next_seq++);
	values[Anum_undo_log_cid - 1] = Int64GetDatum((int64) cid);
	values[Anum_undo_log_relation - 1] = ObjectIdGetDatum(relid);
	values[Anum_undo_log_shape - 1] = Int32GetDatum(shape);
	values[Anum_undo_log_op - 1] = CharGetDatum(op);
	values[Anum_undo_log_before - 1] = PointerGetDatum(before);
	nulls[Anum_undo_log_before - 1] = before == NULL;
	values[Anum_undo_log_after - 1] = PointerGetDatum(after);
	nulls[Anum_undo_log_after - 1] = after == NULL;

	if (npending == pending_room)
	{
		pending_room = Max(1024, pending_room * 2);
		pending = pending == NULL ?
			MemoryContextAlloc(TopMemoryContext, pending_room * sizeof(PendingEntry)) :
			repalloc(pending, pending_room * sizeof(PendingEntry));
	}
	rel = own_open(OWN_UNDO_LOG, RowExclusiveLock);
	old = MemoryContextSwitchTo(pending_context);
	pending[npending].tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	pending[npending].subid = subid;
	if (npending == 0 || pending[npending - 1].subid != subid)
		run_start = npending;
	pending_bytes += pending[npending].tuple->t_len;
	npending++;

	pg_atomic_fetch_add_u32(filter_cell(key_hash), 1);
	remember_count(key_hash, true);

	if (npending - run_start >= FLUSH_ENTRIES || pending_bytes >= FLUSH_BYTES)
		write_pending(run_start);
}

void
undo_flush(PhaseOne *result)
{
	write_pending(0);
	/* a branch only adds; what a subtransaction took back is not counted */
	result->changes = ncounts;
	result->first = first_entry;
	result->last = last_entry;
}

void
undo_scan_begin(UndoScan *scan, const JoinedBranch *branch, bool whole)
{
	ItemPointerData first = branch->first;
	ItemPointerData last = branch->last;

	scan->branch = branch;
	scan->rel = own_open(OWN_UNDO_LOG, RowExclusiveLock);
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->slot = table_slot_create(scan->rel, NULL);
	scan->scan = NULL;
	scan->done = false;
	if (whole)
		scan->scan = dtx_table_beginscan(scan->rel, scan->snapshot);
	else if (branch->changes > 1)
		scan->scan = dtx_table_beginscan_tidrange(scan->rel, scan->snapshot, &first, &last);
	else if (branch->changes < 1)
		scan->done = true;
}

HeapTuple
undo_scan_next(UndoScan *scan)
{
	while (!scan->done)
	{
		HeapTuple	tuple;
		bool		isnull;
		bool		found;

		if (scan->scan == NULL)
		{
			ItemPointerData tid = scan->branch->first;

			scan->done = true;
			/* no rewrite comes between: the table is locked */
			found = ItemPointerGetBlockNumber(&tid) < RelationGetNumberOfBlocks(scan->rel) &&
				table_tuple_fetch_row_version(scan->rel, &tid, scan->snapshot, scan->slot);
		}
		else if (scan->scan->rs_flags & SO_TYPE_TIDRANGESCAN)
			found = table_scan_getnextslot_tidrange(scan->scan, ForwardScanDirection, scan->slot);
		else
			found = table_scan_getnextslot(scan->scan, ForwardScanDirection, scan->slot);
		if (!found)
			break;
		tuple = ExecFetchSlotHeapTuple(scan->slot, false, NULL);
		if (DatumGetInt64(heap_getattr(tuple, Anum_undo_log_branch, RelationGetDescr(scan->rel),
									   &isnull)) == scan->branch->key)
			return tuple;
	}
	return NULL;
}

Datum
undo_scan_column(UndoScan *scan, HeapTuple entry, int column)
{
	bool		isnull;

	return heap_getattr(entry, column, RelationGetDescr(scan->rel), &isnull);
}

void
undo_scan_end(UndoScan *scan)
{
	if (scan->scan != NULL)
		table_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	UnregisterSnapshot(scan->snapshot);
	table_close(scan->rel, NoLock);
}

TupleDesc
undo_log_descriptor(void)
{
	Relation	rel = own_open(OWN_UNDO_LOG, AccessShareLock);
	TupleDesc	desc = CreateTupleDescCopy(RelationGetDescr(rel));

	table_close(rel, NoLock);
	return desc;
}

void
undo_delete(const JoinedBranch *branch)
{
	int64		deleted = 0;

	undo_filter_load();
	for (int whole = 0; whole < 2 && deleted < branch->changes; whole++)
	{
		UndoScan	scan;
		HeapTuple	entry;

		undo_scan_begin(&scan, branch, whole);
		while (HeapTupleIsValid(entry = undo_scan_next(&scan)))
		{
			remember_count(DatumGetInt64(undo_scan_column(&scan, entry, Anum_undo_log_key_hash)), false);
			simple_heap_delete(scan.rel, &entry->t_self);
			deleted++;
		}
		undo_scan_end(&scan);
		if (deleted < branch->changes)
			CommandCounterIncrement();
	}
}

/* Has the branch an entry of the relation with this hash? */
static bool
has_entry(int64 branch, Oid relid, int64 key_hash)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_int8(&scan, OWN_UNDO_LOG, OWN_UNDO_LOG_KEY_IDX, AccessShareLock, key_hash);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetInt64(own_column(&scan, tuple, Anum_undo_log_branch, NULL)) == branch &&
			DatumGetObjectId(own_column(&scan, tuple, Anum_undo_log_relation, NULL)) == relid;
	own_scan_end(&scan);
	return found;
}

bool
undo_overlaps(const JoinedBranch *a, const JoinedBranch *b)
{
	const JoinedBranch *fewer = a->changes < b->changes ? a : b;
	const JoinedBranch *more = fewer == a ? b : a;
	int64		seen = 0;
	bool		found = false;

	for (int whole = 0; whole < 2 && !found && seen < fewer->changes; whole++)
	{
		UndoScan	scan;
		HeapTuple	entry;

		seen = 0;
		undo_scan_begin(&scan, fewer, whole);
		while (!found && HeapTupleIsValid(entry = undo_scan_next(&scan)))
		{
			CHECK_FOR_INTERRUPTS();
			seen++;
			found = has_entry(more->key, DatumGetObjectId(undo_scan_column(&scan, entry, Anum_undo_log_relation)),
							  DatumGetInt64(undo_scan_column(&scan, entry, Anum_undo_log_key_hash)));
		}
		undo_scan_end(&scan);
	}
	return found;
}

bool
undo_relation_in_doubt(Oid relid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!own_table_exists(OWN_UNDO_LOG))
		return false;
	own_scan_all(&scan, OWN_UNDO_LOG, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetObjectId(own_column(&scan, tuple, Anum_undo_log_relation, NULL)) == relid;
	own_scan_end(&scan);
	return found;
}

void
undo_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent)
{
	/* what the subtransaction made is at the end of both lists */
	for (int i = npending - 1; i >= 0 && pending[i].subid == id; i--)
	{
		if (commit)
			pending[i].subid = parent;
		else
		{
			pending_bytes -= pending[i].tuple->t_len;
			heap_freetuple(pending[i].tuple);
			npending--;
		}
	}
	for (run_start = Max(npending - 1, 0);
		 run_start > 0 && pending[run_start - 1].subid == pending[npending - 1].subid;)
		run_start--;
	for (int i = ncounts - 1; i >= 0 && counts[i].subid == id; i--)
	{
		if (commit)
			counts[i].subid = parent;
		else
		{
			if (counts[i].added)
				pg_atomic_fetch_sub_u32(filter_cell(counts[i].key_hash), 1);
			ncounts--;
		}
	}
}

void
undo_xact_end(bool commit)
{
	for (int i = 0; i < ncounts; i++)
		if (counts[i].added != commit)
			pg_atomic_fetch_sub_u32(filter_cell(counts[i].key_hash), 1);
	ncounts = 0;
	if (counts_room > 65536)
	{
		pfree(counts);
		counts = NULL;
		counts_room = 0;
	}
	npending = 0;
	pending_bytes = 0;
	if (pending_context != NULL)
		MemoryContextReset(pending_context);
	next_seq = 0;
	ItemPointerSetInvalid(&first_entry);
	ItemPointerSetInvalid(&last_entry);
}
