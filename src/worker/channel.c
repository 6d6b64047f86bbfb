/*
 * channel.c
 *		A worker's dealings with one (server, role): connect, ask, settle.
 *
 * A settled branch is not yet finished: the participant commits settlements
 * without waiting for the flush, and could lose them in a crash. Its answers
 * carry log positions. What one call settled lies before the position that the
 * next call reports as written, and is durable when that position is. When no
 * next call comes soon, a call that flushes takes its place.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/node.h"
#include "core/settle.h"
#include "guc.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

#define FLUSH_DELAY			100		/* ms without a call until a flush is sent */
#define IDLE_CLOSE			5000	/* ms without work until a connection is closed */
#define BUSY_DELAY			5		/* ms until what was busy is tried again, doubling to 640 */
#define REPLICATION_POLL	20		/* ms between looks at a standby's progress */
#define MAX_ROLLBACKS		(DTX_ROLLING_BACK / 2)	/* in one call */

Channel *
channel_get(Oid server, Oid role)
{
	Channel    *channel;
	dlist_iter	iter;

	dlist_foreach(iter, &worker.channels)
	{
		channel = dlist_container(Channel, link, iter.cur);
		if (channel->server == server && channel->role == role)
			return channel;
	}
	channel = MemoryContextAllocZero(worker.context, sizeof(Channel));
	channel->server = server;
	channel->role = role;
	link_init(&channel->connection, server, role);
	dlist_init(&channel->queue);
	dlist_init(&channel->called);
	dlist_init(&channel->answered);
	dlist_push_tail(&worker.channels, &channel->link);
	return channel;
}

/* Put back what is not known to be done, in its order. */
static void
take_back(Channel *channel)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &channel->called)
		item_requeue(channel, dlist_container(SettleItem, link, iter.cur), 0);
	dlist_foreach_modify(iter, &channel->answered)
		item_requeue(channel, dlist_container(SettleItem, link, iter.cur), 0);
	channel->positions[0] = channel->positions[1] = InvalidXLogRecPtr;
}

void
channel_close(Channel *channel)
{
	link_close(&channel->connection);
	take_back(channel);
}

static void
channel_failed(Channel *channel, const char *why)
{
	/* libpq quotes what it did not understand */
	char	   *message = MemoryContextStrdup(worker.context, remote_text(why, 900));

	channel_close(channel);
	channel->failures++;
	channel->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  backoff_delay(channel->failures));
	stat_add(STAT_SETTLE_RETRIES, 1);
	contact_record(channel, message, channel->not_before);
	channel->failure_recorded = true;
	pfree(message);
}

/* May the item be sent now? A commit has to be as durable as it is meant to be. */
static bool
item_is_due(const SettleItem *item, TimestampTz now, bool *gated)
{
	if (item->next_attempt > now)
		return false;
	if (item->commit && dtx_waits_for_standbys() &&
		durable_position() < item->decided_at)
	{
		*gated = true;
		return false;
	}
	return true;
}

static bool
has_due_item(Channel *channel, TimestampTz now, TimestampTz *next)
{
	dlist_iter	iter;
	bool		gated = false;

	if (now < channel->settle_due && !channel->hurry &&
		channel->nqueued < guc_settle_batch)
	{
		if (channel->nqueued > 0)
			*next = channel->settle_due;
		return false;
	}
	dlist_foreach(iter, &channel->queue)
	{
		SettleItem *item = dlist_container(SettleItem, link, iter.cur);

		if (item_is_due(item, now, &gated))
			return true;
		if (item->next_attempt > now && (*next == 0 || item->next_attempt < *next))
			*next = item->next_attempt;
	}
	if (gated)
		*next = TimestampTzPlusMilliseconds(now, REPLICATION_POLL);
	return false;
}

static TimestampTz
flush_due(Channel *channel)
{
	return dlist_is_empty(&channel->answered) ? 0 :
		TimestampTzPlusMilliseconds(channel->answered_at, FLUSH_DELAY);
}

/* When the peer is to be asked for branches in doubt. */
static TimestampTz
recovery_due(Channel *channel)
{
	return channel->asked_at == 0 ? 0 :
		TimestampTzPlusMilliseconds(channel->asked_at,
									(int64) (guc_recovery_interval * channel->jitter));
}

static bool
wants_connection(Channel *channel, TimestampTz now)
{
	TimestampTz next = 0;

	return now >= recovery_due(channel) || has_due_item(channel, now, &next);
}

TimestampTz
channel_due(Channel *channel)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = 0;

	next = link_due(&channel->connection);
	if (next != 0)
		return next;
	if (channel->gone)
		return 0;
	if (now < channel->not_before)
		return channel->not_before;
	if (has_due_item(channel, now, &next))
		return now;
	if (next == 0 || recovery_due(channel) < next)
		next = recovery_due(channel);
	if (!dlist_is_empty(&channel->answered) && flush_due(channel) < next)
		next = flush_due(channel);
	return next;
}

/* --- calls --- */

static void
start_call(Channel *channel, ChannelCall kind)
{
	channel->calling = kind;
	link_start_call(&channel->connection, 0);
}

static void
start_pending(Channel *channel)
{
	Link	   *link = &channel->connection;
	MemoryContext old;
	List	   *ids;
	const char **items;
	const char **values;
	ListCell   *cell;
	int			n = 0;

	(void) link_new_call(link, 3);
	worker_begin();
	old = MemoryContextSwitchTo(link->call_context);
	ids = node_all_ids();
	items = palloc(list_length(ids) * sizeof(char *));
	foreach(cell, ids)
		items[n++] = lfirst(cell);
	values = palloc(2 * sizeof(char *));
	values[0] = text_array_literal(items, n);
	values[1] = psprintf("%u", node_timeline());
	MemoryContextSwitchTo(old);
	worker_commit(false);
	link_set_statement(link, 0, BEGIN_SQL, 0, NULL);
	link_set_statement(link, 1, "SELECT gid, n, node, resolved FROM dtx.branch_pending($1::pg_catalog.text[], $2::pg_catalog.int4)", 2, values);
	link_set_statement(link, 2, "COMMIT", 0, NULL);
	start_call(channel, CALL_PENDING);
}

/* Put a queued item into the call that is being made. */
static void
call_item(Channel *channel, SettleItem *item)
{
	dlist_delete(&item->link);
	channel->nqueued--;
	item->state = ITEM_CALLED;
	dlist_push_tail(&channel->called, &item->link);
}

/*
 * Branches of one global transaction that are to be rolled back go together,
 * due or not: they are undone in their order, last first. At most that many
 * more. Returns their number.
 */
static int
call_siblings(Channel *channel, int most)
{
	int			n = 0;
	dlist_iter	outer;
	dlist_mutable_iter inner;

	dlist_foreach(outer, &channel->called)
	{
		SettleItem *called = dlist_container(SettleItem, link, outer.cur);

		if (called->commit)
			continue;
		dlist_foreach_modify(inner, &channel->queue)
		{
			SettleItem *item = dlist_container(SettleItem, link, inner.cur);

			if (n >= most || item->commit || item->key.n != called->key.n || item->key.r != called->key.r)
				continue;
			call_item(channel, item);
			n++;
		}
	}
	return n;
}

static void
start_settle(Channel *channel)
{
	Link	   *link = &channel->connection;
	MemoryContext old = MemoryContextSwitchTo(link->call_context);
	SettleRequest *requests;
	const char **values;
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0,
				rollbacks = 0;
	bool		gated = false;
	dlist_mutable_iter iter;

	(void) link_new_call(link, 3);
	dlist_foreach_modify(iter, &channel->queue)
	{
		SettleItem *item = dlist_container(SettleItem, link, iter.cur);

		if (n == (channel->singles > 0 ? 1 : guc_settle_batch))
			break;
		if (!item_is_due(item, now, &gated) || (!item->commit && rollbacks == MAX_ROLLBACKS))
			continue;
		rollbacks += !item->commit;
		call_item(channel, item);
		n++;
	}
	/* alone means alone: siblings before it are answered busy, and wait */
	if (channel->singles > 0)
		channel->singles--;
	else
		n += call_siblings(channel, guc_settle_batch);
	requests = palloc0(n * sizeof(SettleRequest));
	n = 0;
	dlist_foreach_modify(iter, &channel->called)
	{
		SettleItem *item = dlist_container(SettleItem, link, iter.cur);

		requests[n].gid = item->gid;
		requests[n].commit = item->commit;
		requests[n].mode = item->mode;
		requests[n++].n = item->nested ? item->key.n : 0;
	}
	worker_begin();
	MemoryContextSwitchTo(link->call_context);
	values = settle_parameters(node_all_ids(), outcomes_horizon(channel), requests, n);
	worker_commit(false);
	MemoryContextSwitchTo(old);
	link_set_statement(link, 0, BEGIN_SQL, 0, NULL);
	link_set_statement(link, 1, SETTLE_SQL, SETTLE_PARAMS, values);
	link_set_statement(link, 2, "COMMIT", 0, NULL);
	channel->settle_due = TimestampTzPlusMilliseconds(now, guc_settle_delay);
	DTX_FAULT_POINT("worker-before-settle");
	start_call(channel, CALL_SETTLE);
}

static void
start_flush(Channel *channel)
{
	Link	   *link = &channel->connection;

	(void) link_new_call(link, 1);
	link_set_statement(link, 0, "SELECT dtx.branch_flush()", 0, NULL);
	start_call(channel, CALL_FLUSH);
}

/* --- answers --- */

/* What was settled by the answers up to that ordinal is durable at the peer. */
static void
confirm(Channel *channel, uint64 answer)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &channel->answered)
	{
		SettleItem *	item = dlist_container(SettleItem, link, iter.cur);

		if (item->answer > answer)
			break;
		dlist_delete(&item->link);
		item->state = ITEM_CONFIRMED;
		item->answer = 0;
		dlist_push_tail(&worker.confirmed, &item->link);
		worker.nconfirmed++;
	}
}

/* The participant has ended it another way, for good: history tells so. */
static void
give_up(Channel *channel, SettleItem *item)
{
	dlist_delete(&item->link);
	item->state = ITEM_ANSWERED;
	item->heuristic = true;
	item->answer = channel->answers;
	dlist_push_tail(&channel->answered, &item->link);
}

static void
settle_answered(Channel *channel)
{
	PGresult   *result = channel->connection.call.results[1];
	int			row = 0;
	int			last = PQntuples(result) - 1;
	XLogRecPtr	written,
				durable;
	bool		in_transaction = false;
	dlist_mutable_iter iter;

	DTX_FAULT_POINT("worker-after-settle");
	channel->answers++;
	dlist_foreach_modify(iter, &channel->called)
	{
		SettleItem *	item = dlist_container(SettleItem, link, iter.cur);
		const char *outcome = row < last ? PQgetvalue(result, row, 0) : SETTLE_FAILED;
		const char *detail = row < last ? PQgetvalue(result, row, 1) : "no answer";

		row++;
		if (strcmp(outcome, SETTLE_SETTLED) == 0)
		{
			dlist_delete(&item->link);
			item->state = ITEM_ANSWERED;
			item->answer = channel->answers;
			dlist_push_tail(&channel->answered, &item->link);
		}
		else if (strcmp(outcome, SETTLE_BUSY) == 0)
		{
			/* somebody is at it, or has the rows: mostly for a moment */
			item->busy = Min(item->busy + 1, 9);
			if (item->busy == 8 && detail[0] != '\0')
			{
				/* not for a moment: let it be seen, once */
				if (!in_transaction)
					worker_begin();
				in_transaction = true;
				(void) item_record_failure(item, remote_text(detail, 900));
			}
			item_requeue(channel, item, BUSY_DELAY << Min(item->busy - 1, 7));
		}
		else
		{
			char		message[1024];

			if (!in_transaction)
				worker_begin();
			in_transaction = true;
			snprintf(message, sizeof(message), "%s: %s", remote_text(outcome, 20), remote_text(detail, 900));
			if (strcmp(outcome, SETTLE_HEURISTIC) == 0)
			{
				ereport(WARNING,
						(errmsg("heuristic conflict: branch \"%s\" was to be %s", item->gid,
								item->commit ? "committed" : "rolled back"),
						 errdetail_internal("%s", remote_text(detail, 900))));
				stat_add(STAT_HEURISTIC_CONFLICTS, 1);
				give_up(channel, item);
			}
			else if (!item->commit && strcmp(outcome, SETTLE_LOST) == 0)
			{
				ereport(WARNING,
						(errmsg("branch \"%s\" was to be rolled back, and had been settled with commit at the participant", item->gid),
						 errdetail_internal("%s", remote_text(detail, 900))));
				give_up(channel, item);
			}
			else if (!item->commit && !item->has_row && strcmp(outcome, SETTLE_DENIED) == 0)
				item_drop(item);	/* the channel of its own role asks for it */
			else if (strcmp(outcome, SETTLE_DENIED) == 0)
				item_denied(channel, item, message);
			else
				item_failed(channel, item, message);
		}
	}
	if (in_transaction)
		worker_commit(false);

	written = DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(PQgetvalue(result, last, 2))));
	durable = DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(PQgetvalue(result, last, 3))));
	/* positions[0]: reported by the call before this one; [1]: by this one */
	channel->positions[0] = channel->positions[1];
	channel->positions[1] = written;
	if (channel->answers > 1 && durable >= written)
		confirm(channel, channel->answers - 1);
	else if (channel->answers > 2 && channel->positions[0] != InvalidXLogRecPtr &&
			 durable >= channel->positions[0])
		confirm(channel, channel->answers - 2);
	channel->answered_at = GetCurrentTimestamp();
	channel->hurry = strcmp(PQgetvalue(result, last, 0), SETTLE_AWAITED) == 0;
	stat_add(STAT_SETTLE_CALLS, 1);
}

/* A call beyond the greeting succeeded: the peer is well. */
static void
note_success(Channel *channel)
{
	if (channel->failures > 0 || channel->failure_recorded)
		contact_record(channel, NULL, 0);
	channel->failures = 0;
	channel->failure_recorded = false;
	channel->lost_statements = 0;
}

static void
pending_answered(Channel *channel)
{
	recovery_decide(channel, channel->connection.call.results[1]);
	channel->recovered = true;
	channel->asked_at = GetCurrentTimestamp();
	channel->jitter = 0.9 + 0.2 * pg_prng_double(&pg_global_prng_state);
	contact_record(channel, NULL, 0);
	stat_add(STAT_RECOVERY_PASSES, 1);
}

static int
count_called(Channel *channel)
{
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &channel->called)
		n++;
	return n;
}

static void
record_single_failure(Channel *channel, const char *why)
{
	SettleItem *item = dlist_container(SettleItem, link, dlist_head_node(&channel->called));
	bool		shown = item->commit || item->has_row;

	worker_begin();
	item_failed(channel, item, why);
	worker_commit(false);
	/* the participant's row of it says nothing: its transaction was undone */
	if (!shown)
	{
		contact_record(channel, why, item->next_attempt);
		channel->failure_recorded = true;
	}
}

/* No answer in time: the peer hangs, or one branch's functions take too long. */
static void
call_timed_out(Channel *channel)
{
	int			n = count_called(channel);

	if (channel->calling == CALL_SETTLE && n > 1)
		channel->singles = n;
	else if (channel->calling == CALL_SETTLE && n == 1)
		record_single_failure(channel, "the peer did not answer in time");
	channel_failed(channel, "the peer did not answer in time");
}

/*
 * The call failed as a whole, by a deferred constraint for example, which fails
 * at the commit: some branch's own functions are to blame. Each is sent alone
 * next; the one that fails alone waits for its next attempt.
 */
static bool
isolate_failure(Channel *channel, const char *why)
{
	const char *state = channel->connection.call.error == NULL ? NULL :
		PQresultErrorField(channel->connection.call.error, PG_DIAG_SQLSTATE);
	int			n = count_called(channel);

	/* a server that shuts down, or a lost connection, is no branch's fault */
	if (channel->calling != CALL_SETTLE || state == NULL || remote_session_ended(&channel->connection.call))
		return false;
	if (n > 1)
		channel->singles = n;
	else if (n == 1)
		record_single_failure(channel, pstrdup(why));
	/* the failed transaction is open at the peer: a new connection is simpler */
	channel_close(channel);
	return true;
}

static void
call_ended(Channel *channel)
{
	if (channel->connection.call.broken || channel->connection.call.error != NULL)
	{
		if (channel->connection.call.error != NULL && remote_failed_on_statement(&channel->connection.call))
		{
			/* nothing was done; say it again, but not for ever */
			if (++channel->lost_statements > 3)
			{
				channel_failed(channel, remote_error_text(&channel->connection.call));
				return;
			}
			remote_free(&channel->connection.call);
			take_back(channel);
			return;
		}
		if (!isolate_failure(channel, remote_error_text(&channel->connection.call)))
			channel_failed(channel, remote_error_text(&channel->connection.call));
		return;
	}
	if (!answer_is_sane(channel))
	{
		channel_failed(channel, "the peer gave an unexpected answer");
		return;
	}
	switch (channel->calling)
	{
		case CALL_PENDING:
			note_success(channel);
			pending_answered(channel);
			break;
		case CALL_SETTLE:
			note_success(channel);
			settle_answered(channel);
			break;
		case CALL_FLUSH:
			note_success(channel);
			confirm(channel, channel->answers);
			break;
	}
	remote_free(&channel->connection.call);
}

/* --- steps --- */

static void
start_connecting(Channel *channel)
{
	char	   *why;

	worker_begin();
	/* nothing of it can be pending: that would have kept it from being dropped */
	if (channel->nqueued == 0 && !contact_is_alive(channel->server, channel->role))
	{
		contact_forget(channel);
		worker_commit(false);
		channel->gone = channel->recovered = true;
		return;
	}
	worker_commit(false);
	why = link_connect(&channel->connection);
	if (why != NULL)
		channel_failed(channel, why);
}

static void
start_next_call(Channel *channel)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = 0;
	bool		settle = has_due_item(channel, now, &next);

	if (now >= recovery_due(channel))
		start_pending(channel);
	else if (settle)
		start_settle(channel);
	else if (!dlist_is_empty(&channel->answered) && now >= flush_due(channel))
		start_flush(channel);
	else if (dlist_is_empty(&channel->answered) &&
			 now >= TimestampTzPlusMilliseconds(channel->connection.last_used, IDLE_CLOSE))
		channel_close(channel);
}

void
channel_step(Channel *channel)
{
	LinkState	before;

	/* as long as a step leads somewhere, take the next */
	do
	{
		char	   *why;

		before = channel->connection.state;
		if ((before == LINK_CLOSED || before == LINK_IDLE) && worker.leave_by != 0)
			break;
		if (before == LINK_CLOSED)
		{
			if (!channel->gone && GetCurrentTimestamp() >= channel->not_before &&
				wants_connection(channel, GetCurrentTimestamp()))
				start_connecting(channel);
		}
		else if (before == LINK_IDLE)
		{
			if (link_is_stale(&channel->connection))
				channel_close(channel);
			else
				start_next_call(channel);
		}
		else
			switch (link_step(&channel->connection, &why))
			{
				case LINK_READY:
					strlcpy(channel->node, channel->connection.pc->peer_node, sizeof(channel->node));
					break;
				case LINK_ANSWERED:
					call_ended(channel);
					break;
				case LINK_TIMED_OUT:
					call_timed_out(channel);
					break;
				case LINK_FAILED:
					channel_failed(channel, why);
					break;
				case LINK_NOTHING:
					break;
			}
	} while (channel->connection.state != before);
}
