/*
 * link.c
 *		Connections of the worker's.
 */
#include "postgres.h"

#include <poll.h>

#include "access/xact.h"
#include "core/node.h"
#include "guc.h"
#include "miscadmin.h"
#include "net/peer.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/link.h"
#include "worker/worker.h"

#define CALL_TIMEOUT	30000	/* ms, where dtx.call_timeout sets none */

void
link_init(Link *link, Oid server, Oid role)
{
	memset(link, 0, sizeof(Link));
	link->server = server;
	link->role = role;
	link->call_context = AllocSetContextCreate(worker.context, "dtx call", ALLOCSET_SMALL_SIZES);
}

void
link_close(Link *link)
{
	remote_free(&link->call);
	if (link->pc != NULL)
		connection_close(link->pc);
	link->pc = NULL;
	link->state = LINK_CLOSED;
}

bool
link_is_stale(Link *link)
{
	/* whatever comes unasked for is read: the socket is waited at */
	return link->pc->invalidated || connection_is_dead(link->pc);
}

/* --- calls --- */

RemoteCall *
link_new_call(Link *link, int nstatements)
{
	remote_free(&link->call);
	MemoryContextReset(link->call_context);
	memset(&link->call, 0, sizeof(link->call));
	link->call.nstatements = nstatements;
	return &link->call;
}

void
link_set_statement(Link *link, int i, const char *sql, int nparams, const char *const *values)
{
	link->call.statements[i].sql = sql;
	link->call.statements[i].nparams = nparams;
	link->call.statements[i].values = values;
}

static void
start(Link *link, LinkState state, int timeout)
{
	if (timeout == 0)
		timeout = guc_call_timeout > 0 ? guc_call_timeout : CALL_TIMEOUT;
	link->call.pc = link->pc;
	link->state = state;
	link->last_used = GetCurrentTimestamp();
	link->deadline = TimestampTzPlusMilliseconds(link->last_used, timeout);
	remote_start(&link->call);
}

void
link_start_call(Link *link, int timeout)
{
	start(link, LINK_CALLING, timeout);
}

/* --- connecting --- */

char *
link_refused(Link *link)
{
	char	   *why;

	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	why = peer_refused(link->server, link->role);
	worker_commit(false);
	return why;
}

char *
link_connect(Link *link)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile error = NULL;

	worker_begin();
	PG_TRY();
	{
		link->pc = connection_start(link->server, link->role);
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
		return error;
	if (connection_has_failed(link->pc))
		return connection_error(link->pc);
	link->state = LINK_CONNECTING;
	link->polling = link->pc->conn == NULL ? PGRES_POLLING_READING : PGRES_POLLING_WRITING;
	link->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), guc_connect_timeout);
	return NULL;
}

static void
start_greeting(Link *link)
{
	RemoteCall *call = link_new_call(link, 1);
	const char **values = MemoryContextAlloc(link->call_context, sizeof(char *));

	values[0] = CppAsString2(DTX_PROTOCOL_VERSION);
	link_set_statement(link, 0, HELLO_SQL, 1, values);
	call->statements[0].once = true;
	start(link, LINK_GREETING, 0);
}

static LinkEvent
go_on_connecting(Link *link, char **why)
{
	struct pollfd fd = {0};

	/* libpq wants to be called only when the socket is ready */
	fd.fd = connection_socket(link->pc);
	fd.events = link->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
	if (fd.fd != PGINVALID_SOCKET && poll(&fd, 1, 0) <= 0)
	{
		if (GetCurrentTimestamp() < link->deadline)
			return LINK_NOTHING;
		*why = pstrdup("could not connect within dtx.connect_timeout");
		return LINK_FAILED;
	}
	link->polling = connection_poll(link->pc);
	if (link->polling == PGRES_POLLING_FAILED)
	{
		*why = connection_error(link->pc);
		return LINK_FAILED;
	}
	if (link->polling == PGRES_POLLING_OK)
	{
		if (!connection_password_ok(link->pc))
		{
			*why = pstrdup("password is required: the server did not ask for the user mapping's");
			return LINK_FAILED;
		}
		link->pc->in_flight = false;
		start_greeting(link);
	}
	return LINK_NOTHING;
}

static LinkEvent
greeting_answered(Link *link, char **why)
{
	PGresult   *result = link->call.results[0];

	if (link->call.broken || link->call.error != NULL)
		*why = remote_error_text(&link->call);
	else if (!remote_has_rows(&link->call, 0, 1, 4))
		*why = pstrdup("the peer gave an unexpected answer");
	else if (atoi(PQgetvalue(result, 0, 1)) != DTX_PROTOCOL_VERSION)
		*why = pstrdup("the peer speaks another version of dtx's protocol");
	else if (PQgetvalue(result, 0, 3)[0] == 't')
		*why = pstrdup("the peer is in recovery");
	else
	{
		PeerConnection *pc = link->pc;

		strlcpy(pc->peer_node, remote_id(PQgetvalue(result, 0, 0), sizeof(pc->peer_node) - 1),
				sizeof(pc->peer_node));
		strlcpy(pc->peer_version, remote_text(PQgetvalue(result, 0, 2), sizeof(pc->peer_version) - 1),
				sizeof(pc->peer_version));
		link->state = LINK_IDLE;
		link->last_used = GetCurrentTimestamp();
		remote_free(&link->call);
		return LINK_READY;
	}
	return LINK_FAILED;
}

LinkEvent
link_step(Link *link, char **why)
{
	switch (link->state)
	{
		case LINK_CONNECTING:
			return go_on_connecting(link, why);
		case LINK_GREETING:
		case LINK_CALLING:
			if (remote_advance(&link->call))
			{
				if (link->state == LINK_GREETING)
					return greeting_answered(link, why);
				link->state = LINK_IDLE;
				link->last_used = GetCurrentTimestamp();
				return LINK_ANSWERED;
			}
			if (GetCurrentTimestamp() < link->deadline)
				return LINK_NOTHING;
			*why = pstrdup("the peer did not answer in time");
			return link->state == LINK_GREETING ? LINK_FAILED : LINK_TIMED_OUT;
		default:
			return LINK_NOTHING;
	}
}

uint32
link_events(Link *link)
{
	uint32		wanted;

	switch (link->state)
	{
		case LINK_CONNECTING:
			wanted = link->polling == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
			break;
		case LINK_GREETING:
		case LINK_CALLING:
			/* to flush is to notice that the connection has broken */
			wanted = remote_wants(&link->call);
			break;
		case LINK_IDLE:
			wanted = WL_SOCKET_READABLE;
			break;
		default:
			return 0;
	}
	return connection_socket(link->pc) == PGINVALID_SOCKET ? 0 : wanted;
}

TimestampTz
link_due(Link *link)
{
	if (link->state != LINK_CONNECTING && link->state != LINK_GREETING && link->state != LINK_CALLING)
		return 0;
	return connection_socket(link->pc) == PGINVALID_SOCKET ? GetCurrentTimestamp() : link->deadline;
}
