/*
 * outcome.c
 *		Items: branches of this node whose decision is made, until they are
 *		settled and history.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "core/branch_row.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/history.h"
#include "core/node.h"
#include "core/relations.h"
#include "core/resolve.h"
#include "core/settle.h"
#include "core/shared.h"
#include "core/tombstone.h"
#include "guc.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

/* Branches of unreachable peers wait in dtx.branch, not all in memory. */
#define MAX_ITEMS			50000
#define PRUNE_INTERVAL		60000	/* ms */

static TimestampTz next_prune = 0;

static void note_removal(Channel *channel, uint64 n);

void
item_add(const Outcome *outcome, const char *gid_text)
{
	ItemKey		key = {outcome->n, outcome->r, outcome->b};
	SettleItem *	item;
	Channel    *channel;
	Gid			gid;
	bool		known;

	if (!gid_parse(gid_text, &gid))
		return;
	item = hash_search(worker.items, &key, HASH_ENTER, &known);
	if (known)
	{
		item->has_row |= outcome->has_row;
		item->shared |= outcome->shared;
		return;
	}
	item->shared = outcome->shared;
	item->commit = outcome->commit;
	item->by_savepoint = outcome->by_savepoint;
	item->mode = outcome->mode;
	item->server = outcome->server;
	item->role = outcome->role;
	item->decided_at = outcome->decided_at;
	item->attempts = 0;
	item->busy = 0;
	item->next_attempt = 0;
	item->has_row = outcome->has_row;
	item->heuristic = false;
	item->gid = MemoryContextStrdup(worker.context, gid_text);
	item->nested = gid.depth > 1;
	item->state = ITEM_QUEUED;
	channel = channel_get(item->server, item->role);
	dlist_push_tail(&channel->queue, &item->link);
	channel->nqueued++;
	worker.last_work = GetCurrentTimestamp();
}

void
item_requeue(Channel *channel, SettleItem *item, long delay)
{
	dlist_delete(&item->link);
	item->state = ITEM_QUEUED;
	item->next_attempt = delay == 0 ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay);
	dlist_push_tail(&channel->queue, &item->link);
	channel->nqueued++;
}

/* The visible row of a branch in an open scan of dtx.branch by n, or NULL. */
static HeapTuple
find_row(OwnScan *scan, const char *gid_text)
{
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = own_scan_next(scan)))
	{
		text	   *gid = DatumGetTextPP(own_column(scan, tuple, Anum_branch_gid, NULL));

		if (VARSIZE_ANY_EXHDR(gid) == strlen(gid_text) &&
			memcmp(VARDATA_ANY(gid), gid_text, strlen(gid_text)) == 0)
			return tuple;
	}
	return NULL;
}

static void
forget_item(SettleItem *item)
{
	if (!item->commit)
	{
		open_rollback_remove(worker.slot, item->key.n, item->key.r, (uint32) item->key.b);
		if (item->nested)
			nested_rollback_remove(worker.slot, item->key.n, item->key.r, (uint32) item->key.b);
	}
	pfree(item->gid);
	(void) hash_search(worker.items, &item->key, HASH_REMOVE, NULL);
}

void
item_drop(SettleItem *item)
{
	dlist_delete(&item->link);
	forget_item(item);
}

bool
item_record_failure(SettleItem *item, const char *message)
{
	Datum		values[Natts_branch] = {0};
	bool		nulls[Natts_branch] = {0};
	bool		replace[Natts_branch] = {0};
	OwnScan		scan;
	HeapTuple	tuple;

	item->attempts++;
	stat_add(STAT_SETTLE_RETRIES, 1);
	if (!item->commit && !item->has_row)
		return true;			/* a rollback has no row here; the participant keeps its own */
	values[Anum_branch_attempts - 1] = Int32GetDatum(item->attempts);
	replace[Anum_branch_attempts - 1] = true;
	values[Anum_branch_last_error - 1] = CStringGetTextDatum(message);
	replace[Anum_branch_last_error - 1] = true;
	values[Anum_branch_next_attempt - 1] =
		TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(item->attempts)));
	replace[Anum_branch_next_attempt - 1] = true;
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, RowExclusiveLock, (int64) item->key.n);
	tuple = find_row(&scan, item->gid);
	if (HeapTupleIsValid(tuple))
		own_update(&scan, tuple, values, nulls, replace);
	own_scan_end(&scan);
	return HeapTupleIsValid(tuple);
}

void
item_failed(Channel *channel, SettleItem *item, const char *message)
{
	if (item_record_failure(item, message))
		item_requeue(channel, item, backoff_delay(item->attempts));
	else
		item_drop(item);
}

/* Another channel as the same role to the same node, the next one after this; NULL: none.
 * *count: how many there are, this one included. */
static Channel *
next_to_node(const Channel *channel, int *count)
{
	Channel    *first = NULL;
	Channel    *next = NULL;
	bool		passed = false;
	dlist_iter	iter;

	*count = 1;
	dlist_foreach(iter, &worker.channels)
	{
		Channel    *other = dlist_container(Channel, link, iter.cur);

		if (other == channel)
		{
			passed = true;
			continue;
		}
		if (other->role != channel->role || other->gone || channel->node[0] == '\0' ||
			strcmp(other->node, channel->node) != 0)
			continue;
		(*count)++;
		if (first == NULL)
			first = other;
		if (passed && next == NULL)
			next = other;
	}
	return next != NULL ? next : first;
}

/*
 * Is the server there, and will it be until this transaction has committed? Who drops it
 * waits for that, and finds the row that needs it. False also while somebody drops it: the
 * worker waits for nobody.
 */
static bool
server_stays(Oid server)
{
	return dtx_conditional_lock_object(ForeignServerRelationId, server, AccessShareLock) &&
		SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(server));
}

void
item_denied(Channel *channel, SettleItem *item, const char *message)
{
	int			count = 1;
	Channel    *other = item->shared ? next_to_node(channel, &count) : NULL;
	Datum		values[Natts_branch] = {0};
	bool		nulls[Natts_branch] = {0};
	bool		replace[Natts_branch] = {0};
	OwnScan		scan;
	HeapTuple	tuple;

	if (other == NULL || !server_stays(other->server))
	{
		item_failed(channel, item, message);
		return;
	}
	if (!item_record_failure(item, message))
	{
		item_drop(item);
		return;
	}
	/* who drops that server is told what depends on it */
	CommandCounterIncrement();
	values[Anum_branch_server - 1] = ObjectIdGetDatum(other->server);
	replace[Anum_branch_server - 1] = true;
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, RowExclusiveLock, (int64) item->key.n);
	if (HeapTupleIsValid(tuple = find_row(&scan, item->gid)))
		own_update(&scan, tuple, values, nulls, replace);
	own_scan_end(&scan);
	item->server = other->server;
	/* each of them at once, before any is asked again: an answer may be for a mapping that
	 * has changed meanwhile */
	item_requeue(other, item, item->attempts % count != 0 ? 0 : backoff_delay(item->attempts / count));
}

/* Queue what a row of dtx.branch says, if it is decided. */
static void
read_row(OwnScan *scan, HeapTuple tuple)
{
	Outcome		outcome = {0};
	char	   *gid_text = TextDatumGetCString(own_column(scan, tuple, Anum_branch_gid, NULL));
	Gid			gid;

	if (!gid_parse(gid_text, &gid))
		return;
	switch (branch_row_decision(scan, tuple))
	{
		case 'c':
			outcome.commit = true;
			break;
		case 'r':
			break;
		default:
			return;
	}
	outcome.n = (uint64) DatumGetInt64(own_column(scan, tuple, Anum_branch_n, NULL));
	outcome.has_row = true;
	outcome.shared = DatumGetChar(own_column(scan, tuple, Anum_branch_state, NULL)) == 's';
	outcome.r = gid.xid.r;
	outcome.b = gid.b;
	outcome.mode = DatumGetChar(own_column(scan, tuple, Anum_branch_mode, NULL));
	outcome.server = DatumGetObjectId(own_column(scan, tuple, Anum_branch_server, NULL));
	outcome.role = DatumGetObjectId(own_column(scan, tuple, Anum_branch_role, NULL));
	/* visible here does not mean replicated: wait for all that there is */
	outcome.decided_at = GetXLogInsertRecPtr();
	/* what is in this very database is settled without a channel */
	if (!OidIsValid(outcome.server))
		worker.shared_due = true;
	else if (hash_get_num_entries(worker.items) < MAX_ITEMS)
		item_add(&outcome, gid_text);
	else
	{
		/* the rest when some of these are done */
		Channel    *channel = channel_get(outcome.server, outcome.role);

		worker.more_rows = true;
		channel->unread_n = channel->unread_n == 0 ? outcome.n : Min(channel->unread_n, outcome.n);
	}
}

static void
read_rows(uint64 n)
{
	OwnScan		scan;
	HeapTuple	tuple;

	worker_begin();
	own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, AccessShareLock, (int64) n);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		read_row(&scan, tuple);
	own_scan_end(&scan);
	worker_commit(false);
}

/* dtx_retry: what waits for its next attempt is due now. */
static void
serve_retries(void)
{
	RetryRequest retries[DTX_RETRY_REQUESTS];
	int			n;
	HASH_SEQ_STATUS status;
	SettleItem *item;

	SpinLockAcquire(&worker.slot->mutex);
	n = worker.slot->nretries;
	memcpy(retries, worker.slot->retries, sizeof(retries));
	worker.slot->nretries = 0;
	SpinLockRelease(&worker.slot->mutex);
	if (n == 0)
		return;
	worker_begin();
	hash_seq_init(&status, worker.items);
	while ((item = hash_seq_search(&status)) != NULL)
	{
		bool		wanted = false;
		Channel    *channel = channel_get(item->server, item->role);

		/* a superuser has everybody's privileges */
		for (int i = 0; i < n && !wanted; i++)
			wanted = (retries[i].r == 0 || retries[i].r == item->key.r) &&
				has_privs_of_role(retries[i].role, item->role);
		if (!wanted)
			continue;
		item->next_attempt = 0;
		channel->not_before = channel->settle_due = 0;
	}
	worker_commit(false);
}

void
outcomes_rescan(void)
{
	OwnScan		scan;
	HeapTuple	tuple;
	dlist_iter	iter;

	worker.more_rows = false;
	dlist_foreach(iter, &worker.channels)
		dlist_container(Channel, link, iter.cur)->unread_n = 0;
	worker_begin();
	own_scan_all(&scan, OWN_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		read_row(&scan, tuple);
	own_scan_end(&scan);
	worker_commit(false);
}

/* The peer may have branches of this node that nobody here has a row of. */
static void
ask_again(Channel *channel)
{
	channel->asked_at = 0;
	channel->recovered = false;
	worker.slot->recovered = false;
}

static void
take_nested_rollbacks(void)
{
	NestedRollback rollback;
	char		gid_text[DTX_GID_SIZE];

	while (nested_rollback_take(worker.slot, &rollback))
	{
		gid_of_child(rollback.parent, rollback.outcome.b, gid_text);
		item_add(&rollback.outcome, gid_text);
	}
}

static void
take_outcome(const Outcome *outcome, const char *self)
{
	char		xid_text[DTX_GID_SIZE];
	char		gid_text[DTX_GID_SIZE];
	GlobalXid	xid;
	dlist_iter	iter;

	switch (outcome->kind)
	{
		case OUTCOME_BRANCH:
			strlcpy(xid.node, self, sizeof(xid.node));
			xid.n = outcome->n;
			xid.r = outcome->r;
			xid_format(&xid, xid_text);
			gid_of_child(xid_text, outcome->b, gid_text);
			item_add(outcome, gid_text);
			break;
		case OUTCOME_ROWS:
			read_rows(outcome->n);
			worker.shared_due = true;
			break;
		case OUTCOME_NESTED:
			take_nested_rollbacks();
			break;
		case OUTCOME_SUBSCRIPTIONS:
			dispatch_reload();
			break;
		case OUTCOME_ASK:
			if (OidIsValid(outcome->server))
				ask_again(channel_get(outcome->server, outcome->role));
			else
				dlist_foreach(iter, &worker.channels)
					ask_again(dlist_container(Channel, link, iter.cur));
			break;
	}
}

void
outcomes_drain(void)
{
	Outcome		outcomes[64];
	int			n;
	char		self[DTX_NODE_SIZE] = "";
	bool		rescan,
				ask;

	while ((n = outcome_pop(worker.slot, outcomes, lengthof(outcomes))) > 0)
	{
		worker.last_outcome = GetCurrentTimestamp();
		if (self[0] == '\0')
		{
			worker_begin();
			strlcpy(self, node_self(), sizeof(self));
			worker_commit(false);
		}
		for (int i = 0; i < n; i++)
			take_outcome(&outcomes[i], self);
	}

	serve_retries();
	SpinLockAcquire(&worker.slot->mutex);
	rescan = worker.slot->rescan;
	ask = worker.slot->ask_peers;
	worker.slot->rescan = worker.slot->ask_peers = false;
	SpinLockRelease(&worker.slot->mutex);
	if (ask || rescan)
		dispatch_reload();
	if (ask)
	{
		dlist_iter	iter;

		take_nested_rollbacks();
		dlist_foreach(iter, &worker.channels)
			ask_again(dlist_container(Channel, link, iter.cur));
	}
	if (rescan || (worker.more_rows && hash_get_num_entries(worker.items) < MAX_ITEMS / 2))
		outcomes_rescan();
}

/* As dtx.history has it. */
static char
item_decision(const SettleItem *item)
{
	if (item->heuristic)
		return item->commit ? 'H' : 'h';
	return item->commit ? 'c' : item->by_savepoint ? 's' : 'r';
}

/* The id of this node under which the item's n was handed out. */
static const char *
item_node(const SettleItem *item, char *buffer)
{
	Gid			gid;

	if (item->nested)
		return node_self();
	(void) gid_parse(item->gid, &gid);
	strlcpy(buffer, gid.xid.node, DTX_NODE_SIZE);
	return buffer;
}

/* May the two share a row of dtx.history? */
static bool
items_alike(const SettleItem *a, const SettleItem *b)
{
	char		one[DTX_GID_SIZE],
				other[DTX_GID_SIZE];

	return item_decision(a) == item_decision(b) && a->nested == b->nested &&
		strcmp(item_node(a, one), item_node(b, other)) == 0;
}

/* Delete the rows of the items, and collect them into rows of dtx.history. */
static void
finish_some(SettleItem **items, int count, char decision)
{
	HistoryEntry *entries = palloc0(count * sizeof(HistoryEntry));
	char		buffer[DTX_GID_SIZE];

	for (int i = 0; i < count; i++)
	{
		SettleItem *item = items[i];

		if (item->commit || item->has_row)
		{
			OwnScan		scan;
			HeapTuple	tuple;

			own_scan_int8(&scan, OWN_BRANCH, OWN_BRANCH_N_IDX, RowExclusiveLock, (int64) item->key.n);
			tuple = find_row(&scan, item->gid);
			if (HeapTupleIsValid(tuple))
				own_delete(&scan, tuple);
			own_scan_end(&scan);
		}
		entries[i].n = item->key.n;
		entries[i].r = item->key.r;
		entries[i].b = (uint32) item->key.b;
		entries[i].server = item->server;
		entries[i].role = item->role;
		entries[i].mode = item->mode;
		if (item->nested)
		{
			gid_parent(item->gid, buffer);
			entries[i].parent = pstrdup(buffer);
		}
	}
	history_insert(item_node(items[0], buffer), decision, entries, count);
}

void
outcomes_finish(void)
{
	SettleItem	  **items;
	int			count = 0;
	dlist_mutable_iter iter;

	if (worker.nconfirmed == 0)
		return;
	DTX_FAULT_POINT("worker-before-finish");
	worker_begin();
	items = palloc(worker.nconfirmed * sizeof(SettleItem *));
	/* one row for each (node, decision) that there is among them */
	for (bool more = true; more;)
	{
		more = false;
		count = 0;
		dlist_foreach_modify(iter, &worker.confirmed)
		{
			SettleItem *	item = dlist_container(SettleItem, link, iter.cur);

			if (item->answer == PG_UINT64_MAX)
				continue;		/* in a row already */
			if (count > 0 && !items_alike(item, items[0]))
			{
				more = true;
				continue;
			}
			items[count++] = item;
		}
		if (count == 0)
			break;
		finish_some(items, count, item_decision(items[0]));
		for (int i = 0; i < count; i++)
			items[i]->answer = PG_UINT64_MAX;
	}
	/*
	 * No need to wait for the flush: the participants have it durably, and a
	 * row that comes back in a crash is settled once more.
	 */
	worker_commit(false);
	pg_atomic_fetch_add_u64(&worker.slot->garbage, worker.nconfirmed);
	DTX_FAULT_POINT("worker-after-finish");

	dlist_foreach_modify(iter, &worker.confirmed)
	{
		SettleItem *	item = dlist_container(SettleItem, link, iter.cur);

		dlist_delete(&item->link);
		note_removal(channel_get(item->server, item->role), item->key.n);
		worker.shared_due |= item->shared;
		forget_item(item);
	}
	worker.nconfirmed = 0;
	worker.last_work = GetCurrentTimestamp();
	if (hash_get_num_entries(worker.items) == 0 && worker.slot->recovered)
	{
		/* rollbacks that found no place in the list are settled too */
		SpinLockAcquire(&worker.slot->mutex);
		if (worker.slot->head == worker.slot->tail && !worker.slot->ask_peers)
			worker.slot->open_overflow = false;
		SpinLockRelease(&worker.slot->mutex);
	}
	ConditionVariableBroadcast(&worker.slot->changed);
}

void
outcomes_advance_horizon(void)
{
	/* in this order: next is not before oldest */
	TransactionId oldest = dtx_oldest_active_transaction();
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		least;

	outcomes_drain();
	least = U64FromFullTransactionId(next) -
		(uint32) (XidFromFullTransactionId(next) - oldest);
	/* a shared transaction goes on when the one that opened it is over; what has
	 * ended by that look is visible to the snapshot of this one */
	worker_begin();
	worker.ended_below = shared_least_n(least);
	worker_commit(false);
}

void
outcomes_end_shared(void)
{
	uint64		least;
	List	   *roles = NIL;
	ListCell   *cell;

	worker.shared_due = false;
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	worker.nshared = shared_housekeeping(&least, &roles);
	worker_commit(true);
	/* who finds no place is woken the next time */
	foreach(cell, roles)
		(void) runner_wake(lfirst_oid(cell));
	if (worker.nshared > 0)
		worker.last_work = GetCurrentTimestamp();
	ConditionVariableBroadcast(&worker.slot->changed);
}

/* Might the two channels lead to the same node? */
static bool
may_share_node(const Channel *a, const Channel *b)
{
	return a->server == b->server || a->node[0] == '\0' || b->node[0] == '\0' ||
		strcmp(a->node, b->node) == 0;
}

/* The least N that may be asked again through this channel; 0: not known. */
static uint64
least_open(Channel *channel, uint64 least)
{
	dlist_head *lists[] = {&channel->queue, &channel->called, &channel->answered};
	dlist_iter	iter;

	if (!channel->recovered)
		return 0;
	while (channel->removed_n[0] != 0 && durable_position() >= channel->removed_lsn[0])
	{
		channel->removed_n[0] = channel->removed_n[1];
		channel->removed_lsn[0] = channel->removed_lsn[1];
		channel->removed_n[1] = 0;
	}
	for (int i = 0; i < 2; i++)
		if (channel->removed_n[i] != 0)
			least = Min(least, channel->removed_n[i]);
	if (channel->unread_n != 0)
		least = Min(least, channel->unread_n);
	for (int i = 0; i < lengthof(lists); i++)
		dlist_foreach(iter, lists[i])
			least = Min(least, dlist_container(SettleItem, link, iter.cur)->key.n);
	dlist_foreach(iter, &worker.confirmed)
		least = Min(least, dlist_container(SettleItem, link, iter.cur)->key.n);
	return least;
}

uint64
outcomes_horizon(Channel *channel)
{
	uint64		horizon = worker.ended_below;
	dlist_iter	iter;

	dlist_foreach(iter, &worker.channels)
	{
		Channel    *other = dlist_container(Channel, link, iter.cur);

		if (may_share_node(channel, other))
			horizon = least_open(other, horizon);
		if (horizon == 0)
			break;
	}
	return horizon;
}

/* A row was removed in a transaction that commits without waiting for the flush. */
static void
note_removal(Channel *channel, uint64 n)
{
	int			i = channel->removed_n[0] == 0 ? 0 : 1;

	channel->removed_n[i] = channel->removed_n[i] == 0 ? n : Min(channel->removed_n[i], n);
	channel->removed_lsn[i] = GetXLogInsertRecPtr();
}

/* Forget history that is older than dtx.history_retention, and remember that. */
void
outcomes_prune(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz limit;
	OwnScan		scan;
	HeapTuple	tuple;
	uint64		forgotten = 0;
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (now < next_prune)
		return;
	next_prune = TimestampTzPlusMilliseconds(now, PRUNE_INTERVAL);
	worker_begin();
	if (tombstones_prune())
		next_prune = now;
	worker_commit(false);
	if (guc_history_retention < 0)
		return;
	limit = TimestampTzPlusMilliseconds(now, -(int64) guc_history_retention * 1000);

	worker_begin();
	own_scan_all(&scan, OWN_HISTORY, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (DatumGetTimestampTz(own_column(&scan, tuple, Anum_history_settled_at, NULL)) >= limit)
			continue;
		/* an N that was not handed out yet came from a peer, or was lost in a crash */
		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_max_n, NULL)) < next)
			forgotten = Max(forgotten, (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_max_n, NULL)) + 1);
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
	resolutions_prune(limit);
	if (forgotten > 0)
	{
		own_scan_all(&scan, OWN_NODE, RowExclusiveLock);
		while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		{
			Datum		values[Natts_node] = {0};
			bool		nulls[Natts_node] = {0};
			bool		replace[Natts_node] = {0};

			if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_node_memory_from, NULL)) >= forgotten)
				continue;
			values[Anum_node_memory_from - 1] = Int64GetDatum((int64) forgotten);
			replace[Anum_node_memory_from - 1] = true;
			own_update(&scan, tuple, values, nulls, replace);
		}
		CacheInvalidateRelcache(scan.rel);
		own_scan_end(&scan);
	}
	worker_commit(false);
}
