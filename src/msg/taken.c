/*
 * taken.c
 *		Which messages of the log somebody has taken, with dtx_receive.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "catalog/pg_am_d.h"
#include "core/relations.h"
#include "msg/taken.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#define DONE	'k'

/* An index on (subscription, generation, column, ...) of all rows. */
static Oid
index_on(Relation rel, int column)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && index->rd_rel->relam == BTREE_AM_OID && form->indnkeyatts >= 3 &&
			form->indkey.values[0] == Anum_undelivered_subscription &&
			form->indkey.values[1] == Anum_undelivered_generation && form->indkey.values[2] == column &&
			RelationGetIndexPredicate(index) == NIL)
			found = RelationGetRelid(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

void
taken_open(Taken *taken, const Subscription *subscription)
{
	*taken = (Taken) {0};
	taken->rel = own_open(OWN_UNDELIVERED, AccessShareLock);
	taken->by_id = index_on(taken->rel, Anum_undelivered_id);
	taken->by_key = index_on(taken->rel, Anum_undelivered_key);
	taken->subscription = subscription->id;
	taken->generation = subscription->generation;
	taken->start = passed_from_datum(subscription->start);
}

void
taken_close(Taken *taken)
{
	table_close(taken->rel, AccessShareLock);
}

static void
begin_keys(const Taken *taken, ScanKeyData *keys)
{
	ScanKeyInit(&keys[0], Anum_undelivered_subscription, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(taken->subscription));
	ScanKeyInit(&keys[1], Anum_undelivered_generation, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(taken->generation));
}

static Datum
column(const Taken *taken, HeapTuple tuple, int number)
{
	bool		isnull;

	return heap_getattr(tuple, number, RelationGetDescr(taken->rel), &isnull);
}

/* Is it a row of a message that was skipped? It goes by and by. */
static bool
is_skipped(const Taken *taken, HeapTuple tuple)
{
	return passed_is_over(taken->start, U64FromFullTransactionId(DatumGetFullTransactionId(column(taken, tuple, Anum_undelivered_xid))));
}

/* keys are copied: a scan over an index writes to them */
static TakenState
scan(Taken *taken, Oid index, const ScanKeyData *keys, Snapshot snapshot, bool dirty, bool with_done)
{
	ScanKeyData copy[3];
	TakenState	found = TAKEN_NO;
	SysScanDesc scan;
	HeapTuple	tuple;

	memcpy(copy, keys, sizeof(copy));
	scan = systable_beginscan(taken->rel, index, OidIsValid(index), snapshot, 3, copy);
	while (found != TAKEN_OPEN && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (is_skipped(taken, tuple) ||
			(!with_done && DatumGetChar(column(taken, tuple, Anum_undelivered_state)) == DONE))
			continue;
		taken->state = DatumGetChar(column(taken, tuple, Anum_undelivered_state));
		found = dirty && (TransactionIdIsValid(snapshot->xmin) || TransactionIdIsValid(snapshot->xmax)) ?
			TAKEN_OPEN : TAKEN_YES;
	}
	systable_endscan(scan);
	return found;
}

static TakenState
look(Taken *taken, Oid index, const ScanKeyData *keys, bool with_done)
{
	SnapshotData dirty;
	TakenState	found;

	InitDirtySnapshot(dirty);
	found = scan(taken, index, keys, &dirty, true, with_done);
	if (found == TAKEN_NO)
	{
		/* of a row that was updated during the scan neither version may have been met: by
		 * now that has committed */
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		found = scan(taken, index, keys, snapshot, false, with_done);
		UnregisterSnapshot(snapshot);
	}
	return found;
}

TakenState
taken_message(Taken *taken, int64 id)
{
	ScanKeyData keys[3];

	begin_keys(taken, keys);
	ScanKeyInit(&keys[2], Anum_undelivered_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	return look(taken, taken->by_id, keys, true);
}

TakenState
taken_key(Taken *taken, text *key)
{
	ScanKeyData keys[3];

	begin_keys(taken, keys);
	ScanKeyEntryInitialize(&keys[2], 0, Anum_undelivered_key, BTEqualStrategyNumber, InvalidOid,
						   TupleDescAttr(RelationGetDescr(taken->rel), Anum_undelivered_key - 1)->attcollation,
						   F_TEXTEQ, PointerGetDatum(key));
	return look(taken, taken->by_key, keys, false);
}

static int
compare_ids(const void *a, const void *b)
{
	int64		ia = *(const int64 *) a;
	int64		ib = *(const int64 *) b;

	return ia < ib ? -1 : ia > ib ? 1 : 0;
}

int64 *
taken_ids(const Subscription *subscription, int *count)
{
	Taken		taken;
	ScanKeyData keys[3];
	SysScanDesc scan;
	Snapshot	snapshot = RegisterSnapshot(own_snapshot());
	HeapTuple	tuple;
	int			room = 64;
	int64	   *ids = palloc(room * sizeof(int64));

	*count = 0;
	taken_open(&taken, subscription);
	begin_keys(&taken, keys);
	scan = systable_beginscan(taken.rel, taken.by_id, OidIsValid(taken.by_id), snapshot, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (*count == room)
			ids = repalloc_huge(ids, (Size) (room *= 2) * sizeof(int64));
		ids[(*count)++] = DatumGetInt64(column(&taken, tuple, Anum_undelivered_id));
	}
	systable_endscan(scan);
	taken_close(&taken);
	UnregisterSnapshot(snapshot);
	qsort(ids, *count, sizeof(int64), compare_ids);
	return ids;
}
