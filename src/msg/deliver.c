/*
 * deliver.c
 *		The receiver's side: handling a batch of messages once.
 *
 * What is handled and a row of dtx.de_duplication that says so commit together. A
 * batch has a number, larger than those before it: a copy of an old one that comes
 * late does nothing. The sender says up to which batch it will never send again
 * what was in them: those rows go. "again" says that messages of the batch may
 * have come before, in batches up to that one, whose answer the sender never got:
 * only then are these rows looked at.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/leftover.h"
#include "core/locks.h"
#include "core/own_sql.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "core/subxact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/deliver.h"
#include "msg/handler.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(dtx_deliver);

typedef struct Delivery
{
	int64		subscription;
	int			generation;
	int64		batch;
	int64		forget;
	int64		again;			/* 0, or the last batch in which some of it may have come */
	int			timeout;		/* ms */
	Oid			role;			/* who delivers */
	const char *handler;
} Delivery;

/* What the rows of dtx.de_duplication say. */
typedef struct Known
{
	bool		any;
	int			generation;		/* the newest one */
	int64		batch;			/* its last batch */
	int64		forgotten;		/* what was in batches up to this is not known */
	Oid			role;
} Known;

bool
subscription_try_lock(int64 uid)
{
	return own_lock(LOCK_SUBSCRIPTION, uid, ExclusiveLock, false);
}

void
subscription_lock(int64 uid)
{
	(void) own_lock(LOCK_SUBSCRIPTION, uid, ExclusiveLock, true);
}

/* The newest row of a subscription. From the end of the index: older rows, dead
 * ones included, are not seen. */
static Known
find_newest(int64 subscription)
{
	Relation	rel = own_open(OWN_DE_DUPLICATION, AccessShareLock);
	Relation	index = index_open(own_relid(OWN_DE_DUPLICATION_PKEY), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	IndexScanDesc scan = dtx_index_beginscan(rel, index, snapshot, 1);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ScanKeyData key;
	Known		known = {0};

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(subscription));
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		isnull;

		known.any = true;
		known.generation = DatumGetInt32(slot_getattr(slot, Anum_de_duplication_generation, &isnull));
		known.batch = DatumGetInt64(slot_getattr(slot, Anum_de_duplication_batch, &isnull));
		known.forgotten = DatumGetInt64(slot_getattr(slot, Anum_de_duplication_forgotten, &isnull));
		known.role = DatumGetObjectId(slot_getattr(slot, Anum_de_duplication_role, &isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return known;
}

/* The rows of one generation, batches above `from` only. */
static void
scan_batches(OwnScan *scan, int64 subscription, int generation, int64 from, LOCKMODE lockmode)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], Anum_de_duplication_subscription, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(subscription));
	ScanKeyInit(&keys[1], Anum_de_duplication_generation, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(generation));
	ScanKeyInit(&keys[2], Anum_de_duplication_batch, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(from));
	own_scan_begin(scan, OWN_DE_DUPLICATION, OWN_DE_DUPLICATION_PKEY, lockmode, 3, keys);
}

typedef struct Identity
{
	int64		id;
	int64		published_at;
} Identity;

static int
compare_identities(const void *a, const void *b)
{
	const Identity *ia = a;
	const Identity *ib = b;

	if (ia->id != ib->id)
		return ia->id < ib->id ? -1 : 1;
	return ia->published_at < ib->published_at ? -1 : ia->published_at > ib->published_at ? 1 : 0;
}

static int64 *
int8_array(OwnScan *scan, HeapTuple tuple, int column, int *count)
{
	ArrayType  *array = DatumGetArrayTypePCopy(own_column(scan, tuple, column, NULL));

	*count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (int64 *) ARR_DATA_PTR(array);
}

/* Take the messages out of the list that were handled before. */
static List *
take_out_known(const Delivery *delivery, List *messages)
{
	Identity   *known = palloc(sizeof(Identity));
	int			nknown = 0;
	List	   *rest = NIL;
	ListCell   *cell;
	OwnScan		scan;
	HeapTuple	tuple;

	scan_batches(&scan, delivery->subscription, delivery->generation, delivery->forget, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		int64	   *ids,
				   *published;
		int			count,
					npublished;

		if (DatumGetInt64(own_column(&scan, tuple, Anum_de_duplication_batch, NULL)) > delivery->again)
			break;
		ids = int8_array(&scan, tuple, Anum_de_duplication_ids, &count);
		published = int8_array(&scan, tuple, Anum_de_duplication_published, &npublished);
		known = repalloc_huge(known, (nknown + count + 1) * sizeof(Identity));
		for (int i = 0; i < Min(count, npublished); i++)
			known[nknown++] = (Identity) {ids[i], published[i]};
	}
	own_scan_end(&scan);
	qsort(known, nknown, sizeof(Identity), compare_identities);
	foreach(cell, messages)
	{
		Message    *message = lfirst(cell);
		Identity	identity = {message->id, message->published_at};

		if (bsearch(&identity, known, nknown, sizeof(Identity), compare_identities) == NULL)
			rest = lappend(rest, message);
	}
	return rest;
}

/*
 * Rows that are not needed any more: of batches up to the one that the sender
 * names, and of former generations. Only live ones are looked at, once in a while.
 */
static void
forget(const Delivery *delivery)
{
	/* up to where this session has done it for whom: dead rows are not met again */
	static struct
	{
		int64		subscription;
		int			generation;
		int64		batch;
	}			done[32];
	int			cell = (int) ((uint64) delivery->subscription % lengthof(done));
	bool		known = done[cell].subscription == delivery->subscription &&
		done[cell].generation == delivery->generation;
	ScanKeyData keys[3];
	OwnScan		scan;
	HeapTuple	tuple;
	uint64		count = 0;

	ScanKeyInit(&keys[0], Anum_de_duplication_subscription, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(delivery->subscription));
	ScanKeyInit(&keys[1], Anum_de_duplication_generation, BTLessEqualStrategyNumber, F_INT4LE,
				Int32GetDatum(delivery->generation));
	if (known && done[cell].batch >= delivery->forget)
		return;
	if (known)
	{
		ScanKeyInit(&keys[1], Anum_de_duplication_generation, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(delivery->generation));
		ScanKeyInit(&keys[2], Anum_de_duplication_batch, BTGreaterStrategyNumber, F_INT8GT,
					Int64GetDatum(done[cell].batch));
	}
	/* should this transaction abort, some rows stay until the next session comes */
	done[cell].subscription = delivery->subscription;
	done[cell].generation = delivery->generation;
	done[cell].batch = delivery->forget;
	own_scan_begin(&scan, OWN_DE_DUPLICATION, OWN_DE_DUPLICATION_PKEY, RowExclusiveLock, known ? 3 : 2, keys);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (DatumGetInt32(own_column(&scan, tuple, Anum_de_duplication_generation, NULL)) == delivery->generation &&
			DatumGetInt64(own_column(&scan, tuple, Anum_de_duplication_batch, NULL)) > delivery->forget)
			break;
		own_delete(&scan, tuple);
		count++;
	}
	own_scan_end(&scan);
	note_garbage(count);
}

static void
remember(const Delivery *delivery, List *messages, const Handled *handled)
{
	Datum	   *ids = palloc(Max(list_length(messages), 1) * sizeof(Datum));
	Datum	   *published = palloc(Max(list_length(messages), 1) * sizeof(Datum));
	Datum		values[Natts_de_duplication] = {0};
	bool		nulls[Natts_de_duplication] = {0};
	int			nids = 0;
	int			i = 0;
	ListCell   *cell;

	foreach(cell, messages)
	{
		if (!handled[i++].done)
			continue;
		ids[nids] = Int64GetDatum(((Message *) lfirst(cell))->id);
		published[nids++] = Int64GetDatum(((Message *) lfirst(cell))->published_at);
	}
	values[Anum_de_duplication_subscription - 1] = Int64GetDatum(delivery->subscription);
	values[Anum_de_duplication_generation - 1] = Int32GetDatum(delivery->generation);
	values[Anum_de_duplication_batch - 1] = Int64GetDatum(delivery->batch);
	values[Anum_de_duplication_received_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_de_duplication_role - 1] = ObjectIdGetDatum(delivery->role);
	values[Anum_de_duplication_forgotten - 1] = Int64GetDatum(delivery->forget);
	values[Anum_de_duplication_ids - 1] =
		PointerGetDatum(construct_array(ids, nids, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[Anum_de_duplication_published - 1] =
		PointerGetDatum(construct_array(published, nids, INT8OID, 8, true, TYPALIGN_DOUBLE));
	own_insert(OWN_DE_DUPLICATION, values, nulls);
}

/* Subscriptions at a time. */
#define PRUNE_BATCH		100

/*
 * Of a subscription that was silent for long, one row without ids stays. A sender
 * that has saved its position, as it does within moments, goes on from there; one
 * that has not is refused, and not believed. That row says so whether it had ids or
 * not: what was in those before it is not known any more either. Nobody delivers
 * meanwhile: or else a batch that comes now would be compared with rows that go.
 */
bool
deliver_prune(void)
{
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(guc_history_retention), 0};
	int64		silent[PRUNE_BATCH];
	int			count;
	bool		isnull;
	OwnSql		sql;

	if (guc_history_retention < 0)
		return false;
	own_sql_begin(&sql);
	count = (int) own_sql("SELECT n.subscription FROM (SELECT DISTINCT ON (subscription) * FROM dtx.de_duplication"
						  " ORDER BY subscription, generation DESC, batch DESC) n"
						  " WHERE n.received_at < clock_timestamp() - make_interval(secs => $1)"
						  " AND (n.forgotten < n.batch OR EXISTS (SELECT FROM dtx.de_duplication d"
						  " WHERE d.subscription = n.subscription AND (d.generation, d.batch) < (n.generation, n.batch)))"
						  " LIMIT " CppAsString2(PRUNE_BATCH), 1, types, values, NULL);
	for (int i = 0; i < count; i++)
		silent[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	for (int i = 0; i < count; i++)
	{
		if (!subscription_try_lock(silent[i]))
			continue;
		values[1] = Int64GetDatum(silent[i]);
		(void) own_sql("DELETE FROM dtx.de_duplication d USING (SELECT * FROM dtx.de_duplication"
					   " WHERE subscription = $2 ORDER BY generation DESC, batch DESC LIMIT 1) n"
					   " WHERE d.subscription = $2 AND (d.generation, d.batch) < (n.generation, n.batch)"
					   " AND n.received_at < clock_timestamp() - make_interval(secs => $1)",
					   lengthof(types), types, values, NULL);
		note_garbage(SPI_processed);
		(void) own_sql("UPDATE dtx.de_duplication d SET ids = '{}', published = '{}', forgotten = d.batch"
					   " WHERE d.subscription = $2 AND d.forgotten < d.batch"
					   " AND d.received_at < clock_timestamp() - make_interval(secs => $1)"
					   " AND NOT EXISTS (SELECT FROM dtx.de_duplication n WHERE n.subscription = $2"
					   " AND (n.generation, n.batch) > (d.generation, d.batch))",
					   lengthof(types), types, values, NULL);
	}
	own_sql_end(&sql);
	return count == PRUNE_BATCH;
}

/* --- the messages --- */

static void
refuse_format(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("messages to deliver are not well-formed")));
}

static JsonbValue *
item(JsonbContainer *array, int i, enum jbvType type, bool nullable)
{
	JsonbValue *v = getIthJsonbValueFromContainer(array, i);

	if (v == NULL || (v->type != type && !(nullable && v->type == jbvNull)))
		refuse_format();
	return v;
}

static int64
integer(JsonbValue *v)
{
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(v->val.numeric)));
}

/* [id, topic, key, published_at in us, attempts, payload, headers (not there: none)] */
static Message *
parse_message(JsonbContainer *array)
{
	Message    *message = palloc0(sizeof(Message));
	JsonbValue *v;
	int64		attempts;

	message->id = integer(item(array, 0, jbvNumeric, false));
	v = item(array, 1, jbvString, false);
	message->topic = pnstrdup(v->val.string.val, v->val.string.len);
	v = item(array, 2, jbvString, true);
	if (v->type == jbvString)
		message->key = cstring_to_text_with_len(v->val.string.val, v->val.string.len);
	message->published_at = integer(item(array, 3, jbvNumeric, false));
	attempts = integer(item(array, 4, jbvNumeric, false));
	if (attempts < 0 || attempts >= INT_MAX)
		refuse_format();
	message->attempts = (int) attempts;
	v = getIthJsonbValueFromContainer(array, 5);
	if (v == NULL)
		refuse_format();
	message->payload = JsonbValueToJsonb(v);
	v = getIthJsonbValueFromContainer(array, 6);
	if (v != NULL)
		message->headers = JsonbValueToJsonb(v);
	return message;
}

List *
messages_parse(Jsonb *jsonb)
{
	List	   *messages = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb))
		refuse_format();
	it = JsonbIteratorInit(&jsonb->root);
	token = JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_ELEM)
	{
		if (v.type != jbvBinary || !JsonContainerIsArray(v.val.binary.data))
			refuse_format();
		messages = lappend(messages, parse_message(v.val.binary.data));
	}
	return messages;
}

/* --- the call --- */

typedef struct FindWork
{
	const char *name;
	Handler    *handler;
} FindWork;

static void
find_handler(void *arg)
{
	FindWork   *work = arg;

	work->handler = handler_lookup(work->name, HANDLES_MESSAGES);
}

static void
put_row(ReturnSetInfo *rsinfo, int64 id, const char *outcome, const char *state, const char *detail,
		int64 retry_after)
{
	Datum		values[5] = {0};
	bool		nulls[5] = {0};

	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(outcome);
	nulls[2] = state == NULL;
	if (state != NULL)
		values[2] = CStringGetTextDatum(state);
	nulls[3] = detail == NULL;
	if (detail != NULL)
		values[3] = CStringGetTextDatum(detail);
	values[4] = Int64GetDatum(retry_after);
	nulls[4] = retry_after < 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * dtx.deliver(subscription int8, generation int4, batch int8, forget int8, again int8,
 * ordered bool, timeout int4, handler text, messages jsonb); deliver.h has what comes back
 */
Datum
dtx_deliver(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Delivery	delivery;
	Known		known;
	List	   *messages;
	Handled    *handled;
	ListCell   *cell;
	int			i = 0;
	int			done = 0;
	int64		twice;
	bool		ordered;
	bool		timed;
	FindWork	find;
	ErrorData  *error;

	shmem_require();
	session_lend();
	InitMaterializedSRF(fcinfo, 0);
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("messages cannot be delivered inside a branch")));
	delivery.subscription = PG_GETARG_INT64(0);
	delivery.role = GetUserId();
	delivery.generation = PG_GETARG_INT32(1);
	delivery.batch = PG_GETARG_INT64(2);
	delivery.forget = PG_GETARG_INT64(3);
	delivery.again = PG_GETARG_INT64(4);
	ordered = PG_GETARG_BOOL(5);
	delivery.timeout = PG_GETARG_INT32(6);
	delivery.handler = text_to_cstring(PG_GETARG_TEXT_PP(7));

	/* a server that takes no writes for a while is no message's fault: said here, once, or
	 * each handler would fail by itself */
	if (XactReadOnly)
	{
		put_row(rsinfo, 0, DELIVER_REFUSED, unpack_sql_state(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				RecoveryInProgress() ? "the receiver is in recovery" :
				"the receiver is read only (default_transaction_read_only)", -1);
		return (Datum) 0;
	}
	participant_serve();
	if (!subscription_try_lock(delivery.subscription))
	{
		put_row(rsinfo, 0, DELIVER_BUSY, NULL, NULL, -1);
		return (Datum) 0;
	}
	/* whose it is: an error gives the lock back at once */
	known = find_newest(delivery.subscription);
	if (known.any && known.role != GetUserId() && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("messages of this subscription were delivered by role \"%s\"",
						GetUserNameFromId(known.role, true))));
	if (known.any && (delivery.generation < known.generation ||
					  (delivery.generation == known.generation && delivery.batch <= known.batch)))
	{
		put_row(rsinfo, known.batch, DELIVER_OLD, NULL, psprintf("%d", known.generation), -1);
		return (Datum) 0;
	}
	/* a sender that was replaced by a standby that lagged, or restored from a backup,
	 * sends again what nobody could tell from something new */
	if (known.any && delivery.generation == known.generation && delivery.forget < known.forgotten)
	{
		put_row(rsinfo, 0, DELIVER_REFUSED, unpack_sql_state(ERRCODE_DTX_BRANCH_STATE),
				psprintf("the sender has fallen back to batch " INT64_FORMAT ", and this receiver has forgotten up to batch "
						 INT64_FORMAT " what it has handled; dtx_seek there says from where to go on",
						 delivery.forget, known.forgotten), -1);
		return (Datum) 0;
	}
	messages = messages_parse(PG_GETARG_JSONB_P(8));
	twice = messages_twice(messages);
	if (twice != 0)
	{
		put_row(rsinfo, twice, DELIVER_REFUSED, unpack_sql_state(ERRCODE_INVALID_PARAMETER_VALUE),
				psprintf("message " INT64_FORMAT " is in the batch twice", twice), -1);
		return (Datum) 0;
	}
	if (delivery.again != 0)
		messages = take_out_known(&delivery, messages);
	message_must_be_durable();
	DTX_FAULT_POINT("deliver-before-handling");
	if (delivery.handler[0] == '\0')
	{
		/* only what became of them is asked: batches before this one cannot change that */
		handled = palloc0(sizeof(Handled));
		remember(&delivery, NIL, handled);
		foreach(cell, messages)
			put_row(rsinfo, ((Message *) lfirst(cell))->id, DELIVER_FAILED, unpack_sql_state(ERRCODE_CONNECTION_FAILURE),
					"the connection was lost whenever it was handled", -1);
		put_row(rsinfo, delivery.batch, DELIVER_DELIVERED, NULL, NULL, -1);
		return (Datum) 0;
	}
	find.name = delivery.handler;
	error = subxact_run(find_handler, &find);
	if (error != NULL)
	{
		put_row(rsinfo, 0, DELIVER_REFUSED, unpack_sql_state(error->sqlerrcode), error->message, -1);
		return (Datum) 0;
	}
	timed = handling_limit(delivery.timeout);
	handling_watch_sender();
	handled = handle_messages(find.handler, messages, ordered);
	if (timed)
		disable_timeout(STATEMENT_TIMEOUT, false);
	DTX_FAULT_POINT("deliver-after-handling");
	forget(&delivery);
	remember(&delivery, messages, handled);
	foreach(cell, messages)
	{
		Handled    *h = &handled[i++];
		int64		id = ((Message *) lfirst(cell))->id;

		done += h->done;
		if (h->skipped)
			put_row(rsinfo, id, DELIVER_SKIPPED, NULL, NULL, -1);
		else if (!h->done)
			put_row(rsinfo, id, DELIVER_FAILED, h->state, h->message, h->retry_after);
	}
	put_row(rsinfo, delivery.batch, DELIVER_DELIVERED, NULL, NULL, -1);
	stat_add(STAT_MESSAGES_HANDLED, done);
	return (Datum) 0;
}
