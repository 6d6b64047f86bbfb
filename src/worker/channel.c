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

#include <poll.h>

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
#define CALL_TIMEOUT		30000	/* ms, where dtx.call_timeout sets none */
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
	channel->call_context = AllocSetContextCreate(worker.context, "dtx call", ALLOCSET_SMALL_SIZES);
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
	remote_free(&channel->call);
	if (channel->pc != NULL)
		connection_close(channel->pc);
	channel->pc = NULL;
	channel->greeted = false;
	channel->state = CHANNEL_CLOSED;
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

	switch (channel->state)
	{
		case CHANNEL_CONNECTING:
		case CHANNEL_CALLING:
			return PQsocket(channel->pc->conn) == PGINVALID_SOCKET ? now : channel->call_deadline;
		default:
			break;
	}
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

uint32
channel_events(Channel *channel)
{
	switch (channel->state)
	{
		case CHANNEL_CONNECTING:
			return PQsocket(channel->pc->conn) == PGINVALID_SOCKET ? 0 :
				channel->polling == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		case CHANNEL_CALLING:
			{
				uint32		wanted = remote_wants(&channel->call);

				/* to flush is to notice that the connection has broken */
				return PQsocket(channel->pc->conn) == PGINVALID_SOCKET ? 0 : wanted;
			}
		default:
			return 0;
	}
}

/* --- calls --- */

static void
start_call(Channel *channel, ChannelCall kind)
{
	int			timeout = guc_call_timeout > 0 ? guc_call_timeout : CALL_TIMEOUT;

	channel->calling = kind;
	channel->call.pc = channel->pc;
	channel->state = CHANNEL_CALLING;
	channel->call_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	channel->last_used = GetCurrentTimestamp();
	remote_start(&channel->call);
}

/* An empty call; what it needs is allocated in the channel's context. */
static RemoteCall *
new_call(Channel *channel, int nstatements)
{
	remote_free(&channel->call);
	MemoryContextReset(channel->call_context);
	memset(&channel->call, 0, sizeof(channel->call));
	channel->call.nstatements = nstatements;
	return &channel->call;
}

static void
set_statement(RemoteCall *call, int i, const char *sql, int nparams, const char *const *values)
{
	call->statements[i].sql = sql;
	call->statements[i].nparams = nparams;
	call->statements[i].values = values;
}

static void
start_greeting(Channel *channel)
{
	RemoteCall *call = new_call(channel, 1);
	const char **values = MemoryContextAlloc(channel->call_context, sizeof(char *));

	values[0] = CppAsString2(DTX_PROTOCOL_VERSION);
	set_statement(call, 0, HELLO_SQL,
				  1, values);
	call->statements[0].once = true;
	start_call(channel, CALL_GREET);
}

static void
start_pending(Channel *channel)
{
	RemoteCall *call = new_call(channel, 1);
	MemoryContext old;
	List	   *ids;
	const char **items;
	const char **values;
	ListCell   *cell;
	int			n = 0;

	worker_begin();
	old = MemoryContextSwitchTo(channel->call_context);
	ids = node_all_ids();
	items = palloc(list_length(ids) * sizeof(char *));
	foreach(cell, ids)
		items[n++] = lfirst(cell);
	values = palloc(2 * sizeof(char *));
	values[0] = text_array_literal(items, n);
	values[1] = psprintf("%u", node_timeline());
	MemoryContextSwitchTo(old);
	worker_commit(false);
	set_statement(call, 0, "SELECT gid, n, node FROM dtx.branch_pending($1::pg_catalog.text[], $2::pg_catalog.int4)", 2, values);
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
	RemoteCall *call = new_call(channel, 3);
	MemoryContext old = MemoryContextSwitchTo(channel->call_context);
	SettleRequest *requests;
	const char **values;
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0,
				rollbacks = 0;
	bool		gated = false;
	dlist_mutable_iter iter;

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
	MemoryContextSwitchTo(channel->call_context);
	values = settle_parameters(node_all_ids(), outcomes_horizon(channel), requests, n);
	worker_commit(false);
	MemoryContextSwitchTo(old);
	set_statement(call, 0, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", 0, NULL);
	set_statement(call, 1, SETTLE_SQL, SETTLE_PARAMS, values);
	set_statement(call, 2, "COMMIT", 0, NULL);
	channel->settle_due = TimestampTzPlusMilliseconds(now, guc_settle_delay);
	DTX_FAULT_POINT("worker-before-settle");
	start_call(channel, CALL_SETTLE);
}

static void
start_flush(Channel *channel)
{
	RemoteCall *call = new_call(channel, 1);

	set_statement(call, 0, "SELECT dtx.branch_flush()", 0, NULL);
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
	PGresult   *result = channel->call.results[1];
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
						 errdetail("%s", detail)));
				stat_add(STAT_HEURISTIC_CONFLICTS, 1);
				give_up(channel, item);
			}
			else if (!item->commit && strcmp(outcome, SETTLE_LOST) == 0)
			{
				ereport(WARNING,
						(errmsg("branch \"%s\" was to be rolled back, and had been settled with commit at the participant", item->gid),
						 errdetail("%s", detail)));
				give_up(channel, item);
			}
			else if (!item->commit && !item->has_row && strcmp(outcome, SETTLE_DENIED) == 0)
				item_drop(item);	/* the channel of its own role asks for it */
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

static void
greeting_answered(Channel *channel)
{
	PGresult   *result = channel->call.results[0];

	if (atoi(PQgetvalue(result, 0, 1)) != DTX_PROTOCOL_VERSION)
	{
		channel_failed(channel, "the peer speaks another version of dtx's protocol");
		return;
	}
	if (PQgetvalue(result, 0, 3)[0] == 't')
	{
		channel_failed(channel, "the peer is in recovery");
		return;
	}
	strlcpy(channel->pc->peer_node, remote_text(PQgetvalue(result, 0, 0), sizeof(channel->pc->peer_node) - 1),
			sizeof(channel->pc->peer_node));
	strlcpy(channel->pc->peer_version, remote_text(PQgetvalue(result, 0, 2), sizeof(channel->pc->peer_version) - 1),
			sizeof(channel->pc->peer_version));
	strlcpy(channel->node, channel->pc->peer_node, sizeof(channel->node));
	channel->greeted = true;
	channel->state = CHANNEL_IDLE;
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
	recovery_decide(channel, channel->call.results[0]);
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

	worker_begin();
	item_failed(channel, item, why);
	worker_commit(false);
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
	const char *state = channel->call.error == NULL ? NULL :
		PQresultErrorField(channel->call.error, PG_DIAG_SQLSTATE);
	int			n = count_called(channel);

	/* a server that shuts down, or a lost connection, is no branch's fault */
	if (channel->calling != CALL_SETTLE || state == NULL ||
		strncmp(state, "57P", 3) == 0 || strncmp(state, "08", 2) == 0)
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
	channel->state = CHANNEL_IDLE;
	channel->last_used = GetCurrentTimestamp();
	if (channel->call.broken || channel->call.error != NULL)
	{
		if (channel->call.error != NULL && remote_failed_on_statement(&channel->call))
		{
			/* nothing was done; say it again, but not for ever */
			if (++channel->lost_statements > 3)
			{
				channel_failed(channel, remote_error_text(&channel->call));
				return;
			}
			remote_free(&channel->call);
			take_back(channel);
			return;
		}
		if (!isolate_failure(channel, remote_error_text(&channel->call)))
			channel_failed(channel, remote_error_text(&channel->call));
		return;
	}
	if (!answer_is_sane(channel))
	{
		channel_failed(channel, "the peer gave an unexpected answer");
		return;
	}
	switch (channel->calling)
	{
		case CALL_GREET:
			greeting_answered(channel);
			break;
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
	remote_free(&channel->call);
}

/* --- steps --- */

static void
start_connecting(Channel *channel)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile error = NULL;

	worker_begin();
	/* nothing of it can be pending: that would have kept it from being dropped */
	if (channel->nqueued == 0 && !contact_is_alive(channel->server, channel->role))
	{
		contact_forget(channel);
		worker_commit(false);
		channel->gone = channel->recovered = true;
		return;
	}
	PG_TRY();
	{
		channel->pc = connection_start(channel->server, channel->role);
		worker_commit(false);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		error = edata->message;
	}
	PG_END_TRY();
	if (error != NULL)
	{
		channel_failed(channel, error);
		return;
	}
	if (channel->pc->conn == NULL || PQstatus(channel->pc->conn) == CONNECTION_BAD)
	{
		channel_failed(channel, channel->pc->conn == NULL ? "out of memory" :
					   pchomp(PQerrorMessage(channel->pc->conn)));
		return;
	}
	channel->state = CHANNEL_CONNECTING;
	channel->polling = PGRES_POLLING_WRITING;
	channel->call_deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_connect_timeout);
}

static void
go_on_connecting(Channel *channel)
{
	struct pollfd fd = {0};

	/* libpq wants to be called only when the socket is ready */
	fd.fd = PQsocket(channel->pc->conn);
	fd.events = channel->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
	if (poll(&fd, 1, 0) <= 0)
	{
		if (GetCurrentTimestamp() >= channel->call_deadline)
			channel_failed(channel, "could not connect within dtx.connect_timeout");
		return;
	}
	channel->polling = connection_poll(channel->pc);
	if (channel->polling == PGRES_POLLING_FAILED)
		channel_failed(channel, pchomp(PQerrorMessage(channel->pc->conn)));
	else if (channel->polling == PGRES_POLLING_OK)
	{
		if (!connection_password_ok(channel->pc))
		{
			channel_failed(channel, "password is required: the server did not ask for the user mapping's");
			return;
		}
		channel->pc->in_flight = false;
		channel->state = CHANNEL_IDLE;
	}
}

static void
start_next_call(Channel *channel)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = 0;
	bool		settle = has_due_item(channel, now, &next);

	if (!channel->greeted)
		start_greeting(channel);
	else if (now >= recovery_due(channel))
		start_pending(channel);
	else if (settle)
		start_settle(channel);
	else if (!dlist_is_empty(&channel->answered) && now >= flush_due(channel))
		start_flush(channel);
	else if (dlist_is_empty(&channel->answered) &&
			 now >= TimestampTzPlusMilliseconds(channel->last_used, IDLE_CLOSE))
		channel_close(channel);
}

void
channel_step(Channel *channel)
{
	ChannelState before;

	/* as long as a step leads somewhere, take the next */
	do
	{
		before = channel->state;
		switch (channel->state)
		{
			case CHANNEL_CLOSED:
				if (!channel->gone && GetCurrentTimestamp() >= channel->not_before &&
					wants_connection(channel, GetCurrentTimestamp()))
					start_connecting(channel);
				break;
			case CHANNEL_CONNECTING:
				go_on_connecting(channel);
				break;
			case CHANNEL_IDLE:
				if (channel->pc->invalidated || connection_is_dead(channel->pc))
					channel_close(channel);
				else
					start_next_call(channel);
				break;
			case CHANNEL_CALLING:
				if (remote_advance(&channel->call))
					call_ended(channel);
				else if (GetCurrentTimestamp() >= channel->call_deadline)
					call_timed_out(channel);
				break;
		}
	} while (channel->state != before);
}
