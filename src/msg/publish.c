/*
 * publish.c
 *		Writing messages.
 *
 * A message is a row that the caller's transaction inserts: it exists exactly if
 * that commits. The row goes in without SQL: beside the row itself and one index
 * entry a message costs the next number of a sequence.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "core/compat.h"
#include "core/global.h"
#include "core/override.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/settle.h"
#include "fmgr.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "msg/message.h"
#include "msg/receivers.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_publish);
PG_FUNCTION_INFO_V1(dtx_topic_matches);

#define MAX_TOPIC	255
#define MAX_KEY		2000		/* of dtx.undelivered an index is on it */

/* messages that this transaction has appended, those rolled back to a savepoint
 * included; and whether one of them makes it commit synchronously */
static uint64 appended = 0;
static bool must_be_durable = false;
static bool changed = false;	/* beside that: the worker has to look at the time again */
static uint64 notified = 0;		/* the buckets of targets that it notifies: a bit each */

void
topic_check(const char *topic, bool pattern)
{
	size_t		length = strlen(topic);
	bool		valid = length > 0 && length <= MAX_TOPIC && topic[0] != '.' && topic[length - 1] != '.';

	for (const char *p = topic; *p && valid; p++)
		valid = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
			*p == '_' || *p == '-' || (*p == '.' && p[1] != '.') || (*p == '*' && pattern);
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a topic", topic),
				 errdetail("It has letters, digits, _ and -, in parts that dots separate, and at most %d characters.%s",
						   MAX_TOPIC, pattern ? " In a pattern * stands for any text." : "")));
}

void
topic_check_foreign(const char *topic)
{
	if (strncmp(topic, OWN_TOPIC, strlen(OWN_TOPIC)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("topic \"%s\" is reserved", topic),
				 errdetail("Topics that begin with \"%s\" are those of dtx itself.", OWN_TOPIC)));
}

bool
topic_matches(const char *pattern, const char *topic)
{
	const char *star = NULL;
	const char *resume = NULL;

	/* what is dtx's own is nobody else's */
	if (strncmp(topic, OWN_TOPIC, strlen(OWN_TOPIC)) == 0 && strncmp(pattern, OWN_TOPIC, strlen(OWN_TOPIC)) != 0)
		return false;
	while (*topic)
	{
		if (*pattern == '*')
		{
			star = pattern++;
			resume = topic;
		}
		else if (*pattern == *topic)
		{
			pattern++;
			topic++;
		}
		else if (star != NULL)
		{
			pattern = star + 1;
			topic = ++resume;
		}
		else
			return false;
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

/* dtx.topic_matches(pattern text, topic text) */
Datum
dtx_topic_matches(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(topic_matches(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/*
 * By how much a value grows when it is written as text, as it is on its way to a
 * peer: a number of a few bytes may have a hundred thousand digits.
 */
static Size
text_growth(Jsonb *jsonb)
{
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	Size		growth = 0;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		char	   *digits;

		if ((token != WJB_VALUE && token != WJB_ELEM) || v.type != jbvNumeric ||
			growth > (Size) guc_max_message_size * 1024)
			continue;
		digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)));
		if (strlen(digits) > 2 * VARSIZE_ANY(v.val.numeric))
			growth += strlen(digits);
		pfree(digits);
	}
	return growth;
}

void
message_check_size(const Message *message)
{
	Size		size = VARSIZE_ANY(message->payload) + strlen(message->topic) + text_growth(message->payload);

	if (message->key != NULL && VARSIZE_ANY_EXHDR(message->key) > MAX_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("key of a message is too long"),
				 errdetail("It has %zu bytes, and may have %d.", (Size) VARSIZE_ANY_EXHDR(message->key), MAX_KEY),
				 errhint("Keys only tell which messages belong together: a digest of it serves as well.")));
	if (message->key != NULL)
		size += VARSIZE_ANY_EXHDR(message->key);
	if (message->headers != NULL)
		size += VARSIZE_ANY(message->headers) + text_growth(message->headers);
	if (size > (Size) guc_max_message_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message is larger than dtx.max_message_size"),
				 errdetail("It has %zu bytes, with topic, key and headers, and may have %zu.",
						   size, (Size) guc_max_message_size * 1024)));
}

static void
set_text(Datum *value, bool *isnull, text *t)
{
	*isnull = t == NULL;
	*value = PointerGetDatum(t);
}

static void
set_jsonb(Datum *value, bool *isnull, Jsonb *j)
{
	*isnull = j == NULL;
	*value = PointerGetDatum(j);
}

void
message_append(const Message *message)
{
	static IndexInfo info = {.type = T_IndexInfo};	/* B-trees do not look at it */
	Datum		values[Natts_message];
	bool		nulls[Natts_message] = {0};
	Datum		key;
	bool		key_null = false;
	Oid			relid,
				indexid;
	Relation	rel;
	List	   *indexes;
	ListCell   *cell;
	HeapTuple	tuple;

	/* the transaction has its id before it looks which segment is the last one:
	 * so a segment that is closed has the rows of older transactions only */
	key = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	segment_current(&relid, &indexid);
	values[Anum_message_id - 1] = Int64GetDatum(message->id);
	values[Anum_message_xid - 1] = key;
	values[Anum_message_published_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_message_topic - 1] = CStringGetTextDatum(message->topic);
	set_text(&values[Anum_message_key - 1], &nulls[Anum_message_key - 1], message->key);
	set_jsonb(&values[Anum_message_payload - 1], &nulls[Anum_message_payload - 1], message->payload);
	set_jsonb(&values[Anum_message_headers - 1], &nulls[Anum_message_headers - 1], message->headers);

	rel = table_open(relid, RowExclusiveLock);
	own_check_segment(rel);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);
	indexes = RelationGetIndexList(rel);
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), RowExclusiveLock);

		/* there are two while REINDEX CONCURRENTLY builds one anew */
		if (index->rd_index->indisready && segment_index_fits(index))
			(void) index_insert(index, &key, &key_null, &tuple->t_self, rel, UNIQUE_CHECK_NO, false, &info);
		index_close(index, NoLock);
	}
	list_free(indexes);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
	appended++;
	must_be_durable = true;
	receivers_note_topic(message->topic);
}

static void
hold_message(const Message *message, int64 branch, TimestampTz deliver_at)
{
	Datum		values[Natts_held_message] = {0};
	bool		nulls[Natts_held_message] = {0};

	values[Anum_held_message_branch - 1] = Int64GetDatum(branch);
	values[Anum_held_message_id - 1] = Int64GetDatum(message->id);
	values[Anum_held_message_deliver_at - 1] = TimestampTzGetDatum(deliver_at);
	nulls[Anum_held_message_deliver_at - 1] = deliver_at == 0;
	values[Anum_held_message_topic - 1] = CStringGetTextDatum(message->topic);
	set_text(&values[Anum_held_message_key - 1], &nulls[Anum_held_message_key - 1], message->key);
	set_jsonb(&values[Anum_held_message_payload - 1], &nulls[Anum_held_message_payload - 1], message->payload);
	set_jsonb(&values[Anum_held_message_headers - 1], &nulls[Anum_held_message_headers - 1], message->headers);
	own_insert(OWN_HELD_MESSAGE, values, nulls);
}

static void
delay_message(const Message *message, TimestampTz deliver_at)
{
	Datum		values[Natts_delayed_message] = {0};
	bool		nulls[Natts_delayed_message] = {0};

	values[Anum_delayed_message_deliver_at - 1] = TimestampTzGetDatum(deliver_at);
	values[Anum_delayed_message_id - 1] = Int64GetDatum(message->id);
	values[Anum_delayed_message_topic - 1] = CStringGetTextDatum(message->topic);
	set_text(&values[Anum_delayed_message_key - 1], &nulls[Anum_delayed_message_key - 1], message->key);
	set_jsonb(&values[Anum_delayed_message_payload - 1], &nulls[Anum_delayed_message_payload - 1], message->payload);
	set_jsonb(&values[Anum_delayed_message_headers - 1], &nulls[Anum_delayed_message_headers - 1], message->headers);
	own_insert(OWN_DELAYED_MESSAGE, values, nulls);
	changed = true;
}

/* Into the log, or where it waits for its time. */
static void
enter(const Message *message, TimestampTz deliver_at)
{
	if (deliver_at != 0 && deliver_at > GetCurrentTimestamp())
	{
		delay_message(message, deliver_at);
		must_be_durable = true;
	}
	else
		message_append(message);
}

int64
message_publish(Message *message, TimestampTz deliver_at)
{
	shmem_require();
	PreventCommandIfReadOnly("dtx_publish()");
	PreventCommandDuringRecovery("dtx_publish()");
	topic_check(message->topic, false);
	message_check_size(message);
	if (message->id == 0)
		message->id = nextval_internal(own_relid(OWN_MESSAGE_ID), false);
	/* a branch that is prepared holds its rows back by itself */
	if (current_branch.active && !current_branch.mode->settle_held)
		hold_message(message, current_branch.key, deliver_at);
	else
		enter(message, deliver_at);
	return message->id;
}

/* dtx_publish(topic text, payload jsonb, key text, headers jsonb, deliver_at timestamptz) */
Datum
dtx_publish(PG_FUNCTION_ARGS)
{
	Message		message = {0};
	TimestampTz deliver_at = 0;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic and payload of a message must not be null")));
	message.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	topic_check_foreign(message.topic);
	message.payload = PG_GETARG_JSONB_P(1);
	message.key = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2);
	message.headers = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	if (!PG_ARGISNULL(4))
	{
		deliver_at = PG_GETARG_TIMESTAMPTZ(4);
		if (TIMESTAMP_IS_NOEND(deliver_at))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a message cannot be delivered at infinity")));
	}
	PG_RETURN_INT64(message_publish(&message, deliver_at));
}

/* A branch is settled: what it had published goes out, or never was. */
static void
settle_held_messages(const JoinedBranch *branch, bool commit)
{
	OwnScan		scan;
	HeapTuple	tuple;
	Relation	rel = own_open(OWN_HELD_MESSAGE, AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	/* what it published was in its prepared transaction, which is committed by now */
	if (commit && mode_by_letter(branch->mode)->settle_held)
		message_committed_elsewhere();
	if (empty)
		return;
	own_scan_int8(&scan, OWN_HELD_MESSAGE, OWN_HELD_MESSAGE_BRANCH_IDX, RowExclusiveLock, branch->key);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Message		message = {0};
		bool		isnull;
		Datum		value;
		TimestampTz deliver_at;

		if (commit)
		{
			message.id = DatumGetInt64(own_column(&scan, tuple, Anum_held_message_id, NULL));
			message.topic = TextDatumGetCString(own_column(&scan, tuple, Anum_held_message_topic, NULL));
			value = own_column(&scan, tuple, Anum_held_message_key, &isnull);
			message.key = isnull ? NULL : DatumGetTextPP(value);
			message.payload = DatumGetJsonbP(own_column(&scan, tuple, Anum_held_message_payload, NULL));
			value = own_column(&scan, tuple, Anum_held_message_headers, &isnull);
			message.headers = isnull ? NULL : DatumGetJsonbP(value);
			value = own_column(&scan, tuple, Anum_held_message_deliver_at, &isnull);
			deliver_at = isnull ? 0 : DatumGetTimestampTz(value);
			enter(&message, deliver_at);
		}
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
}

void
message_pre_commit(void)
{
	/* whatever its setting says: once the message is out there is no way back */
	if (must_be_durable && synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		setting_local("synchronous_commit", "on");
}

void
message_must_be_durable(void)
{
	must_be_durable = true;
}

void
message_changed(void)
{
	changed = true;
}

void
message_notifies(uint32 bucket)
{
	StaticAssertStmt(DTX_TARGET_BUCKETS == 64, "a bit for each bucket");
	notified |= UINT64CONST(1) << (bucket % DTX_TARGET_BUCKETS);
	must_be_durable = true;
}

/* So many messages without a listener until the worker looks after the segments. */
#define UNHEARD		10000

/* There are more messages in the log. */
static void
tell_published(DatabaseSlot *slot, uint64 count)
{
	uint64		former = pg_atomic_fetch_add_u64(&slot->published, count);

	if (pg_atomic_read_u32(&slot->listening) != 0 || former / UNHEARD != (former + count) / UNHEARD)
		worker_wake(slot);
}

void
message_committed_elsewhere(void)
{
	DatabaseSlot *slot = my_database_slot();

	if (slot != NULL)
		tell_published(slot, 1);
	receivers_tell_all();
}

static void
tell_notified(DatabaseSlot *slot)
{
	for (int i = 0; i < DTX_TARGET_BUCKETS; i++)
		if (notified & (UINT64CONST(1) << i))
			pg_atomic_fetch_add_u32(&slot->notified[i], 1);
	worker_wake(slot);
}

void
message_xact_end(XactEvent event)
{
	DatabaseSlot *slot;

	if (notified != 0 && event == XACT_EVENT_COMMIT && (slot = my_database_slot()) != NULL)
		tell_notified(slot);

	if ((appended > 0 || changed) && event == XACT_EVENT_COMMIT && (slot = my_database_slot()) != NULL)
	{
		if (appended > 0)
		{
			stat_add(STAT_MESSAGES_PUBLISHED, appended);
			tell_published(slot, appended);
		}
		if (changed)
		{
			pg_atomic_fetch_add_u64(&slot->timed, 1);
			worker_wake(slot);
		}
	}
	if ((appended > 0 || notified != 0) && event == XACT_EVENT_PREPARE && (slot = my_database_slot()) != NULL)
	{
		/* who commits it tells nobody: the worker keeps looking */
		pg_atomic_write_u32(&slot->prepared, 1);
		worker_wake(slot);
	}
	receivers_xact_end(event);
	appended = notified = 0;
	must_be_durable = changed = false;
}

#define RELEASE_BATCH	1000	/* messages in one transaction */

/* Move what is due by now. Returns when the next one is; 0: none. In a transaction. */
static TimestampTz
release_some(TimestampTz now)
{
	OwnScan		scan;
	HeapTuple	tuple;
	ScanKeyData all;
	int			count = 0;
	TimestampTz next = 0;

	ScanKeyInit(&all, Anum_delayed_message_deliver_at, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(DT_NOBEGIN));
	own_scan_begin(&scan, OWN_DELAYED_MESSAGE, OWN_DELAYED_MESSAGE_DELIVER_AT_IDX, RowExclusiveLock, 1, &all);
	while (next == 0 && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Message		message = {0};
		TimestampTz deliver_at = DatumGetTimestampTz(own_column(&scan, tuple, Anum_delayed_message_deliver_at, NULL));
		Datum		value;
		bool		isnull;

		if (deliver_at > now || count == RELEASE_BATCH)
		{
			next = deliver_at;
			break;
		}
		message.id = DatumGetInt64(own_column(&scan, tuple, Anum_delayed_message_id, NULL));
		message.topic = TextDatumGetCString(own_column(&scan, tuple, Anum_delayed_message_topic, NULL));
		value = own_column(&scan, tuple, Anum_delayed_message_key, &isnull);
		message.key = isnull ? NULL : DatumGetTextPP(value);
		message.payload = DatumGetJsonbP(own_column(&scan, tuple, Anum_delayed_message_payload, NULL));
		value = own_column(&scan, tuple, Anum_delayed_message_headers, &isnull);
		message.headers = isnull ? NULL : DatumGetJsonbP(value);
		message_append(&message);
		own_delete(&scan, tuple);
		count++;
	}
	own_scan_end(&scan);
	note_garbage(count);
	return next;
}

TimestampTz
message_release_delayed(void)
{
	/* a due row that is not dead for index scans makes them slow: few at a time,
	 * and vacuumed when there were many */
	return release_some(GetCurrentTimestamp());
}

void
msg_register(void)
{
	settle_listen(settle_held_messages);
}
