/*
 * position.c
 *		Snapshots as positions, and reading the window between two of them.
 *
 * The window from S1 to S2 has the messages that S2 sees, of transactions that
 * were not over in S1: those whose xid is S1's xmax or later, and those that S1
 * names as running. An index on the xid finds both. A window is read in the
 * order of ids, which were drawn when the messages were published: what one
 * transaction did because it saw what another had committed comes after it.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "core/compat.h"
#include "core/relations.h"
#include "fmgr.h"
#include "funcapi.h"
#include "msg/position.h"
#include "msg/taken.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_backlog);

/* A window's messages beyond these are read when they are done: memory is bounded. */
#define MAX_ENTRIES		1000000

/* --- reading --- */

Reader *
reader_open(const Subscription *subscription, const Position *position, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Reader	   *reader = palloc0(sizeof(Reader));

	reader->subscription = subscription;
	reader->context = context;
	reader->window = AllocSetContextCreate(context, "dtx window", ALLOCSET_DEFAULT_SIZES);
	reader->passed = passed_copy(position->passed);
	if (subscription->since_seen != 0)
		reader->seen = passed_from_datum(subscription->since_seen);
	reader->cursor = position->cursor;
	if (position->upto != NULL)
	{
		MemoryContextSwitchTo(reader->window);
		reader->upto = passed_copy(position->upto);
		reader->cut_off = true;	/* entries are to be read */
	}
	MemoryContextSwitchTo(old);
	return reader;
}

void
reader_close(Reader *reader)
{
	MemoryContextDelete(reader->window);
	passed_free(reader->passed);
	pfree(reader);
}

static int
compare_ids(const void *a, const void *b)
{
	int64		ia = ((const Entry *) a)->id;
	int64		ib = ((const Entry *) b)->id;

	return ia < ib ? -1 : ia > ib ? 1 : 0;
}

typedef struct Collector
{
	Reader	   *reader;
	int			room;
	uint64		own_xid;		/* of the current transaction */
} Collector;

static void
collect(Collector *collector, const Entry *entry)
{
	Reader	   *reader = collector->reader;

	if (reader->nentries == collector->room)
	{
		if (collector->room == 2 * MAX_ENTRIES)
		{
			/* keep the first ones */
			qsort(reader->entries, reader->nentries, sizeof(Entry), compare_ids);
			reader->nentries = MAX_ENTRIES;
			reader->cut_off = true;
		}
		else
		{
			collector->room = collector->room == 0 ? 256 : Min(collector->room * 2, 2 * MAX_ENTRIES);
			reader->entries = reader->entries == NULL ?
				MemoryContextAlloc(reader->window, collector->room * sizeof(Entry)) :
				repalloc_huge(reader->entries, collector->room * sizeof(Entry));
		}
	}
	reader->entries[reader->nentries++] = *entry;
}

/* Is a row of the log for this subscription, as far as position and topic go? */
static bool
is_wanted(const Collector *collector, TupleDesc desc, HeapTuple tuple, int64 *id)
{
	const Reader *reader = collector->reader;
	const Subscription *subscription = reader->subscription;
	bool		isnull;
	uint64		xid = (uint64) DatumGetInt64(heap_getattr(tuple, Anum_message_xid, desc, &isnull));
	text	   *topic;
	char		buffer[256];

	*id = DatumGetInt64(heap_getattr(tuple, Anum_message_id, desc, &isnull));
	if (*id <= reader->cursor || xid == collector->own_xid || !passed_is_over(reader->upto, xid))
		return false;
	/* the place to begin from is for what could be seen when it was given */
	if (reader->seen != NULL && *id < subscription->since_id && passed_is_over(reader->seen, xid))
		return false;
	if (reader->seen != NULL && !TIMESTAMP_IS_NOBEGIN(subscription->since_time) && passed_is_over(reader->seen, xid) &&
		DatumGetTimestampTz(heap_getattr(tuple, Anum_message_published_at, desc, &isnull)) < subscription->since_time)
		return false;
	topic = DatumGetTextPP(heap_getattr(tuple, Anum_message_topic, desc, &isnull));
	text_to_cstring_buffer(topic, buffer, sizeof(buffer));
	return topic_matches(subscription->topic, buffer);
}

/* The index to look into; InvalidOid: there is none just now, and every row is looked at. */
static Oid
index_of(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index->rd_index->indisvalid && segment_index_fits(index))
			found = RelationGetRelid(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

/* The messages of transactions in a range of xids, of one segment. */
static void
collect_range(Collector *collector, Relation rel, Oid index, Snapshot snapshot,
			  uint16 segment, uint64 from, bool only)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Entry		entry;

	ScanKeyInit(&key, Anum_message_xid, only ? BTEqualStrategyNumber : BTGreaterEqualStrategyNumber,
				only ? F_INT8EQ : F_INT8GE, Int64GetDatum((int64) from));
	scan = systable_beginscan(rel, index, OidIsValid(index), snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (!is_wanted(collector, RelationGetDescr(rel), tuple, &entry.id))
			continue;
		entry.tid = tuple->t_self;
		entry.segment = segment;
		collect(collector, &entry);
	}
	systable_endscan(scan);
}

static void
collect_segment(Collector *collector, Relation rel, Snapshot snapshot, Segment *segment, uint16 number)
{
	Reader	   *reader = collector->reader;
	Oid			index = index_of(rel);

	segment->file = rel->rd_rel->relfilenode;
	for (int i = 0; i < reader->passed->nxip; i++)
		if ((segment->closed_xid == 0 || reader->passed->xip[i] < segment->closed_xid) &&
			passed_is_over(reader->upto, reader->passed->xip[i]))
			collect_range(collector, rel, index, snapshot, number, reader->passed->xip[i], true);
	if (segment->closed_xid == 0 || reader->passed->xmax < segment->closed_xid)
		collect_range(collector, rel, index, snapshot, number, reader->passed->xmax, false);
}

/*
 * Find the entries of the window: of a new one up to now, or, when it was found
 * before but not all of it was kept, of the rest of it.
 */
static void
find_entries(Reader *reader)
{
	Snapshot	snapshot = RegisterSnapshot(own_snapshot());
	Collector	collector = {.reader = reader};
	MemoryContext old = MemoryContextSwitchTo(reader->window);
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	uint16		number = 0;
	ListCell   *cell;

	collector.own_xid = FullTransactionIdIsValid(own) ? U64FromFullTransactionId(own) : 0;
	if (reader->upto == NULL)
	{
		reader->upto = passed_now(snapshot);
		reader->cursor = 0;
		reader->began = true;
	}
	reader->cut_off = false;
	reader->segments = segments_read();
	MemoryContextSwitchTo(old);
	foreach(cell, reader->segments)
	{
		Segment    *segment = lfirst(cell);
		Relation	rel;

		if (segment->closed_xid == 0 || segment->closed_xid > reader->passed->xmin)
		{
			rel = try_relation_open(segment->relation, AccessShareLock);
			if (rel != NULL)
			{
				own_check_segment(rel);
				collect_segment(&collector, rel, snapshot, segment, number);
				table_close(rel, AccessShareLock);
			}
		}
		number++;
	}
	qsort(reader->entries, reader->nentries, sizeof(Entry), compare_ids);
	if (reader->nentries > MAX_ENTRIES)
	{
		reader->nentries = MAX_ENTRIES;
		reader->cut_off = true;
	}
	UnregisterSnapshot(snapshot);
}

/* The window is read: what follows comes after it. */
static void
end_window(Reader *reader)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	Passed	   *passed = passed_copy(reader->upto);

	reader->fresh = reader->began;
	passed_free(reader->passed);
	reader->passed = passed;
	MemoryContextSwitchTo(old);
	MemoryContextReset(reader->window);
	reader->upto = NULL;
	reader->entries = NULL;
	reader->nentries = reader->next = 0;
	reader->segments = NIL;
	reader->cursor = 0;
}

static text *
copy_text(Datum value, bool isnull)
{
	return isnull ? NULL : DatumGetTextPCopy(value);
}

static Jsonb *
copy_jsonb(Datum value, bool isnull)
{
	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

static Message *
form_message(TupleDesc desc, HeapTuple tuple)
{
	Message    *message = palloc0(sizeof(Message));
	Datum		value;
	bool		isnull;

	message->id = DatumGetInt64(heap_getattr(tuple, Anum_message_id, desc, &isnull));
	message->xid = (uint64) DatumGetInt64(heap_getattr(tuple, Anum_message_xid, desc, &isnull));
	message->published_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_message_published_at, desc, &isnull));
	message->topic = TextDatumGetCString(heap_getattr(tuple, Anum_message_topic, desc, &isnull));
	value = heap_getattr(tuple, Anum_message_key, desc, &isnull);
	message->key = copy_text(value, isnull);
	value = heap_getattr(tuple, Anum_message_payload, desc, &isnull);
	message->payload = copy_jsonb(value, isnull);
	value = heap_getattr(tuple, Anum_message_headers, desc, &isnull);
	message->headers = copy_jsonb(value, isnull);
	return message;
}

/* The row of an entry. It is there: nothing deletes rows of the log. */
static Message *
fetch_message(Relation rel, const Entry *entry)
{
	HeapTupleData tuple = {0};
	Buffer		buffer;
	Message    *message;

	tuple.t_self = entry->tid;
	if (!heap_fetch(rel, SnapshotAny, &tuple, &buffer, false))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("message " INT64_FORMAT " is not in the log any more", entry->id)));
	message = form_message(RelationGetDescr(rel), &tuple);
	ReleaseBuffer(buffer);
	return message;
}

static void
forget_entries(Reader *reader)
{
	if (reader->entries != NULL)
		pfree(reader->entries);
	reader->entries = NULL;
	reader->nentries = reader->next = 0;
}

/* Have something of a window that is not read yet. False: there is nothing, up to now. */
static bool
have_entries(Reader *reader)
{
	bool		rest;

	if (reader->upto != NULL && !reader->cut_off)
		end_window(reader);
	do
	{
		/* what is left of a window may be nothing: what came after it is not looked at yet */
		rest = reader->upto != NULL;
		forget_entries(reader);
		find_entries(reader);
		if (reader->nentries > 0)
			return true;
		end_window(reader);
	} while (rest);
	return false;
}

/* Messages of the entries there are; NIL: these are of no use any more, and forgotten. */
static List *
read_entries(Reader *reader, int most, Size max_bytes)
{
	List	   *messages = NIL;
	Relation	rel = NULL;
	int			open_segment = -1;
	Size		bytes = 0;

	while (reader->next < reader->nentries && list_length(messages) < most && bytes < max_bytes)
	{
		const Entry *entry = &reader->entries[reader->next];
		Message    *message;

		if (entry->segment != open_segment)
		{
			Segment    *segment = list_nth(reader->segments, entry->segment);

			if (rel != NULL)
				table_close(rel, AccessShareLock);
			rel = table_open(segment->relation, AccessShareLock);
			own_check_segment(rel);
			open_segment = entry->segment;
			if (rel->rd_rel->relfilenode != segment->file)
			{
				/* VACUUM FULL: where the rows were says nothing any more */
				reader->cut_off = true;
				forget_entries(reader);
				break;
			}
		}
		message = fetch_message(rel, entry);
		bytes += VARSIZE_ANY(message->payload) + (message->headers != NULL ? VARSIZE_ANY(message->headers) : 0) +
			(message->key != NULL ? VARSIZE_ANY(message->key) : 0);
		messages = lappend(messages, message);
		reader->next++;
		reader->cursor = entry->id;
	}
	if (rel != NULL)
		table_close(rel, AccessShareLock);
	return messages;
}

List *
reader_next(Reader *reader, int most, Size max_bytes)
{
	List	   *messages = NIL;

	while (messages == NIL)
	{
		if (reader->next == reader->nentries && !have_entries(reader))
			break;
		messages = read_entries(reader, most, max_bytes);
	}
	return messages;
}

int64
reader_peek(Reader *reader)
{
	if (reader->next == reader->nentries && !have_entries(reader))
		return 0;
	return reader->entries[reader->next].id;
}

void
reader_skip(Reader *reader)
{
	reader->cursor = reader->entries[reader->next++].id;
}

void
reader_before(const Reader *reader, Position *position)
{
	reader_window(reader, position);
	position->cursor = reader->cursor;
}

bool
reader_at_end(const Reader *reader)
{
	return reader->next == reader->nentries && !reader->cut_off;
}

void
reader_window(const Reader *reader, Position *position)
{
	position->passed = passed_copy(reader->passed);
	position->upto = passed_copy(reader->upto);
}

void
reader_position(const Reader *reader, Position *position)
{
	/* a window that is read whole is passed */
	bool		whole = reader->upto == NULL || reader_at_end(reader);

	position->passed = passed_copy(whole && reader->upto != NULL ? reader->upto : reader->passed);
	position->upto = whole ? NULL : passed_copy(reader->upto);
	position->cursor = whole ? 0 : reader->cursor;
}

/* --- rows --- */

static Position *
form_position(OwnScan *scan, HeapTuple tuple)
{
	Position   *position = palloc0(sizeof(Position));
	Datum		value;
	bool		isnull;

	position->tid = tuple->t_self;
	position->writer = HeapTupleHeaderGetRawXmin(tuple->t_data);
	position->subscription = DatumGetInt32(own_column(scan, tuple, Anum_position_subscription, NULL));
	position->generation = DatumGetInt32(own_column(scan, tuple, Anum_position_generation, NULL));
	position->batch = DatumGetInt64(own_column(scan, tuple, Anum_position_batch, NULL));
	position->passed = passed_from_datum(own_column(scan, tuple, Anum_position_passed, NULL));
	value = own_column(scan, tuple, Anum_position_upto, &isnull);
	position->upto = isnull ? NULL : passed_from_datum(value);
	position->cursor = DatumGetInt64(own_column(scan, tuple, Anum_position_cursor, NULL));
	position->delivered = DatumGetInt64(own_column(scan, tuple, Anum_position_delivered, NULL));
	value = own_column(scan, tuple, Anum_position_delivered_at, &isnull);
	position->delivered_at = isnull ? 0 : DatumGetTimestampTz(value);
	position->rate = DatumGetFloat8(own_column(scan, tuple, Anum_position_rate, NULL));
	position->attempts = DatumGetInt32(own_column(scan, tuple, Anum_position_attempts, NULL));
	value = own_column(scan, tuple, Anum_position_next_attempt, &isnull);
	position->next_attempt = isnull ? 0 : DatumGetTimestampTz(value);
	value = own_column(scan, tuple, Anum_position_last_error, &isnull);
	position->last_error = isnull ? NULL : TextDatumGetCString(value);
	position->refused = DatumGetBool(own_column(scan, tuple, Anum_position_refused, NULL));
	return position;
}

List *
positions_read(void)
{
	List	   *positions = NIL;
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_POSITION, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		positions = lappend(positions, form_position(&scan, tuple));
	own_scan_end(&scan);
	return positions;
}

Position *
position_read(int subscription)
{
	ListCell   *cell;

	foreach(cell, positions_read())
		if (((Position *) lfirst(cell))->subscription == subscription)
			return lfirst(cell);
	return NULL;
}

static HeapTuple
form_row(Relation rel, const Position *position)
{
	Datum		values[Natts_position] = {0};
	bool		nulls[Natts_position] = {0};

	values[Anum_position_subscription - 1] = Int32GetDatum(position->subscription);
	values[Anum_position_generation - 1] = Int32GetDatum(position->generation);
	values[Anum_position_batch - 1] = Int64GetDatum(position->batch);
	values[Anum_position_passed - 1] = passed_to_datum(position->passed);
	nulls[Anum_position_upto - 1] = position->upto == NULL;
	if (position->upto != NULL)
		values[Anum_position_upto - 1] = passed_to_datum(position->upto);
	values[Anum_position_cursor - 1] = Int64GetDatum(position->cursor);
	values[Anum_position_delivered - 1] = Int64GetDatum(position->delivered);
	values[Anum_position_delivered_at - 1] = TimestampTzGetDatum(position->delivered_at);
	nulls[Anum_position_delivered_at - 1] = position->delivered_at == 0;
	values[Anum_position_rate - 1] = Float8GetDatum(position->rate);
	values[Anum_position_attempts - 1] = Int32GetDatum(position->attempts);
	values[Anum_position_next_attempt - 1] = TimestampTzGetDatum(position->next_attempt);
	nulls[Anum_position_next_attempt - 1] = position->next_attempt == 0;
	nulls[Anum_position_last_error - 1] = position->last_error == NULL;
	if (position->last_error != NULL)
		values[Anum_position_last_error - 1] = CStringGetTextDatum(position->last_error);
	values[Anum_position_refused - 1] = BoolGetDatum(position->refused);
	return heap_form_tuple(RelationGetDescr(rel), values, nulls);
}

void
position_insert(Position *position)
{
	Relation	rel = own_open(OWN_POSITION, RowExclusiveLock);
	HeapTuple	tuple = form_row(rel, position);

	simple_heap_insert(rel, tuple);
	position->tid = tuple->t_self;
	table_close(rel, NoLock);
	/* it may be replaced in this very command */
	CommandCounterIncrement();
}

/* Is the row still where it was when it was last read or written? The table may have been
 * rewritten since, and another row be there. */
static bool
is_in_place(Relation rel, Snapshot snapshot, const Position *position)
{
	HeapTupleData tuple = {0};
	Buffer		buffer;
	bool		isnull;
	bool		same;

	tuple.t_self = position->tid;
	if (ItemPointerGetBlockNumber(&position->tid) >= RelationGetNumberOfBlocks(rel) ||
		!heap_fetch(rel, snapshot, &tuple, &buffer, false))
		return false;
	same = DatumGetInt32(heap_getattr(&tuple, Anum_position_subscription, RelationGetDescr(rel), &isnull)) ==
		position->subscription;
	ReleaseBuffer(buffer);
	return same;
}

bool
position_is_unmoved(const Position *position)
{
	Relation	rel = own_open(OWN_POSITION, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	HeapTupleData tuple = {0};
	Buffer		buffer;
	bool		same = false;

	tuple.t_self = position->tid;
	if (ItemPointerGetBlockNumber(&position->tid) < RelationGetNumberOfBlocks(rel) &&
		heap_fetch(rel, snapshot, &tuple, &buffer, false))
	{
		same = HeapTupleHeaderGetRawXmin(tuple.t_data) == position->writer;
		ReleaseBuffer(buffer);
	}
	/* one transaction may have written several rows, and the table be rewritten since */
	same = same && is_in_place(rel, snapshot, position);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return same;
}

/* Set the tid to where the row is now, which nobody moves until the transaction ends. */
static void
find_row(Relation rel, Position *position)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = is_in_place(rel, snapshot, position);

	UnregisterSnapshot(snapshot);
	if (!found)
	{
		Position   *row = position_read(position->subscription);

		if (row == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("the position of subscription %d is not there any more", position->subscription)));
		position->tid = row->tid;
	}
}

void
position_update(Position *position)
{
	Relation	rel = own_open(OWN_POSITION, RowExclusiveLock);
	HeapTuple	tuple = form_row(rel, position);

	find_row(rel, position);
	dtx_simple_heap_update(rel, &position->tid, tuple);
	note_garbage(1);
	position->tid = tuple->t_self;
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

#define RATE_TIME	5000.0		/* ms over which the rate is an average */

void
position_count(Position *position, int64 messages)
{
	TimestampTz now = GetCurrentTimestamp();
	double		time = position->delivered_at == 0 ? RATE_TIME : Max(now - position->delivered_at, 0) / 1000.0;

	position->rate = position->rate * exp(-time / RATE_TIME) + messages * 1000.0 / RATE_TIME;
	position->delivered += messages;
	position->delivered_at = now;
}

static Position *
at_start(const Subscription *subscription)
{
	Position   *position = palloc0(sizeof(Position));

	position->subscription = subscription->id;
	position->generation = subscription->generation;
	position->passed = passed_from_datum(subscription->start);
	return position;
}

Position *
position_to_go_on(const Subscription *subscription, const Position *row, bool *moved)
{
	Position   *position = at_start(subscription);
	Passed	   *start = position->passed;

	*moved = true;
	if (row == NULL)
		return position;
	position->tid = row->tid;
	position->writer = row->writer;
	if (row->generation != subscription->generation)
		return position;
	*position = *row;
	position->last_error = row->last_error == NULL ? NULL : pstrdup(row->last_error);
	*moved = !passed_covers(row->passed, start);
	position->passed = passed_either(row->passed, start);
	/* what was delivered of a window that ends later was delivered */
	if (row->upto != NULL && !passed_covers(position->passed, row->upto))
		position->upto = passed_either(row->upto, position->passed);
	else
	{
		position->upto = NULL;
		position->cursor = 0;
	}
	return position;
}

static bool
is_among(int64 id, const int64 *ids, int count)
{
	int			from = 0;

	while (from < count)
	{
		int			middle = from + (count - from) / 2;

		if (ids[middle] == id)
			return true;
		if (ids[middle] < id)
			from = middle + 1;
		else
			count = middle;
	}
	return false;
}

static void
put_backlog(ReturnSetInfo *rsinfo, int id, int64 most)
{
	Subscription *subscription = NULL;
	Position   *position;
	Reader	   *reader;
	bool		moved;
	int64	   *taken = NULL;
	int			ntaken = 0;
	ListCell   *cell;
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "dtx backlog", ALLOCSET_DEFAULT_SIZES);

	foreach(cell, subscriptions_read())
		if (((Subscription *) lfirst(cell))->id == id)
			subscription = lfirst(cell);
	if (subscription == NULL || !has_privs_of_role(GetUserId(), subscription->role))
		return;
	position = position_to_go_on(subscription, position_read(id), &moved);
	/* consumers may have taken some that the position has not passed, since others are still at earlier ones */
	if (subscription->handler == NULL)
		taken = taken_ids(subscription, &ntaken);
	reader = reader_open(subscription, position, CurrentMemoryContext);
	while (most > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(batch);
		List	   *messages = reader_next(reader, (int) Min(most, 1000), 1024 * 1024);

		MemoryContextSwitchTo(old);
		foreach(cell, messages)
		{
			Message    *message = lfirst(cell);
			Datum		values[6] = {0};
			bool		nulls[6] = {0};

			if (is_among(message->id, taken, ntaken))
				continue;
			most--;
			values[0] = Int64GetDatum(message->id);
			values[1] = TimestampTzGetDatum(message->published_at);
			values[2] = CStringGetTextDatum(message->topic);
			nulls[3] = message->key == NULL;
			values[3] = PointerGetDatum(message->key);
			values[4] = PointerGetDatum(message->payload);
			nulls[5] = message->headers == NULL;
			values[5] = PointerGetDatum(message->headers);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		MemoryContextReset(batch);
		if (messages == NIL || reader_at_end(reader))
			break;
		CHECK_FOR_INTERRUPTS();
	}
	reader_close(reader);
}

/* dtx.backlog(subscription int4, most int8): what is still in the log for it */
Datum
dtx_backlog(PG_FUNCTION_ARGS)
{
	shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	/* as of the same moment as dtx.undelivered, which the query reads: what leaves the
	 * one for the other is in just one of them */
	own_use_snapshot(GetActiveSnapshot());
	PG_TRY();
	{
		put_backlog((ReturnSetInfo *) fcinfo->resultinfo, PG_GETARG_INT32(0), PG_GETARG_INT64(1));
	}
	PG_FINALLY();
	{
		own_use_snapshot(NULL);
	}
	PG_END_TRY();
	return (Datum) 0;
}
