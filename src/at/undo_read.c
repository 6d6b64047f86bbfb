/*
 * undo_read.c
 *		Reading a branch's undo log, row by row.
 *
 * Most branches have one entry a row. Those are handed on as they lie, which saves
 * sorting and keeps to the order of the rows in their tables. Only the entries of
 * rows that have more than one are sorted.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "at/image.h"
#include "at/undo_log.h"
#include "at/undo_read.h"
#include "core/relations.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

/* the operators < of oid and int8, which have no symbols */
#define OID_LESS		609
#define INT8_LESS		412

typedef struct Reader
{
	const JoinedBranch *branch;
	UndoEntriesFunction function;
	void	   *arg;
	MemoryContext per_row;
	UndoEntry  *entries;		/* of one row, so far */
	int			n;
	int			room;
} Reader;

static HeapTuple
entry_image(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		image = slot_getattr(slot, column, &isnull);

	return isnull ? NULL : image_tuple(DatumGetByteaPP(image));
}

static void
add_entry(Reader *reader, TupleTableSlot *slot)
{
	UndoEntry  *entry;
	MemoryContext caller;
	bool		isnull;

	if (reader->n == reader->room)
	{
		reader->room *= 2;
		reader->entries = repalloc_huge(reader->entries, reader->room * sizeof(UndoEntry));
	}
	entry = &reader->entries[reader->n++];
	entry->relid = DatumGetObjectId(slot_getattr(slot, Anum_undo_log_relation, &isnull));
	entry->hash = DatumGetInt64(slot_getattr(slot, Anum_undo_log_key_hash, &isnull));
	entry->seq = DatumGetInt64(slot_getattr(slot, Anum_undo_log_seq, &isnull));
	entry->shape = DatumGetInt32(slot_getattr(slot, Anum_undo_log_shape, &isnull));
	entry->op = DatumGetChar(slot_getattr(slot, Anum_undo_log_op, &isnull));
	caller = MemoryContextSwitchTo(reader->per_row);
	entry->before = entry_image(slot, Anum_undo_log_before);
	entry->after = entry_image(slot, Anum_undo_log_after);
	MemoryContextSwitchTo(caller);
}

static void
hand_on(Reader *reader)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->per_row);

	CHECK_FOR_INTERRUPTS();
	reader->function(reader->arg, reader->entries, reader->n);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->per_row);
	reader->n = 0;
}

static int
compare_hashes(const void *a, const void *b)
{
	int64		ha = *(const int64 *) a;
	int64		hb = *(const int64 *) b;

	return ha < hb ? -1 : ha > hb ? 1 : 0;
}

/*
 * The hashes that more than one entry has, sorted; *count: how many. NULL: not all
 * entries were found.
 */
static int64 *
repeated_hashes(const JoinedBranch *branch, bool whole, int64 *found, int *count)
{
	int64	   *hashes = MemoryContextAllocHuge(CurrentMemoryContext,
												Max(branch->changes, 1) * sizeof(int64));
	UndoScan	scan;
	HeapTuple	entry;

	*found = 0;
	*count = 0;
	undo_scan_begin(&scan, branch, whole);
	while (HeapTupleIsValid(entry = undo_scan_next(&scan)))
	{
		if (*found < branch->changes)
			hashes[*found] = DatumGetInt64(undo_scan_column(&scan, entry, Anum_undo_log_key_hash));
		(*found)++;
	}
	undo_scan_end(&scan);
	if (*found != branch->changes)
	{
		pfree(hashes);
		return NULL;
	}
	qsort(hashes, *found, sizeof(int64), compare_hashes);
	for (int64 i = 1; i < *found; i++)
		if (hashes[i] == hashes[i - 1] && (*count == 0 || hashes[*count - 1] != hashes[i]))
			hashes[(*count)++] = hashes[i];
	return hashes;
}

/* Hand on what was sorted. */
static void
read_sorted(Reader *reader, Tuplesortstate *sort, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);

	tuplesort_performsort(sort);
	while (tuplesort_gettupleslot(sort, true, true, slot, NULL))
	{
		bool		isnull;

		if (reader->n > 0 &&
			(reader->entries[0].hash != DatumGetInt64(slot_getattr(slot, Anum_undo_log_key_hash, &isnull)) ||
			 reader->entries[0].relid != DatumGetObjectId(slot_getattr(slot, Anum_undo_log_relation, &isnull))))
			hand_on(reader);
		add_entry(reader, slot);
	}
	if (reader->n > 0)
		hand_on(reader);
	ExecDropSingleTupleTableSlot(slot);
}

/* Hand on at once what stands alone; the rest goes into the sort. */
static void
read_alone(Reader *reader, bool whole, const int64 *repeated, int nrepeated,
		   Tuplesortstate *sort, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	UndoScan	scan;
	HeapTuple	tuple;

	undo_scan_begin(&scan, reader->branch, whole);
	while (HeapTupleIsValid(tuple = undo_scan_next(&scan)))
	{
		int64		hash = DatumGetInt64(undo_scan_column(&scan, tuple, Anum_undo_log_key_hash));

		ExecStoreHeapTuple(tuple, slot, false);
		if (nrepeated > 0 &&
			bsearch(&hash, repeated, nrepeated, sizeof(int64), compare_hashes) != NULL)
			tuplesort_puttupleslot(sort, slot);
		else
		{
			add_entry(reader, slot);
			hand_on(reader);
		}
		ExecClearTuple(slot);
	}
	undo_scan_end(&scan);
	ExecDropSingleTupleTableSlot(slot);
}

void
undo_read(const JoinedBranch *branch, UndoEntriesFunction function, void *arg)
{
	AttrNumber	columns[2] = {Anum_undo_log_relation, Anum_undo_log_key_hash};
	Oid			operators[2] = {OID_LESS, INT8_LESS};
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};
	Reader		reader = {.branch = branch, .function = function, .arg = arg, .room = 16};
	TupleDesc	desc = undo_log_descriptor();
	Tuplesortstate *sort = NULL;
	bool		whole = false;
	int64		found;
	int			nrepeated;
	int64	   *repeated = repeated_hashes(branch, whole, &found, &nrepeated);

	if (repeated == NULL)
		repeated = repeated_hashes(branch, whole = true, &found, &nrepeated);
	if (repeated == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the undo log of branch \"%s\" is not whole", branch->gid_text),
				 errdetail("It has %lld entries, and the branch wrote %lld.",
						   (long long) found, (long long) branch->changes)));
	reader.entries = palloc(reader.room * sizeof(UndoEntry));
	reader.per_row = AllocSetContextCreate(CurrentMemoryContext, "dtx undo entries of a row",
										   ALLOCSET_DEFAULT_SIZES);
	if (nrepeated > 0)
		sort = tuplesort_begin_heap(desc, 2, columns, operators, collations, nulls_first,
									work_mem, NULL, TUPLESORT_NONE);
	read_alone(&reader, whole, repeated, nrepeated, sort, desc);
	if (sort != NULL)
	{
		read_sorted(&reader, sort, desc);
		tuplesort_end(sort);
	}
	MemoryContextDelete(reader.per_row);
	pfree(reader.entries);
	pfree(repeated);
}
