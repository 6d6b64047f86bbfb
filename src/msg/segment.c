/*
 * segment.c
 *		The segments of the log: tables of their own, written one after the other.
 *
 * The worker begins a new one, tells so in shared memory, and only then looks
 * which transaction id comes next: who still writes to the former segment has an
 * older one. When all of these are over, and every subscription has passed them,
 * the segment is dropped as a whole. No publisher waits for any of that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/locks.h"
#include "core/override.h"
#include "core/relations.h"
#include "executor/spi.h"
#include "guc.h"
#include "msg/message.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

#define CREATE_LOCK_TIMEOUT	100		/* ms */

/* this process's cache of the current segment */
static uint32 cached_number = 0;
static Oid	cached_relation = InvalidOid;
static Oid	cached_index = InvalidOid;

static int
older_first(const ListCell *a, const ListCell *b)
{
	return ((Segment *) lfirst(a))->number - ((Segment *) lfirst(b))->number;
}

List *
segments_read(void)
{
	List	   *segments = NIL;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_MESSAGE_SEGMENT, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Segment    *segment = palloc0(sizeof(Segment));
		bool		isnull;
		Datum		closed_xid = own_column(&scan, tuple, Anum_message_segment_closed_xid, &isnull);

		segment->number = DatumGetInt32(own_column(&scan, tuple, Anum_message_segment_segment, NULL));
		segment->relation = DatumGetObjectId(own_column(&scan, tuple, Anum_message_segment_relation, NULL));
		segment->opened_at = DatumGetTimestampTz(own_column(&scan, tuple, Anum_message_segment_opened_at, NULL));
		segment->closed_xid = isnull ? 0 : (uint64) DatumGetInt64(closed_xid);
		segments = lappend(segments, segment);
	}
	own_scan_end(&scan);
	list_sort(segments, older_first);
	return segments;
}

bool
segment_index_fits(Relation index)
{
	return index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indnatts == 1 &&
		index->rd_index->indkey.values[0] == Anum_message_xid;
}

void
segments_hold(void)
{
	(void) own_lock(LOCK_LOG, 0, ShareLock, true);
}

/* The last segment, by its table. */
static uint32
last_number(void)
{
	List	   *segments = segments_read();

	if (segments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the log of messages has no segment")));
	return ((Segment *) llast(segments))->number;
}

static bool
find_relations(uint32 number)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "message_%u", number);
	cached_relation = get_relname_relid(name, own_schema());
	strlcat(name, "_xid_idx", sizeof(name));
	cached_index = get_relname_relid(name, own_schema());
	cached_number = number;
	if (OidIsValid(cached_relation) && !own_is_member(RelationRelationId, cached_relation))
		cached_relation = InvalidOid;
	return OidIsValid(cached_relation) && OidIsValid(cached_index) &&
		IndexGetRelation(cached_index, true) == cached_relation;
}

void
segment_current(Oid *relation, Oid *index)
{
	DatabaseSlot *slot = my_database_slot();
	uint32		number = slot == NULL ? 0 : pg_atomic_read_u32(&slot->segment);

	if (number == 0)
	{
		uint32		expected = 0;

		number = last_number();
		/* unless the worker has begun another one meanwhile */
		if (slot != NULL && !pg_atomic_compare_exchange_u32(&slot->segment, &expected, number))
			number = expected;
	}
	if ((number != cached_number || !OidIsValid(cached_relation) ||
		 !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(cached_relation)) ||
		 !SearchSysCacheExists1(INDEXRELID, ObjectIdGetDatum(cached_index))) &&
		!find_relations(number))
	{
		/* the extension was dropped and created anew */
		uint32		stale = number;

		number = last_number();
		if (slot != NULL)
			(void) pg_atomic_compare_exchange_u32(&slot->segment, &stale, number);
		if (!find_relations(number))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("segment %u of the log of messages does not exist", number)));
	}
	*relation = cached_relation;
	*index = cached_index;
}

/* The table belongs to the extension, as if its script had made it. */
static int
create_segment(int number)
{
	Oid			relation;
	bool		isnull;

	creating_extension = true;
	CurrentExtensionObject = get_extension_oid("dtx", false);
	PG_TRY();
	{
		Oid			types[1] = {INT4OID};
		Datum		values[1] = {Int32GetDatum(number)};

		SPI_connect();
		if (SPI_execute_with_args("SELECT dtx.segment_create($1)", 1, types, values, NULL, false, 1) != SPI_OK_SELECT)
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not create a segment of messages")));
		relation = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		SPI_finish();
	}
	PG_FINALLY();
	{
		creating_extension = false;
		CurrentExtensionObject = InvalidOid;
	}
	PG_END_TRY();
	return relation;
}

/* Who writes to segments before the last is known to be older than this. */
static void
close_segments(int last)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_MESSAGE_SEGMENT, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Datum		values[Natts_message_segment] = {0};
		bool		nulls[Natts_message_segment] = {0};
		bool		replace[Natts_message_segment] = {0};
		bool		open;

		(void) own_column(&scan, tuple, Anum_message_segment_closed_xid, &open);
		if (!open || DatumGetInt32(own_column(&scan, tuple, Anum_message_segment_segment, NULL)) == last)
			continue;
		values[Anum_message_segment_closed_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
		replace[Anum_message_segment_closed_at - 1] = true;
		values[Anum_message_segment_closed_xid - 1] =
			Int64GetDatum((int64) U64FromFullTransactionId(ReadNextFullTransactionId()));
		replace[Anum_message_segment_closed_xid - 1] = true;
		own_update(&scan, tuple, values, nulls, replace);
	}
	own_scan_end(&scan);
}

static bool
is_full(const Segment *segment, TimestampTz now, bool *written)
{
	Relation	rel = table_open(segment->relation, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	table_close(rel, AccessShareLock);
	*written = blocks > 0;
	if (blocks == 0)
		return false;
	return (int64) blocks * (BLCKSZ / 1024) >= guc_message_segment_size ||
		now >= TimestampTzPlusMilliseconds(segment->opened_at, (int64) guc_message_retention * 500);
}

/* False: somebody reads it just now. */
static bool
drop_segment(const Segment *segment)
{
	ObjectAddress object;
	Oid			row_type;
	OwnScan		scan;
	HeapTuple	tuple;

	if (!ConditionalLockRelationOid(segment->relation, AccessExclusiveLock))
		return false;
	/* a member of the extension is dropped with it only; since 18 the types of rows are members too */
	ObjectAddressSet(object, RelationRelationId, segment->relation);
	row_type = get_rel_type_id(segment->relation);
	(void) deleteDependencyRecordsForClass(RelationRelationId, segment->relation, ExtensionRelationId,
										   DEPENDENCY_EXTENSION);
	(void) deleteDependencyRecordsForClass(TypeRelationId, row_type, ExtensionRelationId, DEPENDENCY_EXTENSION);
	(void) deleteDependencyRecordsForClass(TypeRelationId, get_array_type(row_type), ExtensionRelationId,
										   DEPENDENCY_EXTENSION);
	CommandCounterIncrement();
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	own_scan_all(&scan, OWN_MESSAGE_SEGMENT, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (DatumGetInt32(own_column(&scan, tuple, Anum_message_segment_segment, NULL)) == segment->number)
			own_delete(&scan, tuple);
	own_scan_end(&scan);
	return true;
}

int
segments_rotate(uint64 passed_below)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *segments;
	Segment    *last;
	ListCell   *cell;
	bool		unclosed = false;
	bool		written;

	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	segments = segments_read();
	if (segments == NIL)
	{
		worker_commit(false);
		return 0;
	}
	last = llast(segments);
	if (is_full(last, now, &written))
	{
		DTX_FAULT_POINT("segment-before-create");
		/* somebody may have locked the log, or a publication of it: the worker waits for nobody */
		setting_override(&LockTimeout, CREATE_LOCK_TIMEOUT);
		(void) create_segment(last->number + 1);
		worker_commit(true);
		DTX_FAULT_POINT("segment-after-create");
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		segments = segments_read();
		last = llast(segments);
	}
	foreach(cell, segments)
		unclosed |= ((Segment *) lfirst(cell))->closed_xid == 0 && lfirst(cell) != last;
	/* a crash came between the two transactions above */
	pg_atomic_write_u32(&worker.slot->segment, last->number);
	if (unclosed)
		close_segments(last->number);
	worker_commit(unclosed);
	foreach(cell, segments)
	{
		Segment    *segment = lfirst(cell);
		bool		dropped;

		/* the age of its youngest message is not less than that of its successor's beginning */
		if (segment == last || segment->closed_xid == 0 || segment->closed_xid > passed_below ||
			now < TimestampTzPlusMilliseconds(((Segment *) lfirst(lnext(segments, cell)))->opened_at,
											  (int64) guc_message_retention * 1000))
			break;
		DTX_FAULT_POINT("segment-before-drop");
		worker_begin();
		dropped = drop_segment(segment);
		worker_commit(true);
		if (!dropped)
			break;
		DTX_FAULT_POINT("segment-after-drop");
	}
	return list_length(segments) > 1 || written ? list_length(segments) : 0;
}
